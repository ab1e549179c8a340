//! Every operation of the API: its path, what it needs, what it takes and what it answers. Requests
//! are led by this list, and the OpenAPI document is made from it.

use http::header::{self, HeaderValue};
use http::{Method, StatusCode};

use super::guard::Action::{self, Manage, Publish, Subscribe};
use super::openapi::Doc;
use super::problem::{Face, Problem};
use super::text::{percent_decode, shown};
use super::{Answer, Call};
use super::{
    clients, connections, control, events, explain, groups, iot, openapi, overview, protection,
    publish, retained, status, trace,
};
use crate::config::Api;
use crate::net::Live;

/// One operation.
pub(super) struct Route {
    /// Its name in metrics and in the OpenAPI document.
    pub(super) id: &'static str,
    pub(super) method: Method,
    /// With `{name}` for one part that must not be empty, and `{name*}` for all that follow.
    pub(super) path: &'static str,
    /// What its caller needs; `None` is open to everybody.
    pub(super) needs: Option<Action>,
    pub(super) face: Face,
    /// Whether it takes a body.
    pub(super) body: bool,
    pub(super) run: fn(&Call<'_>) -> Result<Answer, Problem>,
    /// For the OpenAPI document.
    pub(super) doc: Doc,
}

impl Route {
    /// Whether its answer has no end that could be waited for.
    pub(super) fn is_stream(&self) -> bool {
        matches!(self.id, "subscribe" | "trace")
    }

