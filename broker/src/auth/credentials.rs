//! What a client brings to prove who it is, and why that may not be enough.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;
use bytestring::ByteString;
use protocols::connection::{Connect, Refusal, RefusalCode, Secret};

use super::Identity;

/// What is known of a connection before its client has said a word.
#[derive(Clone, Debug)]
pub struct Door {
    /// Where it comes from.
    pub peer: SocketAddr,
    /// Whether it came to a listener that only this machine reaches.
    pub on_loopback: bool,
    /// The user that a client certificate names, if the connection showed a valid one.
    pub certificate_user: Option<ByteString>,
    /// A token that came before the protocol: in the WebSocket's handshake.
    pub token: Option<Secret>,
    /// Who it is, if that was found out before it came here.
    pub identity: Option<Box<Identity>>,
}

impl Default for Door {
    /// A connection from this machine to itself.
    fn default() -> Self {
        Self {
            peer: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            on_loopback: true,
            certificate_user: None,
            token: None,
            identity: None,
        }
    }
}

/// All that a client says about itself. [`Debug`] shows no secrets.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Where the connection comes from; not known any more when a token is renewed.
    pub peer: Option<SocketAddr>,
    /// Whether a client without any proof may come in here.
    pub on_loopback: bool,
    /// Protocol and version, for people.
    pub protocol: String,
    /// The client's own name.
    pub client_id: Option<ByteString>,
    /// User name.
    pub username: Option<ByteString>,
    /// Password.
    pub password: Option<Secret>,
    /// Token.
    pub token: Option<Secret>,
    /// The user that a client certificate names.
    pub certificate_user: Option<ByteString>,
}

impl Credentials {
    /// Those of a login. What the login itself brings counts more than what came before it; a
    /// password that looks like a token is one, since MQTT 3.1.1 and STOMP have no other place.
    pub fn of_login(connect: &Connect, door: &Door) -> Self {
        let mut token = connect.token.clone();
        let mut password = connect.password.clone().map(Secret);
        if token.is_none()
            && password
                .as_ref()
                .is_some_and(|word| looks_like_token(&word.0))
        {
            token = password.take();
        }
        if token.is_none() && password.is_none() {
            token.clone_from(&door.token);
        }
        Self {
            peer: Some(door.peer),
            on_loopback: door.on_loopback,
            protocol: connect.protocol.to_owned(),
            client_id: connect.client_id.clone(),
            username: connect.username.clone(),
            password,
            token,
            certificate_user: door.certificate_user.clone(),
        }
    }

    /// Those of a client that renews its token.
    pub fn of_refresh(token: Secret, client_id: ByteString) -> Self {
        Self {
            peer: None,
            on_loopback: false,
            protocol: "refresh".to_owned(),
            client_id: Some(client_id),
            username: None,
            password: None,
            token: Some(token),
            certificate_user: None,
        }
    }

    /// Whether there is anything that could prove something.
    pub(super) fn is_empty(&self) -> bool {
        self.password.is_none() && self.token.is_none() && self.certificate_user.is_none()
    }
}

/// Three parts of base64 with points between, of which the first begins as a JSON object does.
fn looks_like_token(bytes: &Bytes) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    bytes.starts_with(b"eyJ")
        && bytes.split(|byte| *byte == b'.').count() == 3
        && bytes.iter().all(plain)
}

/// Why credentials are not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rejection {
    /// There are none.
    Missing,
    /// No method knows what to do with them.
    NotAccepted,
    /// The token is longer than allowed.
    TooLarge,
    /// The token is not a JWT.
    Malformed,
    /// The token is signed in a way that is not allowed.
    Algorithm,
    /// No key has the name that the token gives.
    UnknownKey,
    /// The signature is not right.
    Signature,
    /// The token has ended.
    Expired,
    /// The token's time has not come.
    NotYet,
    /// The token has no end.
    NoExpiry,
    /// The token is for others.
    Audience,
    /// The token is of others.
    Issuer,
    /// The token names no user.
    NoUser,
    /// The token or its user was revoked.
    Revoked,
    /// User or password are wrong.
    Password,
    /// The HTTP service says no.
    Denied,
    /// The new credentials are another user's.
    OtherUser,
    /// The keys cannot be fetched.
    KeysUnavailable,
    /// The HTTP service cannot answer.
    ServiceUnavailable,
    /// The password file cannot be read.
    FileUnavailable,
    /// Too many logins wait already.
    Busy,
}

