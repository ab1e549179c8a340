//! Enhanced authentication with the one method `jwt`: the token is the authentication data
//! `[MQTT-4.12]`.
//!
//! It comes with CONNECT or, when that names the method alone, with AUTH after the broker has asked
//! for it; and a new one with AUTH whenever the client likes.

use bytes::Bytes;

use super::login::{Asked, Refused};
use super::{Client, Fault, Phase, protocol_error, reason};
use crate::connection::{Cause, Command, Connect as Login, Output, Refusal, Secret, Token};
use crate::model::Timestamp;
use crate::mqtt::packet::{Auth, Connect};
use crate::mqtt::properties::AuthProperties;
use crate::mqtt::{Decoded, Packet, ReasonCode, Side};

/// The name of the method.
pub(super) const METHOD: &str = "jwt";

/// A login that waits for its token.
#[derive(Debug)]
pub(super) struct Challenged {
    login: Box<Login>,
    asked: Box<Asked>,
}

/// The token of a CONNECT that names the method, if it brings one.
pub(super) fn token(connect: &Connect<'_>) -> Option<Secret> {
    connect.properties.authentication_method?;
    let data = connect.properties.authentication_data?;
    Some(Secret(Bytes::copy_from_slice(data)))
}

impl Client {
    /// Asks for the token `[MQTT-4.12.0-2]`.
    pub(super) fn challenge(&mut self, login: Box<Login>, asked: Box<Asked>, out: &mut Output<'_>) {
        let packet = Packet::Auth(Auth {
            reason: ReasonCode::ContinueAuthentication,
            properties: AuthProperties {
                authentication_method: Some(METHOD),
                ..AuthProperties::default()
            },
        });
        self.phase = Phase::Challenged(Box::new(Challenged { login, asked }));
        if !self.put(&packet, out.outbox) {
            out.end(
                Cause::TooLarge,
                "AUTH is larger than the client's maximum packet size",
            );
            self.phase = Phase::Over;
        }
    }

    /// Bytes of a client that was asked for its token: AUTH with it, or the end
    /// `[MQTT-4.12.0-3]`.
    pub(super) fn receive_token(&mut self, input: &[u8], out: &mut Output<'_>) -> usize {
        let limits = &self.limits;
        let max = limits.packet_bytes_before_login.min(limits.packet_bytes);
        let (code, detail) = match crate::mqtt::decode(input, self.version, Side::Server, max) {
            Ok(Decoded::NeedMore { .. }) => return 0,
            Ok(Decoded::Packet { packet, consumed }) => match packet {
                Packet::Auth(auth) if answers(&auth) => {
                    self.take_token(&auth, out);
                    return consumed;
                }
                Packet::Disconnect(_) => {
                    out.end(Cause::Normal, "the client said good-bye");
                    self.phase = Phase::Over;
                    return input.len();
                }
                _ => (
                    ReasonCode::ProtocolError,
                    "AUTH with a token was asked for".into(),
                ),
            },
            Err(error) => (error.reason(), error.to_string()),
        };
        self.put_refusal(code, &detail, out.outbox);
        out.end(reason::cause_of(code), detail);
        self.phase = Phase::Over;
        input.len()
    }

    fn take_token(&mut self, auth: &Auth<'_>, out: &mut Output<'_>) {
        let Phase::Challenged(held) = std::mem::replace(&mut self.phase, Phase::Over) else {
            return;
        };
        let Challenged { mut login, asked } = *held;
        let Some(data) = auth.properties.authentication_data else {
            let refused = Refused::new(ReasonCode::NotAuthorized, "AUTH brings no token");
            return self.refuse(&refused, out);
        };
        login.token = Some(Secret(Bytes::copy_from_slice(data)));
        self.ask(login, asked, out);
    }

    /// AUTH: new credentials `[MQTT-4.12.1-1]`.
    pub(super) fn handle_auth(
        &mut self,
        auth: &Auth<'_>,
        out: &mut Output<'_>,
    ) -> Result<(), Fault> {
        if !self.enhanced {
            // [MQTT-4.12.0-7]
            return Err(protocol_error(
                "AUTH without an authentication method in CONNECT",
            ));
        }
        if auth.reason != ReasonCode::ReAuthenticate {
            return Err(protocol_error("AUTH that answers nothing"));
        }
        // [MQTT-4.12.1-1]
        if auth.properties.authentication_method != Some(METHOD) {
            return Err(protocol_error(
                "AUTH with another authentication method than CONNECT",
            ));
        }
        let data = auth.properties.authentication_data.unwrap_or_default();
        out.commands.push(Command::Refresh {
            token: Token::default(),
            credentials: Secret(Bytes::copy_from_slice(data)),
        });
        Ok(())
    }

    /// Says that the new credentials are taken, or ends the connection `[MQTT-4.12.1-2]`.
    pub(super) fn handle_refreshed(
        &mut self,
        result: Result<Option<Timestamp>, Refusal>,
        out: &mut Output<'_>,
    ) {
        match result {
            Ok(_) => {
                let packet = Packet::Auth(Auth {
                    reason: ReasonCode::Success,
                    properties: AuthProperties {
                        authentication_method: Some(METHOD),
                        ..AuthProperties::default()
                    },
                });
                self.put(&packet, out.outbox);
            }
            Err(refusal) => self.fail(
                Fault {
                    code: ReasonCode::NotAuthorized,
                    cause: refusal.code.login_cause(),
                    detail: refusal.detail,
                },
                out,
            ),
        }
    }
}

/// Whether an AUTH goes on with what was begun `[MQTT-4.12.0-3]` `[MQTT-4.12.0-5]`.
fn answers(auth: &Auth<'_>) -> bool {
    auth.reason == ReasonCode::ContinueAuthentication
        && auth.properties.authentication_method == Some(METHOD)
}