    /// The most that its body may have.
    pub(super) fn body_max(&self, config: &Api, live: &Live) -> usize {
        match self.face {
            Face::Rest => config.body_size,
            Face::Connections => connections::BODY_BYTES.min(config.body_size),
            Face::Iot => live.limits.packet_bytes.min(config.body_size),
        }
    }
}

/// A route with the named parts of a path.
pub(super) struct Found {
    pub(super) route: &'static Route,
    pub(super) path: Vec<String>,
}

macro_rules! routes {
    ($($method:ident $path:literal $id:ident $needs:expr, $face:ident, $body:literal, $run:path;)*) => {
        /// All operations. The first that fits is taken.
        pub(super) static ROUTES: &[Route] = &[$(Route {
            id: stringify!($id),
            method: Method::$method,
            path: $path,
            needs: $needs,
            face: Face::$face,
            body: $body,
            run: $run,
            doc: openapi::$id,
        }),*];
    };
}

routes! {
    POST "/api/v1/publish" publish Some(Publish), Rest, true, publish::one;
    POST "/api/v1/publish/batch" publish_batch Some(Publish), Rest, true, publish::many;
    GET "/api/v1/subscribe" subscribe Some(Subscribe), Rest, false, events::subscribe;
    GET "/api/v1/retained" list_retained Some(Subscribe), Rest, false, retained::list;
    GET "/api/v1/retained/{topic*}" show_retained Some(Subscribe), Rest, false, retained::show;
    DELETE "/api/v1/retained/{topic*}" delete_retained Some(Publish), Rest, false, retained::delete;
    GET "/api/v1/clients" list_clients Some(Manage), Rest, false, clients::list;
    GET "/api/v1/clients/{clientId}" show_client Some(Manage), Rest, false, clients::show;
    DELETE "/api/v1/clients/{clientId}" kick_client Some(Manage), Rest, false, clients::kick;
    GET "/api/v1/clients/{clientId}/subscriptions" list_client_subscriptions
        Some(Manage), Rest, false, groups::subscriptions;
    POST "/api/v1/clients/{clientId}/subscriptions" subscribe_client
        Some(Manage), Rest, true, groups::subscribe;
    DELETE "/api/v1/clients/{clientId}/subscriptions" unsubscribe_client
        Some(Manage), Rest, false, groups::unsubscribe;
    PUT "/api/v1/clients/{clientId}/groups/{group}" join_group
        Some(Manage), Rest, false, groups::join;
    DELETE "/api/v1/clients/{clientId}/groups/{group}" leave_group
        Some(Manage), Rest, false, groups::leave;
    GET "/api/v1/connections/{connectionId}" show_connection
        Some(Manage), Rest, false, clients::show_connection;
    DELETE "/api/v1/connections/{connectionId}" kick_connection
        Some(Manage), Rest, false, clients::kick_connection;
    GET "/api/v1/sessions" list_sessions Some(Manage), Rest, false, clients::sessions;
    DELETE "/api/v1/sessions/{clientId}" end_session Some(Manage), Rest, false, clients::end;
    GET "/api/v1/subscriptions" list_subscriptions
        Some(Manage), Rest, false, groups::all_subscriptions;
    GET "/api/v1/status" show_status Some(Manage), Rest, false, overview::status;
    GET "/api/v1/explain" explain Some(Manage), Rest, false, explain::explain;
    GET "/api/v1/trace" trace Some(Manage), Rest, false, trace::trace;
    GET "/api/v1/topics" list_topics Some(Manage), Rest, false, overview::topics;
    GET "/api/v1/groups" list_groups Some(Manage), Rest, false, overview::groups;
    GET "/api/v1/topics/{topic*}" show_topic Some(Manage), Rest, false, groups::topic;
    GET "/api/v1/groups/{group}/members" list_members Some(Manage), Rest, false, groups::members;
    GET "/api/v1/revocations" list_revocations
        Some(Manage), Rest, false, protection::revocations;
    POST "/api/v1/revocations" revoke Some(Manage), Rest, true, protection::revoke;
    DELETE "/api/v1/revocations" lift_revocation
        Some(Manage), Rest, false, protection::lift_revocation;
    GET "/api/v1/bans" list_bans Some(Manage), Rest, false, protection::bans;
    POST "/api/v1/bans" ban Some(Manage), Rest, true, protection::ban;
    DELETE "/api/v1/bans" lift_ban Some(Manage), Rest, false, protection::lift_ban;
    POST "/api/v1/reload" reload Some(Manage), Rest, false, control::reload;
    POST "/api/v1/drain" drain Some(Manage), Rest, true, control::drain;
    GET "/api/v1/health/live" live None, Rest, false, status::live;
    GET "/api/v1/health/ready" ready None, Rest, false, status::ready;
    GET "/api/v1/metrics" metrics Some(Manage), Rest, false, status::metrics;
    GET "/api/openapi.json" openapi None, Rest, false, openapi::document;
    POST "/@connections/{connectionId}" post_to_connection
        Some(Publish), Connections, true, connections::post;
    GET "/@connections/{connectionId}" get_connection
        Some(Manage), Connections, false, connections::get;
    DELETE "/@connections/{connectionId}" delete_connection
        Some(Manage), Connections, false, connections::delete;
    POST "/topics/{topic*}" iot_publish Some(Publish), Iot, true, iot::publish;
    GET "/retainedMessage" iot_list_retained Some(Subscribe), Iot, false, iot::list;
    GET "/retainedMessage/{topic*}" iot_retained Some(Subscribe), Iot, false, iot::show;
}

/// Paths that lead to the same as the path without them: a stage before `@connections`, and `/iot`.
fn split(path: &str) -> Option<Vec<String>> {
    let mut parts: Vec<String> = path
        .strip_prefix('/')?
        .split('/')
        .map(percent_decode)
        .collect::<Option<_>>()?;
    let follows = |part: &str| parts.get(1).is_some_and(|next| next == part);
    let is_iot = parts[0] == "iot" && (follows("topics") || follows("retainedMessage"));
    if is_iot || follows("@connections") {
        parts.remove(0);
    }
    Some(parts)
}

/// Whether a path belongs to the API.
pub(super) fn is_ours(path: &str) -> bool {
    let Some(parts) = split(path) else {
        return path.starts_with("/api/");
    };
    matches!(
        parts[0].as_str(),
        "api" | "@connections" | "topics" | "retainedMessage"
    )
}

/// The named parts of a path, if it fits the pattern.
fn fit(pattern: &str, parts: &[String]) -> Option<Vec<String>> {
    let mut named = Vec::new();
    let mut rest = parts.iter();
    for part in pattern[1..].split('/') {
        let Some(name) = part
            .strip_prefix('{')
            .and_then(|part| part.strip_suffix('}'))
        else {
            if rest.next()? != part {
                return None;
            }
            continue;
        };
        if name.ends_with('*') {
            let tail: Vec<&str> = rest.by_ref().map(String::as_str).collect();
            let tail = tail.join("/");
            if tail.is_empty() {
                return None;
            }
            named.push(tail);
        } else {
            named.push(rest.next().filter(|part| !part.is_empty())?.clone());
        }
    }
    rest.next().is_none().then_some(named)
}

/// The operation for a method and path. `HEAD` asks like `GET`, but for streams.
pub(super) fn find(method: &Method, path: &str) -> Result<Found, Problem> {
    let Some(parts) = split(path) else {
        let shown = shown(path);
        return Err(Problem::invalid(format!(
            "the path {shown} has a broken percent-encoding"
        )));
    };
    let is_head = *method == Method::HEAD;
    for route in ROUTES {
        let asks = route.method == *method
            || (is_head && route.method == Method::GET && !route.is_stream());
        if asks && let Some(path) = fit(route.path, &parts) {
            return Ok(Found { route, path });
        }
    }
    let allowed = methods(path);
    if allowed.is_empty() {
        return Err(nothing_at(path));
    }
    let detail = format!("{method} is not for {}; there are {allowed}", shown(path));
    let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "methodNotAllowed", detail);
    Err(match HeaderValue::from_str(&allowed) {
        Ok(allowed) => problem.with(header::ALLOW, allowed),
        Err(_) => problem,
    })
}

