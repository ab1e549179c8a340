//! Enhanced authentication with the one method `jwt`: the token is the authentication data
//! `[MQTT-4.12]`.
//!
//! It comes with CONNECT, and a new one with AUTH whenever the client likes; there is no dialogue.

use bytes::Bytes;

use super::{Client, Fault, protocol_error};
use crate::connection::{Command, Output, Refusal, Secret, Token};
use crate::model::Timestamp;
use crate::mqtt::packet::{Auth, Connect};
use crate::mqtt::properties::AuthProperties;
use crate::mqtt::{Packet, ReasonCode};

/// The name of the method.
pub(super) const METHOD: &str = "jwt";

/// The token of a CONNECT that names the method; an empty one if it brings no data.
pub(super) fn token(connect: &Connect<'_>) -> Option<Secret> {
    connect.properties.authentication_method?;
    let data = connect.properties.authentication_data.unwrap_or_default();
    Some(Secret(Bytes::copy_from_slice(data)))
}

impl Client {
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
