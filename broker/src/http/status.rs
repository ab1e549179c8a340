//! Health and metrics.

use http::StatusCode;
use serde_json::json;

use super::problem::Problem;
use super::{Answer, Call, Figures, body, figures};

/// `GET /api/v1/health/live`: the process answers.
#[allow(clippy::unnecessary_wraps)] // all operations look alike
pub(super) fn live(call: &Call<'_>) -> Result<Answer, Problem> {
    let mut value = json!({"status": "ok"});
    if tells_figures(call) {
        value["version"] = env!("CARGO_PKG_VERSION").into();
    }
    Ok(body::json(StatusCode::OK, &value).into())
}

/// `GET /api/v1/health/ready`: whether clients should be sent here.
#[allow(clippy::unnecessary_wraps)]
pub(super) fn ready(call: &Call<'_>) -> Result<Answer, Problem> {
    let hub = &call.net.hub;
    // Not a fault that a restart would mend: who needs no disk is served all the same.
    let full = hub.store().and_then(|store| store.room().err());
    let (status, state) = match (hub.is_stopping(), &full) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        (false, Some(_)) => (StatusCode::OK, "degraded"),
        (false, None) => (StatusCode::OK, "ok"),
    };
    let mut value = json!({"status": state, "reason": full.map(|full| full.to_string())});
    if tells_figures(call) {
        value["connections"] = call.net.admission.connections().into();
        value["sessions"] = hub.session_count().into();
    }
    Ok(body::json(status, &value).into())
}

fn tells_figures(call: &Call<'_>) -> bool {
    figures(call.net, &call.head.headers, call.ends) == Figures::Open
}

/// `GET /api/v1/metrics`
#[allow(clippy::unnecessary_wraps)]
pub(super) fn metrics(call: &Call<'_>) -> Result<Answer, Problem> {
    let text = crate::net::metrics(call.net);
    Ok(body::typed(StatusCode::OK, "text/plain; version=0.0.4", text).into())
}
