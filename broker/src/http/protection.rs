//! Credentials that are revoked, and who is banned: list, add, lift.

use std::sync::Arc;

use bytestring::ByteString;
use http::StatusCode;
use protocols::model::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::problem::Problem;
use super::text::{cursor, moment, read_cursor, shown, wrong_cursor};
use super::{Answer, Call, Work, body};
use crate::auth::{Revocation, Subject};
use crate::guard::{self, Network};

/// Longest name of a user, token or client in bytes.
const NAME_BYTES: usize = 4096;
/// Longest reason of a ban in bytes.
const REASON_BYTES: usize = 256;

/// What a body may say: whom, and until when.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wish {
    address: Option<String>,
    user: Option<String>,
    token_id: Option<String>,
    client_id: Option<String>,
    expires_in: Option<f64>,
    expires_at: Option<u64>,
    reason: Option<String>,
}

impl Wish {
    fn of_body(call: &Call<'_>) -> Result<Self, Problem> {
        serde_json::from_slice(&call.body).map_err(|error| {
            Problem::invalid(format!(
                "the body is not {{\"user\":\"ann\",\"expiresIn\":60}}: {error}"
            ))
        })
    }

    fn of_query(call: &Call<'_>) -> Self {
        let text = |name| call.query.text(name).map(str::to_owned);
        Self {
            address: text("address"),
            user: text("user"),
            token_id: text("tokenId"),
            client_id: text("clientId"),
            ..Self::default()
        }
    }

    /// The one thing that is named, of those that are asked for.
    fn named<'a>(&'a self, names: &[&'static str]) -> Result<(&'static str, &'a str), Problem> {
        let given = [
            ("address", &self.address),
            ("user", &self.user),
            ("tokenId", &self.token_id),
            ("clientId", &self.client_id),
        ];
        let mut given = given
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.as_deref()?)));
        match (given.next(), given.next()) {
            (Some((name, value)), None) if names.contains(&name) => {
                if value.is_empty() || value.len() > NAME_BYTES {
                    let detail = format!("`{name}` must have 1 to {NAME_BYTES} bytes");
                    return Err(Problem::invalid(detail));
                }
                Ok((name, value))
            }
            _ => Err(Problem::invalid(format!(
                "exactly one of {} is needed",
                names.join(", ")
            ))),
        }
    }

    fn credentials(&self) -> Result<Subject, Problem> {
        let (name, value) = self.named(&["user", "tokenId", "clientId"])?;
        Ok(credentials(name, value.into()))
    }

    fn banned(&self) -> Result<guard::Subject, Problem> {
        let (name, value) = self.named(&["address", "user", "clientId"])?;
        banned(name, value)
    }

    /// When it ends, if it does.
    fn end(&self, now: Timestamp) -> Result<Option<Timestamp>, Problem> {
        match (self.expires_in, self.expires_at) {
            (None, None) => Ok(None),
            (None, Some(at)) => Ok(Some(Timestamp(at))),
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // it saturates
            (Some(secs), None) if secs >= 0.0 => Ok(Some(Timestamp(
                now.0.saturating_add((secs * 1000.0) as u64),
            ))),
            (Some(_), None) => Err(Problem::invalid("`expiresIn` is less than 0")),
            (Some(_), Some(_)) => Err(Problem::invalid(
                "there are both `expiresIn` and `expiresAt`",
            )),
        }
    }
}

fn credentials(name: &str, value: ByteString) -> Subject {
    match name {
        "user" => Subject::User(value),
        "tokenId" => Subject::Token(value),
        _ => Subject::Client(value),
    }
}

fn banned(name: &str, value: &str) -> Result<guard::Subject, Problem> {
    Ok(match name {
        "user" => guard::Subject::User(value.into()),
        "clientId" => guard::Subject::Client(value.into()),
        _ => {
            let network = Network::parse(value)
                .map_err(|why| Problem::invalid(format!("`address`: {why}")))?;
            guard::Subject::Address(network)
        }
    })
}