impl Rejection {
    /// Short name for logs and the `reason` label of metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::NotAccepted => "not_accepted",
            Self::TooLarge => "token_too_large",
            Self::Malformed => "token_malformed",
            Self::Algorithm => "token_algorithm",
            Self::UnknownKey => "token_unknown_key",
            Self::Signature => "token_signature",
            Self::Expired => "token_expired",
            Self::NotYet => "token_not_yet_valid",
            Self::NoExpiry => "token_without_expiry",
            Self::Audience => "token_audience",
            Self::Issuer => "token_issuer",
            Self::NoUser => "token_without_user",
            Self::Revoked => "revoked",
            Self::Password => "password",
            Self::Denied => "denied",
            Self::OtherUser => "other_user",
            Self::KeysUnavailable => "keys_unavailable",
            Self::ServiceUnavailable => "service_unavailable",
            Self::FileUnavailable => "password_file_unavailable",
            Self::Busy => "busy",
        }
    }

    /// What the client is told. It learns what it may know already: that its token has ended, but
    /// not which part of a password or signature was wrong.
    pub fn refusal(self) -> Refusal {
        let (code, detail) = match self {
            Self::Missing => (RefusalCode::NotAuthorized, "a login is needed"),
            Self::Revoked => (RefusalCode::NotAuthorized, "the credentials were revoked"),
            Self::OtherUser => (
                RefusalCode::NotAuthorized,
                "the token is another user's; log in anew with it",
            ),
            Self::Denied => (RefusalCode::NotAuthorized, "the login was denied"),
            Self::Expired => (RefusalCode::BadCredentials, "the token has expired"),
            Self::NotYet => (RefusalCode::BadCredentials, "the token is not valid yet"),
            Self::Password | Self::NotAccepted => (
                RefusalCode::BadCredentials,
                "user name or password are wrong",
            ),
            Self::KeysUnavailable => (
                RefusalCode::Unavailable,
                "the keys that tokens are checked with cannot be fetched now",
            ),
            Self::ServiceUnavailable | Self::FileUnavailable => {
                (RefusalCode::Unavailable, "logins cannot be checked now")
            }
            Self::Busy => (RefusalCode::Busy, "too many logins wait; come back later"),
            Self::TooLarge
            | Self::Malformed
            | Self::Algorithm
            | Self::UnknownKey
            | Self::Signature
            | Self::NoExpiry
            | Self::Audience
            | Self::Issuer
            | Self::NoUser => (RefusalCode::BadCredentials, "the token is not valid"),
        };
        Refusal::new(code, detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(connect: &Connect, token: Option<&str>) -> Credentials {
        let door = Door {
            token: token.map(|token| Secret(Bytes::copy_from_slice(token.as_bytes()))),
            ..Door::default()
        };
        Credentials::of_login(connect, &door)
    }

    fn revealed(secret: Option<&Secret>) -> Option<&[u8]> {
        secret.map(|secret| &secret.0[..])
    }

    #[test]
    fn a_password_that_is_a_token_is_taken_for_one() {
        let mut connect = Connect {
            password: Some(Bytes::from_static(b"eyJhbGciOiJIUzI1NiJ9.e30.c2ln")),
            ..Connect::default()
        };
        let credentials = login(&connect, Some("other"));
        assert!(credentials.password.is_none());
        assert!(
            revealed(credentials.token.as_ref())
                .unwrap()
                .starts_with(b"eyJ")
        );
        for word in ["eyJ", "secret", "eyJ.a.b c", "eyJ.a.b.c"] {
            connect.password = Some(Bytes::copy_from_slice(word.as_bytes()));
            let credentials = login(&connect, None);
            assert_eq!(
                revealed(credentials.password.as_ref()),
                Some(word.as_bytes())
            );
            assert!(credentials.token.is_none());
        }
    }

    #[test]
    fn the_login_counts_more_than_the_handshake() {
        let mut connect = Connect::default();
        assert_eq!(
            revealed(login(&connect, Some("early")).token.as_ref()),
            Some(&b"early"[..])
        );
        connect.password = Some(Bytes::from_static(b"hunter2"));
        assert!(login(&connect, Some("early")).token.is_none());
        let shown = format!("{:?}", login(&connect, None));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
