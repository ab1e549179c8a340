//! CONNECT and CONNECTED (STOMP 1.2 §Connecting).

use bytestring::ByteString;

use super::fault::{Fault, quoted};
use super::heart_beat::HeartBeat;
use super::{State, StompConnection};
use crate::connection::{Cause, Command, Connect, Connected, Output, Overlap, Secret};
use crate::model::Timestamp;
use crate::stomp::{Frame, FrameWriter, Version};

/// What CONNECTED says about us.
const SERVER: &str = concat!("polycast/", env!("CARGO_PKG_VERSION"));

/// The versions that a subprotocol stands for.
pub(super) fn versions(subprotocol: Option<&str>) -> &'static [Version] {
    match subprotocol {
        Some("v10.stomp") => &[Version::V1_0],
        Some("v11.stomp") => &[Version::V1_1],
        Some("v12.stomp") => &[Version::V1_2],
        _ => &Version::ALL,
    }
}

/// The highest version that both sides speak; a client that names none speaks 1.0 (STOMP 1.2
/// §Protocol Negotiation).
fn negotiate(accepted: Option<&str>, supported: &[Version]) -> Result<Version, Fault> {
    accepted
        .unwrap_or("1.0")
        .split(',')
        .filter_map(|text| Version::parse(text.trim()))
        .filter(|version| supported.contains(version))
        .max()
        .ok_or_else(|| Fault::version(supported))
}

impl StompConnection {
    /// Takes CONNECT or STOMP.
    pub(super) fn login(&mut self, frame: &Frame<'_>, out: &mut Output<'_>) -> Result<(), Fault> {
        if frame.header("receipt").is_some() {
            let detail = "CONNECT must not ask for a receipt: CONNECTED is the answer";
            return Err(Fault::protocol("Receipt not allowed", detail));
        }
        let accepted = frame.header("accept-version");
        let version = negotiate(accepted.as_deref(), self.versions)?;
        let mut heart_beat = HeartBeat::default();
        if version > Version::V1_0
            && let Some(value) = frame.header("heart-beat")
        {
            let (can, wants) = parse_heart_beat(&value)
                .ok_or_else(|| Fault::invalid("heart-beat", &value, "two numbers of ms: 0,0"))?;
            heart_beat = HeartBeat::agree(can, wants, &self.limits);
        }
        // STOMP 1.0 puts a space behind the colon in its examples.
        let text = |name: &str| {
            frame.header(name).map(|value| match version {
                Version::V1_0 => ByteString::from(value.trim_matches(' ')),
                _ => ByteString::from(&*value),
            })
        };
        let mut connect = Connect {
            protocol: version.name(),
            keep_alive_secs: heart_beat.receive_secs(),
            username: text("login"),
            password: text("passcode").map(ByteString::into_bytes),
            token: text("Authorization")
                .or_else(|| text("authorization"))
                .as_deref()
                .and_then(bearer),
            host: text("host"),
            in_flight: self.limits.in_flight,
            overlap: Overlap::Each,
            clean_start: true,
            ..Connect::default()
        };
        self.name_session(frame, text("client-id"), &mut connect)?;
        self.version = Some(version);
        self.decoder.set_version(version);
        self.heart_beat = heart_beat;
        self.state = State::Connecting;
        out.commands.push(Command::Connect(Box::new(connect)));
        Ok(())
    }

    /// With a `client-id` the session outlives the connection; without one it ends with it.
    fn name_session(
        &mut self,
        frame: &Frame<'_>,
        client_id: Option<ByteString>,
        connect: &mut Connect,
    ) -> Result<(), Fault> {
        let Some(client_id) = client_id.filter(|id| !id.is_empty()) else {
            return Ok(());
        };
        let max = self.limits.client_id_bytes;
        if client_id.len() > max {
            let detail = format!("client-id has at most {max} bytes");
            return Err(Fault::new(
                Cause::Refused,
                "Client identifier not valid",
                detail,
            ));
        }
        let expiry = match frame.header("session-expiry") {
            None => self.limits.session_expiry_v3_secs,
            Some(value) => value
                .parse()
                .map_err(|_| Fault::invalid("session-expiry", &value, "a number of seconds"))?,
        };
        connect.session_expiry_secs = expiry.min(self.limits.session_expiry_max_secs);
        connect.clean_start = false;
        connect.client_id = Some(client_id);
        self.durable = true;
        Ok(())
    }

    /// The broker let the client in.
    pub(super) fn connected(
        &mut self,
        connected: &Connected,
        now: Timestamp,
        out: &mut Output<'_>,
    ) {
        if self.state != State::Connecting {
            return;
        }
        let version = self.version.unwrap_or(Version::V1_0);
        let mut frame = FrameWriter::new("CONNECTED", self.version)
            .header("version", version.as_str())
            .header("server", SERVER)
            .header("session", &self.id)
            .header_if("user-name", connected.user.as_deref());
        if version > Version::V1_0 {
            frame = frame.header("heart-beat", &HeartBeat::offer(&self.limits));
        }
        if self.durable {
            let present = if connected.session_present {
                "true"
            } else {
                "false"
            };
            frame = frame.header("session-present", present);
        }
        self.state = State::Active;
        self.heart_beat.start(now);
        self.write(&frame.end(), now, out.outbox);
    }
}

/// The token of an `Authorization` header; other schemes than `Bearer` mean nothing here.
fn bearer(value: &str) -> Option<Secret> {
    let (scheme, token) = value.trim().split_once(' ')?;
    let token = token.trim();
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| Secret(token.as_bytes().to_vec().into()))
}

fn parse_heart_beat(value: &str) -> Option<(u64, u64)> {
    let (can, wants) = value.split_once(',')?;
    Some((can.trim().parse().ok()?, wants.trim().parse().ok()?))
}

/// Whether the beginning of an input can be a STOMP frame: only then is it worth waiting for the
/// rest of it.
pub(super) fn check_beginning(input: &[u8]) -> Result<(), Fault> {
    const LONGEST: usize = "DISCONNECT".len();
    let length = input
        .iter()
        .position(|byte| matches!(byte, b'\n' | b'\r'))
        .unwrap_or(input.len());
    let command = &input[..length];
    if length <= LONGEST && command.iter().all(u8::is_ascii_uppercase) {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&command[..length.min(64)]);
    let detail = format!("{} is not a STOMP command", quoted(&text));
    Err(Fault::of(Cause::Malformed, detail))
}
