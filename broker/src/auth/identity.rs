//! Who a client is.

use bytestring::ByteString;
use protocols::model::Timestamp;
use serde_json::{Map, Value};

/// What proved who a client is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// Nothing: the listener asks for no login.
    #[default]
    Anonymous,
    /// A user name and its password.
    Password,
    /// A signed token (JWT).
    Token,
    /// A client certificate.
    Certificate,
    /// The answer of an HTTP service.
    Callback,
    /// A key of the HTTP API, shown or signed with.
    ApiKey,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Anonymous,
        Self::Password,
        Self::Token,
        Self::Certificate,
        Self::Callback,
        Self::ApiKey,
    ];

    /// Its name in logs, metrics and for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Password => "password",
            Self::Token => "token",
            Self::Certificate => "certificate",
            Self::Callback => "callback",
            Self::ApiKey => "api_key",
        }
    }
}

/// Who a client is, as found out at its login or when it renewed its credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The user; `None` for anonymous clients.
    pub user: Option<ByteString>,
    /// What proved it.
    pub method: Method,
    /// What the token or the HTTP service said about the user. Rules name them as `${claim}`, and
    /// `permissions` in them is a list of rules itself.
    pub claims: Map<String, Value>,
    /// When it is no longer true; deliveries stop then and the connection is closed.
    pub expires_at: Option<Timestamp>,
    /// The token's own name (`jti`), by which it can be revoked.
    pub token_id: Option<ByteString>,
}