/// A field of a row: its name and its value.
type Field = (&'static str, String);

/// A subject as a field of a row.
fn field(subject: &Subject) -> Field {
    match subject {
        Subject::User(name) => ("user", name.to_string()),
        Subject::Token(name) => ("tokenId", name.to_string()),
        Subject::Client(name) => ("clientId", name.to_string()),
    }
}

fn banned_field(subject: &guard::Subject) -> Field {
    match subject {
        guard::Subject::Address(network) => ("address", network.to_string()),
        guard::Subject::User(name) => ("user", name.to_string()),
        guard::Subject::Client(name) => ("clientId", name.to_string()),
    }
}

/// From where to where one page of rows goes that are in the order of their subjects, and the cursor
/// of the next.
fn page<S: Ord>(
    call: &Call<'_>,
    subjects: &[S],
    field: fn(&S) -> Field,
    parse: impl Fn(&str, &str) -> Option<S>,
) -> Result<(usize, usize, Option<String>), Problem> {
    let after = match read_cursor(call.query, "cursor")? {
        None => None,
        Some(text) => {
            let found = text.split_once(' ');
            let found = found.and_then(|(name, value)| parse(name, value));
            let given = call.query.text("cursor").unwrap_or_default();
            Some(found.ok_or_else(|| wrong_cursor("cursor", given))?)
        }
    };
    let from = after.map_or(0, |after| subjects.partition_point(|held| *held <= after));
    let to = subjects.len().min(from + call.limit()?);
    let last = subjects[from..to].last().filter(|_| to < subjects.len());
    let next = last.map(|last| {
        let (name, value) = field(last);
        cursor(&format!("{name} {value}"))
    });
    Ok((from, to, next))
}

/// `GET /api/v1/revocations`
pub(super) fn revocations(call: &Call<'_>) -> Result<Answer, Problem> {
    let all = call
        .net
        .auth
        .load()
        .revocations()
        .list(call.net.clock.now());
    let subjects: Vec<_> = all.iter().map(|row| row.subject.clone()).collect();
    let parse = |name: &str, value: &str| Some(credentials(name, value.into()));
    let (from, to, next) = page(call, &subjects, field, parse)?;
    let rows = all[from..to].iter().map(|row| {
        let (name, value) = field(&row.subject);
        json!({name: value, "revokedAt": moment(row.revoked_at), "until": moment(row.until)})
    });
    let rows: Vec<Value> = rows.collect();
    let value = json!({"revocations": rows, "cursor": next});
    Ok(body::json(StatusCode::OK, &value).into())
}

/// `POST /api/v1/revocations`
pub(super) fn revoke(call: &Call<'_>) -> Result<Answer, Problem> {
    let wish = Wish::of_body(call)?;
    let subject = wish.credentials()?;
    let mut batch = call.batch();
    let until = wish.end(batch.now)?;
    let revoked = call.net.revoke(&Revocation { subject, until }, &mut batch);
    let value = json!({"connections": revoked.connections, "sessions": revoked.sessions});
    let answer = Answer::of(call, batch, body::json(StatusCode::OK, &value));
    Ok(Answer {
        behind: Some(written_down(call)),
        ..answer
    })
}

/// `DELETE /api/v1/revocations`
pub(super) fn lift_revocation(call: &Call<'_>) -> Result<Answer, Problem> {
    let subject = Wish::of_query(call).credentials()?;
    let auth = call.net.auth.load();
    if !auth.revocations().lift(&subject, call.net.clock.now()) {
        let (name, value) = field(&subject);
        let detail = format!("nothing of the {name} {} is revoked", shown(&value));
        return Err(Problem::not_found(detail));
    }
    Ok(Answer {
        behind: Some(written_down(call)),
        ..Answer::from(body::empty(StatusCode::NO_CONTENT))
    })
}

/// Waits until the list is on disk.
fn written_down(call: &Call<'_>) -> Work {
    let net = Arc::clone(call.net);
    Box::pin(async move {
        net.keep_revocations().await.map_err(|error| {
            let detail = format!(
                "it holds, but a restart would forget it: the list cannot be written: {error}"
            );
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
        })?;
        Ok(None)
    })
}

/// `GET /api/v1/bans`
pub(super) fn bans(call: &Call<'_>) -> Result<Answer, Problem> {
    let all = call.net.hub.guard.bans.list(call.net.clock.now());
    let subjects: Vec<_> = all.iter().map(|row| row.subject.clone()).collect();
    let parse = |name: &str, value: &str| banned(name, value).ok();
    let (from, to, next) = page(call, &subjects, banned_field, parse)?;
    let rows = all[from..to].iter().map(|row| {
        let (name, value) = banned_field(&row.subject);
        json!({
            name: value,
            "until": row.until.map(moment),
            "reason": &*row.reason,
            "configured": row.is_configured,
        })
    });
    let rows: Vec<Value> = rows.collect();
    let value = json!({"bans": rows, "cursor": next});
    Ok(body::json(StatusCode::OK, &value).into())
}

/// `POST /api/v1/bans`
pub(super) fn ban(call: &Call<'_>) -> Result<Answer, Problem> {
    let wish = Wish::of_body(call)?;
    let subject = wish.banned()?;
    let now = call.net.clock.now();
    let until = wish.end(now)?;
    let reason = wish
        .reason
        .unwrap_or_else(|| "banned by an operator".into());
    if reason.len() > REASON_BYTES {
        let detail = format!("`reason` has more than {REASON_BYTES} bytes");
        return Err(Problem::invalid(detail));
    }
    tracing::info!(%subject, "banned by an operator");
    let connections = call.net.hub.ban(subject, until, reason, now);
    let value = json!({"connections": connections});
    Ok(body::json(StatusCode::OK, &value).into())
}

/// `DELETE /api/v1/bans`
pub(super) fn lift_ban(call: &Call<'_>) -> Result<Answer, Problem> {
    let subject = Wish::of_query(call).banned()?;
    let bans = &call.net.hub.guard.bans;
    let lifted = bans.lift(&subject);
    let stays = bans.is_banned(&subject, call.net.clock.now());
    let (name, value) = banned_field(&subject);
    let value = shown(&value);
    match (lifted, stays) {
        (_, true) => {
            let detail = format!(
                "the ban of the {name} {value} is in the configuration: change \
                 `protection.banned_*` and reload"
            );
            Err(Problem::new(StatusCode::CONFLICT, "configured", detail))
        }
        (true, false) => Ok(body::empty(StatusCode::NO_CONTENT).into()),
        (false, false) => Err(Problem::not_found(format!(
            "the {name} {value} is not banned"
        ))),
    }
}
