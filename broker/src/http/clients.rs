//! Clients and their connections and sessions: list, show, kick, end.
//!
//! A list goes through the sessions by age, a page at a time; no lock is held for longer than it
//! takes to copy the references of one page.

use std::sync::Arc;

use http::StatusCode;
use protocols::connection::{Cause, CloseReason};
use serde_json::{Value, json};

use super::problem::Problem;
use super::text::{cursor, moment, number_cursor, shown};
use super::{Answer, Call, body};
use crate::session::Session;

/// Sessions that one page looks at, whether they fit its question or not.
const LOOKS: usize = 10_000;

/// What a list is asked for.
struct Wanted<'a> {
    connected: Option<bool>,
    user: Option<&'a str>,
    protocol: Option<&'a str>,
    transport: Option<&'a str>,
    client_id: Option<&'a str>,
    /// What the identifier or the user's name has in it, whether large or small letters.
    search: Option<&'a str>,
}

/// `GET /api/v1/clients`: those that are connected.
pub(super) fn list(call: &Call<'_>) -> Result<Answer, Problem> {
    rows(call, "clients", Some(true))
}

/// `GET /api/v1/sessions`: those that are away too.
pub(super) fn sessions(call: &Call<'_>) -> Result<Answer, Problem> {
    rows(call, "sessions", call.query.truth("connected")?)
}

fn rows(call: &Call<'_>, name: &str, connected: Option<bool>) -> Result<Answer, Problem> {
    let wanted = Wanted {
        connected,
        user: call.query.text("user"),
        protocol: call.query.text("protocol"),
        transport: call.query.text("transport"),
        client_id: call.query.text("clientIdPrefix"),
        search: call.query.text("search"),
    };
    let limit = call.limit()?;
    let mut after = Some(number_cursor(call.query)?);
    let mut rows: Vec<Value> = Vec::new();
    let mut looks = LOOKS;
    while let Some(from) = after.filter(|_| rows.len() < limit && looks > 0) {
        let page = call
            .net
            .hub
            .sessions_page(from, (limit - rows.len()).min(looks));
        looks -= page.rows.len().min(looks);
        rows.extend(page.rows.iter().filter_map(|session| wanted.row(session)));
        after = page.next;
    }
    let value = json!({name: rows, "cursor": after.map(|number| cursor(&number.to_string()))});
    Ok(body::json(StatusCode::OK, &value).into())
}

impl Wanted<'_> {
    fn row(&self, session: &Session) -> Option<Value> {
        let is_user = self
            .user
            .is_none_or(|user| session.user_name() == Some(user));
        let is_id = self
            .client_id
            .is_none_or(|prefix| session.client_id.starts_with(prefix));
        let is_found = self.search.is_none_or(|text| {
            let user = session.user_name().unwrap_or_default();
            contains(&session.client_id, text) || contains(user, text)
        });
        if !is_user || !is_id || !is_found {
            return None;
        }
        let row = row(session)?;
        let fits = |wanted: Option<&str>, name: &str| {
            wanted.is_none_or(|wanted| {
                let is = row[name].as_str();
                is.is_some_and(|is| is == wanted || is.split(' ').next() == Some(wanted))
            })
        };
        let is_connected = row["connected"] == json!(true);
        (fits(self.protocol, "protocol")
            && fits(self.transport, "transport")
            && self.connected.is_none_or(|wanted| wanted == is_connected))
        .then_some(row)
    }
}

/// Whether a text stands in another; the case of ASCII letters does not matter.
fn contains(text: &str, part: &str) -> bool {
    if part.is_empty() {
        return true;
    }
    let mut places = text.as_bytes().windows(part.len());
    places.any(|place| place.eq_ignore_ascii_case(part.as_bytes()))
}