/// The methods that a path takes, for `Allow`; empty if there is nothing.
pub(super) fn methods(path: &str) -> String {
    let Some(parts) = split(path) else {
        return String::new();
    };
    let mut found: Vec<&str> = Vec::new();
    for route in ROUTES {
        if fit(route.path, &parts).is_some() {
            found.push(route.method.as_str());
            if route.method == Method::GET && !route.is_stream() {
                found.push("HEAD");
            }
        }
    }
    if !found.is_empty() {
        found.push("OPTIONS");
    }
    found.dedup();
    found.join(", ")
}

/// 404.
pub(super) fn nothing_at(path: &str) -> Problem {
    Problem::not_found(format!(
        "there is nothing at {}; /api/openapi.json lists what there is",
        shown(path)
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn found(method: &Method, path: &str) -> Result<(&'static str, Vec<String>), u16> {
        find(method, path)
            .map(|found| (found.route.id, found.path))
            .map_err(|problem| problem.status.as_u16())
    }

    #[test]
    fn paths_lead_to_operations() {
        let get = |path| found(&Method::GET, path);
        let parts = |parts: &[&str]| parts.iter().map(|&part| part.to_owned()).collect();
        assert_eq!(get("/api/v1/clients"), Ok(("list_clients", vec![])));
        assert_eq!(
            get("/api/v1/clients/a%2Fb"),
            Ok(("show_client", parts(&["a/b"])))
        );
        assert_eq!(
            get("/api/v1/retained/a//b%20c"),
            Ok(("show_retained", parts(&["a//b c"])))
        );
        assert_eq!(
            get("/api/v1/retained//a"),
            Ok(("show_retained", parts(&["/a"])))
        );
        assert_eq!(
            get("/prod/@connections/x%3D"),
            Ok(("get_connection", parts(&["x="])))
        );
        assert_eq!(
            get("/prod/%40connections/x"),
            Ok(("get_connection", parts(&["x"])))
        );
        assert_eq!(
            get("/iot/retainedMessage/a%2Fb"),
            Ok(("iot_retained", parts(&["a/b"])))
        );
        assert_eq!(
            found(&Method::POST, "/topics/iot/topics"),
            Ok(("iot_publish", parts(&["iot/topics"])))
        );
    }

    #[test]
    fn what_leads_nowhere_says_so() {
        for path in [
            "/api",
            "/api/v1",
            "/api/v1/clients/",
            "/api/v2/clients",
            "/topics",
        ] {
            assert_eq!(found(&Method::GET, path), Err(404), "{path}");
        }
        assert_eq!(found(&Method::PATCH, "/api/v1/clients"), Err(405));
        assert_eq!(found(&Method::HEAD, "/api/v1/subscribe"), Err(405));
        assert_eq!(found(&Method::GET, "/api/v1/clients/%zz"), Err(400));
        assert_eq!(methods("/api/v1/clients/x"), "GET, HEAD, DELETE, OPTIONS");
    }

    #[test]
    fn other_paths_are_left_to_others() {
        for path in [
            "/",
            "/mqtt",
            "/ws",
            "/metrics",
            "/healthz",
            "/apis",
            "/x/topics/y",
        ] {
            assert!(!is_ours(path), "{path}");
        }
        for path in [
            "/api/",
            "/api/%zz",
            "/topics/a",
            "/s/@connections/x",
            "/iot/topics/x",
        ] {
            assert!(is_ours(path), "{path}");
        }
    }

    #[test]
    fn each_operation_has_a_name_of_its_own() {
        let names: BTreeSet<_> = ROUTES.iter().map(|route| route.id).collect();
        assert_eq!(names.len(), ROUTES.len());
    }
}
