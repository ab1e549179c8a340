//! Who a client is, as a text: kept with sessions and retained messages, so that what they may do
//! can be asked while their client is away, also after a restart.

use std::borrow::Cow;

use bytestring::ByteString;
use protocols::model::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Identity, Method};

/// A client that was written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Who it was.
    pub who: Identity,
    /// Its name.
    pub client_id: String,
    /// What it spoke.
    pub protocol: &'static str,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    user: Option<String>,
    client_id: String,
    method: &'a str,
    protocol: &'a str,
    #[serde(skip_serializing_if = "Map::is_empty", default)]
    claims: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    expires_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    token_id: Option<String>,
}

/// Writes a client down.
pub fn write(who: &Identity, client_id: &str, protocol: &str) -> String {
    let line = Line {
        user: who.user.as_deref().map(str::to_owned),
        client_id: client_id.to_owned(),
        method: who.method.as_str(),
        protocol,
        claims: who.claims.clone(),
        expires_at: who.expires_at.map(|at| at.0),
        token_id: who.token_id.as_deref().map(str::to_owned),
    };
    // Texts and JSON values can always be written.
    serde_json::to_string(&line).unwrap_or_default()
}

/// The user that a client's stored messages and sessions count for: all that have proved nothing, or
/// have no name, are one, whose name is empty.
pub fn holder(who: &Identity) -> ByteString {
    match &who.user {
        Some(user) if who.method != Method::Anonymous => user.clone(),
        _ => ByteString::new(),
    }
}

/// The same of a client that was written down; `None` if it is nothing that was written.
pub fn holder_of(text: &str) -> Option<ByteString> {
    // Without the claims, which may be many.
    #[derive(Deserialize)]
    struct Holder {
        user: Option<String>,
        method: Cow<'static, str>,
    }
    let Holder { user, method } = serde_json::from_str(text).ok()?;
    let is_proved = method != Method::Anonymous.as_str();
    Some(user.filter(|_| is_proved).unwrap_or_default().into())
}

/// Reads it again; `None` if it is nothing that was written.
pub fn read(text: &str) -> Option<Stored> {
    // Texts with escapes cannot be borrowed: names of methods and protocols have none.
    let line: Line<'_> = serde_json::from_str(text).ok()?;
    let who = Identity {
        user: line.user.map(Into::into),
        method: Method::ALL
            .into_iter()
            .find(|method| method.as_str() == line.method)?,
        claims: line.claims,
        expires_at: line.expires_at.map(Timestamp),
        token_id: line.token_id.map(Into::into),
    };
    let protocol = ["mqtt", "stomp", "json", "http"]
        .into_iter()
        .find(|name| *name == line.protocol);
    Some(Stored {
        who,
        client_id: line.client_id,
        protocol: protocol.unwrap_or("none"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_written_is_read() {
        let Value::Object(claims) = json!({"groups": ["a", "b\"\\"], "permissions": []}) else {
            unreachable!()
        };
        let full = Identity {
            user: Some("änn \"x\"".into()),
            method: Method::Token,
            claims,
            expires_at: Some(Timestamp(7)),
            token_id: Some("t".into()),
        };
        for who in [full, Identity::default()] {
            let text = write(&who, "c\n", "stomp");
            assert_eq!(holder_of(&text), Some(holder(&who)));
            let stored = read(&text).unwrap();
            assert_eq!(
                (stored.who, &*stored.client_id, stored.protocol),
                (who, "c\n", "stomp")
            );
        }
        let other = write(&Identity::default(), "c", "gopher");
        assert_eq!(read(&other).unwrap().protocol, "none");
        for wrong in ["", "{}", "[]", &other.replace("anonymous", "unknown")] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!((holder_of(""), holder_of("{}")), (None, None));
    }

    #[test]
    fn a_name_without_a_proof_counts_for_nobody_in_particular() {
        let mut who = Identity {
            user: Some("ann".into()),
            ..Identity::default()
        };
        assert_eq!(holder(&who), "");
        assert_eq!(holder_of(&write(&who, "c", "mqtt")).unwrap(), "");
        who.method = Method::Password;
        assert_eq!(holder(&who), "ann");
        assert_eq!(holder_of(&write(&who, "c", "mqtt")).unwrap(), "ann");
    }
}