/// One session; `None` if it has ended.
pub(super) fn row(session: &Session) -> Option<Value> {
    let state = session.lock();
    if state.ended {
        return None;
    }
    let link = state.link.as_ref().filter(|link| link.end.is_none());
    let origin = link.map(|link| &link.origin);
    let (queued, queued_bytes) = state.queued();
    Some(json!({
        "clientId": &*session.client_id,
        "connected": link.is_some(),
        "connectionId": link.map(crate::session::Link::connection_id),
        "user": session.user_name(),
        "protocol": origin.map(|origin| origin.protocol),
        "transport": origin.map(|origin| origin.carrier.as_str()),
        "address": origin.and_then(crate::session::Origin::peer).map(|peer| peer.to_string()),
        "connectedAt": origin.map(|origin| moment(origin.opened_at)),
        "lastActiveAt": origin.map(|origin| moment(origin.active_at)),
        "subscriptions": state.subscriptions.len(),
        "queued": queued,
        "queuedBytes": queued_bytes,
        "inFlight": state.in_flight(),
        "durable": session.is_stored(),
        "expirySecs": state.expiry_secs,
        "endsAt": state.ends_at().known().filter(|_| link.is_none()).map(moment),
    }))
}

/// The session that the path names.
pub(super) fn session(call: &Call<'_>) -> Result<Arc<Session>, Problem> {
    let id = &call.path[0];
    call.net.hub.session(id).ok_or_else(|| no_client(id))
}

/// 404.
pub(super) fn no_client(id: &str) -> Problem {
    Problem::not_found(format!("there is no client {}", shown(id)))
}

/// `GET /api/v1/clients/{clientId}`
pub(super) fn show(call: &Call<'_>) -> Result<Answer, Problem> {
    let row = row(&*session(call)?).ok_or_else(|| no_client(&call.path[0]))?;
    Ok(body::json(StatusCode::OK, &row).into())
}

/// Why an operator's request ends a connection.
pub(super) fn reason() -> CloseReason {
    CloseReason::new(Cause::Administrative, "closed by an operator")
}

/// `DELETE /api/v1/clients/{clientId}`: ends the connection, and with `endSession=true` the session.
pub(super) fn kick(call: &Call<'_>) -> Result<Answer, Problem> {
    let session = session(call)?;
    let ends = call.query.truth("endSession")?.unwrap_or(false);
    let hub = &call.net.hub;
    let mut batch = call.batch();
    let kicked = if ends {
        hub.end_session(&session, &reason(), &mut batch);
        true
    } else {
        hub.kick(&session, None, &reason(), &mut batch)
    };
    let response = if kicked {
        body::empty(StatusCode::NO_CONTENT)
    } else {
        let shown = shown(&call.path[0]);
        let detail = format!("the client {shown} is not connected; its session stays");
        Problem::not_found(detail).into_response(super::problem::Face::Rest)
    };
    Ok(Answer::of(call, batch, response))
}

/// `DELETE /api/v1/sessions/{clientId}`
pub(super) fn end(call: &Call<'_>) -> Result<Answer, Problem> {
    let session = session(call)?;
    let hub = &call.net.hub;
    let mut batch = call.batch();
    hub.end_session(&session, &reason(), &mut batch);
    let response = body::empty(StatusCode::NO_CONTENT);
    Ok(Answer::of(call, batch, response))
}

/// `GET /api/v1/connections/{connectionId}`
pub(super) fn show_connection(call: &Call<'_>) -> Result<Answer, Problem> {
    let id = &call.path[0];
    let found = call.net.hub.connection(id);
    let row = found.and_then(|(session, _)| row(&session));
    let row = row.ok_or_else(|| super::publish::gone(id))?;
    Ok(body::json(StatusCode::OK, &row).into())
}

/// `DELETE /api/v1/connections/{connectionId}`
pub(super) fn kick_connection(call: &Call<'_>) -> Result<Answer, Problem> {
    let id = &call.path[0];
    let (session, link) = call
        .net
        .hub
        .connection(id)
        .ok_or_else(|| super::publish::gone(id))?;
    let mut batch = call.batch();
    call.net
        .hub
        .kick(&session, Some(link), &reason(), &mut batch);
    let response = body::empty(StatusCode::NO_CONTENT);
    Ok(Answer::of(call, batch, response))
}

#[cfg(test)]
mod tests {
    use super::contains;

    #[test]
    fn a_part_is_found_anywhere_in_any_case() {
        for part in ["", "truck", "Truck-7", "7/FRONT", "é", "truck-7/front/é"] {
            assert!(contains("truck-7/front/é", part), "{part}");
        }
        for part in ["truck7", "truck-7/front/éé", "É", "b"] {
            assert!(!contains("truck-7/front/é", part), "{part}");
        }
    }
}
