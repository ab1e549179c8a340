//! Upgrades of WebSocket clients that are the functions': the answer waits for what `$connect` says.
//!
//! Which those are: clients that offer no subprotocol, unless their path names a protocol (`/json`),
//! and those that offer one of `functions.subprotocols`.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use parking_lot::Mutex;
use protocols::connection::{Connect, RefusalCode};
use protocols::negotiation::{Choice, HttpRefusal};

use super::admission::Permit;
use super::http::{Agreed, Who, agree, close, hand_over, named_by_path, refused, values};
use super::{Ends, Net};
use crate::auth::{Answer, Credentials, Door, Identity, token_of_request};
use crate::functions::{Admitted, Asking, Caller, Functions, GATEWAY, Rejected, Upgrade};
use crate::session::connection_id;

/// An empty text message as a client sends it (RFC 6455 §5.2, masked with zeros). It stands for the
/// login, which was the upgrade.
pub(super) const LOGIN: [u8; 6] = [0x81, 0x80, 0, 0, 0, 0];

/// The functions, if a request is theirs.
pub(super) fn claims(net: &Net, request: &Request<Incoming>) -> Option<Arc<Functions>> {
    let functions = net.functions.get().filter(|held| held.has_routes())?;
    let headers = request.headers();
    if !headers.contains_key(header::UPGRADE) {
        return None;
    }
    let offers = values(headers, &header::SEC_WEBSOCKET_PROTOCOL);
    let mut offers = offers
        .flat_map(|value| value.split(|byte| *byte == b','))
        .filter_map(|offer| std::str::from_utf8(offer).ok())
        .map(str::trim)
        .filter(|offer| !offer.is_empty())
        .peekable();
    let is_ours = if offers.peek().is_none() {
        named_by_path(request.uri().path()).is_none()
    } else {
        offers.any(|offer| functions.speaks(offer))
    };
    is_ours.then(|| Arc::clone(functions))
}

/// Answers the upgrade of a client of the functions'.
pub(super) async fn upgrade(
    net: &Arc<Net>,
    functions: Arc<Functions>,
    mut request: Request<Incoming>,
    ends: &Ends,
    place: &Mutex<Option<Permit>>,
) -> Response<Full<Bytes>> {
    let choice = Choice {
        protocol: &GATEWAY,
        subprotocol: None,
    };
    let agreed = agree(&net.live.load(), &request, ends, Some(choice));
    let agreed = agreed.and_then(|agreed| Ok((agreed, signer(net, &request, ends)?)));
    let (agreed, signer) = match agreed {
        Ok(agreed) => agreed,
        Err(refusal) => {
            net.hub.metrics.web_socket_negotiation("none", "refused");
            return refused(&refusal);
        }
    };
    let Some(permit) = place.lock().take() else {
        return status(
            StatusCode::BAD_REQUEST,
            "the connection was upgraded already",
        );
    };
    let number = permit.number();
    let asking = asking(net, &functions, &request, ends, (number, signer)).await;
    let is_wrong =
        matches!(&asking.login, Err(refusal) if refusal.code == RefusalCode::BadCredentials);
    // In a task of its own: what a function was told is told to its end, also if the client does
    // not wait for it.
    let admitting = tokio::spawn(async move { functions.admit(asking).await });
    let admitted = match admitting.await {
        Ok(Ok(admitted)) => admitted,
        Ok(Err(Rejected { status: code, body })) => {
            *place.lock() = Some(permit);
            if is_wrong && code == 401 {
                // Functions may take what the broker does not know; nobody took this.
                net.hub.guard.failed_login(ends.peer.ip(), net.clock.now());
            }
            net.hub.metrics.web_socket_negotiation("none", "refused");
            let code = StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_GATEWAY);
            return status(code, &body);
        }
        Err(error) => {
            tracing::error!(%error, "a client could not be let in");
            return status(StatusCode::INTERNAL_SERVER_ERROR, "");
        }
    };
    net.hub.metrics.web_socket_negotiation("none", "accepted");
    enter(net, &mut request, ends, &agreed, admitted, permit)
}

/// Who signed an upgrade, if somebody did: devices of AWS IoT with a presigned address, clients of
/// API Gateway also with a header.
pub(super) fn signer(
    net: &Net,
    request: &Request<Incoming>,
    ends: &Ends,
) -> Result<Option<Identity>, HttpRefusal> {
    let signer = crate::http::signer(net, request).transpose();
    signer.map_err(|detail| {
        net.hub.guard.failed_login(ends.peer.ip(), net.clock.now());
        HttpRefusal {
            status: 403,
            message: detail,
            header: None,
        }
    })
}

/// What the functions are asked about a client.
async fn asking(
    net: &Net,
    functions: &Functions,
    request: &Request<Incoming>,
    ends: &Ends,
    (number, signer): (u64, Option<Identity>),
) -> Asking {
    let headers = request.headers();
    let text = |name| {
        let value: Option<&HeaderValue> = headers.get(name);
        value
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let door = Door {
        peer: ends.peer,
        on_loopback: ends.on_loopback,
        certificate_user: ends.certificate_user.clone(),
        token: token_of_request(headers, request.uri().query()),
        identity: None,
    };
    let connect = Connect {
        protocol: "gateway",
        ..Connect::default()
    };
    let auth = net.auth.load_full();
    let login = match signer {
        Some(identity) => Ok(identity),
        None => match auth.log_in(Credentials::of_login(&connect, &door)) {
            Answer::Now(answer) => answer,
            Answer::Later(asking) => asking.await,
        },
    };
    let host = text(header::HOST).unwrap_or_default();
    Asking {
        caller: Caller {
            connection_id: connection_id(number).into(),
            connected_at: net.clock.now(),
            domain: functions.domain(&host),
            stage: functions.stage().to_owned(),
            peer: ends.peer,
            user_agent: text(header::USER_AGENT),
            authorizer: None,
        },
        upgrade: Upgrade::new(headers, request.uri().query()),
        is_tls: ends.is_tls,
        login,
    }
}

/// Says yes, and gives the socket to the connection.
fn enter(
    net: &Arc<Net>,
    request: &mut Request<Incoming>,
    ends: &Ends,
    agreed: &Agreed,
    admitted: Admitted,
    permit: Permit,
) -> Response<Full<Bytes>> {
    let Admitted { visit, subprotocol } = admitted;
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    agreed.put(response.headers_mut());
    if let Some(token) = subprotocol.and_then(|token| HeaderValue::try_from(token).ok()) {
        let headers = response.headers_mut();
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, token);
    }
    hand_over(net, request, ends, agreed, Who::Guest(visit), permit);
    response
}

fn status(code: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text.to_owned())));
    *response.status_mut() = code;
    let kind = if text.starts_with('{') {
        "application/json"
    } else {
        "text/plain"
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    close(&mut response);
    response
}
