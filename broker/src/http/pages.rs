//! What the HTTP port has for browsers: the dashboard, the demonstrations and the JavaScript client.
//!
//! All of it is compiled in (`broker/web`) and holds nothing of the broker's state, so anybody may read
//! it; what the pages show comes from the API and the protocols, which ask who wants it. `net/http.rs`
//! calls [`page`] for requests that are not the API's. Whoever accepts gzip gets it; the files are packed once, at the
//! first request for one of them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;

use super::guard::sha256;
use crate::config::Pages;

/// What switches a file off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Dashboard,
    Demos,
    Client,
}

/// A file as it is compiled in.
struct File {
    path: &'static str,
    part: Part,
    text: &'static str,
}

/// A file with the headers that follow from what is in it.
struct Page {
    file: &'static File,
    tag: HeaderValue,
    /// The file as gzip, and the tag of that form of it.
    packed: Option<(Bytes, HeaderValue)>,
    policy: Option<HeaderValue>,
}

macro_rules! files {
    ($($path:literal $part:ident $file:literal;)*) => {
        static FILES: &[File] = &[$(File {
            path: $path,
            part: Part::$part,
            text: include_str!(concat!("../../web/", $file)),
        }),*];
    };
}

files! {
    "/" Dashboard "ui/index.html";
    "/ui/dashboard.css" Dashboard "ui/dashboard.css";
    "/ui/dashboard.js" Dashboard "ui/dashboard.js";
    "/ui/api.js" Dashboard "ui/api.js";
    "/ui/chart.js" Dashboard "ui/chart.js";
    "/ui/clients.js" Dashboard "ui/clients.js";
    "/ui/console.js" Dashboard "ui/console.js";
    "/ui/dom.js" Dashboard "ui/dom.js";
    "/ui/follow.js" Dashboard "ui/follow.js";
    "/ui/health.js" Dashboard "ui/health.js";
    "/ui/overview.js" Dashboard "ui/overview.js";
    "/ui/speak.js" Dashboard "ui/speak.js";
    "/ui/topics.js" Dashboard "ui/topics.js";
    "/demo/chat" Demos "demo/chat.html";
    "/demo/fleet" Demos "demo/fleet.html";
    "/polycast.js" Client "client/polycast.js";
    "/polycast.d.ts" Client "client/polycast.d.ts";
}

static PAGES: LazyLock<Vec<Page>> = LazyLock::new(|| FILES.iter().map(Page::new).collect());

impl Page {
    fn new(file: &'static File) -> Self {
        let digest = STANDARD.encode(&sha256(file.text.as_bytes())[..12]);
        let tag = tag(&format!("\"{digest}\""));
        let packed = packed(file.text).map(|bytes| (bytes, self::tag(&format!("\"{digest}-gz\""))));
        let policy = (file.kind() == HTML).then(|| HeaderValue::from_str(&policy(file.text)));
        Self {
            file,
            tag,
            packed,
            // A policy that could not be written lets nothing run.
            policy: policy.map(|policy| policy.unwrap_or(HeaderValue::from_static(NOTHING))),
        }
    }

    /// Whether who asks has it already.
    fn is_known(&self, request: &HeaderMap) -> bool {
        let known = request.get_all(header::IF_NONE_MATCH).into_iter();
        let mut tags = known
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','));
        tags.any(|tag| {
            let tag = tag.trim();
            let bare = tag.trim_start_matches("W/").as_bytes();
            let packed = self.packed.iter().map(|(_, tag)| tag);
            tag == "*" || packed.chain([&self.tag]).any(|own| own.as_bytes() == bare)
        })
    }

    fn put(&self, headers: &mut HeaderMap) {
        let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
        set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        set(header::REFERRER_POLICY, "no-referrer");
        if self.file.part == Part::Client {
            // A library is for pages of any site; what it may do there is asked when it connects.
            set(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*");
            set(header::CACHE_CONTROL, "public, max-age=300");
        } else {
            set(header::CACHE_CONTROL, "no-cache");
            set(header::X_FRAME_OPTIONS, "DENY");
        }
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        if let Some(policy) = &self.policy {
            headers.insert(header::CONTENT_SECURITY_POLICY, policy.clone());
        }
    }
}

/// What stands in `ETag`. Digests have no byte that a header could not carry.
fn tag(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("\"\""))
}

/// A text as gzip; nothing if that is no shorter.
fn packed(text: &str) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text.as_bytes()).ok()?;
    let bytes = encoder.finish().ok()?;
    (bytes.len() < text.len()).then(|| bytes.into())
}

/// Whether gzip may be answered with: RFC 9110 §12.5.3, where a weight of 0 forbids and what is named
/// counts before `*`.
fn takes_gzip(request: &HeaderMap) -> bool {
    let values = request.get_all(header::ACCEPT_ENCODING).into_iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    let mut any = false;
    for coding in texts.flat_map(|text| text.split(',')) {
        let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = parameters.trim().trim_start_matches(['q', 'Q', '=', ' ']);
        let is_taken = weight.is_empty() || weight.parse::<f32>().is_ok_and(|weight| weight > 0.0);
        match name.trim() {
            name if name.eq_ignore_ascii_case("gzip") => return is_taken,
            "*" => any = is_taken,
            _ => {}
        }
    }
    any
}

const HTML: &str = "text/html; charset=utf-8";
const NOTHING: &str = "default-src 'none'";

impl File {
    fn kind(&self) -> &'static str {
        match self.path.rsplit_once('.') {
            Some((_, "js")) => "text/javascript; charset=utf-8",
            Some((_, "css")) => "text/css; charset=utf-8",
            Some((_, "ts")) => "text/plain; charset=utf-8",
            _ => HTML,
        }
    }

    fn is_on(&self, pages: &Pages) -> bool {
        match self.part {
            Part::Dashboard => pages.dashboard,
            Part::Demos => pages.demos,
            Part::Client => pages.client,
        }
    }
}

/// What a page may load and run: what this broker serves, and the scripts and styles that stand in it.
fn policy(html: &str) -> String {
    let mut text = format!("{NOTHING}; script-src 'self'");
    hashes(html, "script", &mut text);
    text.push_str("; style-src 'self'");
    hashes(html, "style", &mut text);
    text.push_str(
        "; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
    );
    text
}

/// Names what stands between the tags by its digest.
fn hashes(html: &str, element: &str, text: &mut String) {
    let (open, close) = (format!("<{element}"), format!("</{element}>"));
    for part in html.split(&open).skip(1) {
        let inside = part.split_once('>').and_then(|(_, inside)| {
            let (inside, _) = inside.split_once(&close)?;
            (!inside.is_empty()).then_some(inside)
        });
        if let Some(inside) = inside {
            // Writing into a string does not fail.
            let _ = write!(
                text,
                " 'sha256-{}'",
                STANDARD.encode(sha256(inside.as_bytes()))
            );
        }
    }
}

/// The page at a path, or 304 for who has it already; `None` if there is none, or it is turned off.
pub(crate) fn page(
    path: &str,
    request: &HeaderMap,
    pages: &Pages,
) -> Option<Response<Full<Bytes>>> {
    let mut found = PAGES.iter().filter(|page| page.file.is_on(pages));
    let page = found.find(|page| page.file.path == path)?;
    let mut response = Response::new(Full::default());
    page.put(response.headers_mut());
    let packed = page.packed.as_ref().filter(|_| takes_gzip(request));
    let tag = packed.map_or(&page.tag, |(_, tag)| tag);
    response.headers_mut().insert(header::ETAG, tag.clone());
    if page.is_known(request) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Some(response);
    }
    let kind = HeaderValue::from_static(page.file.kind());
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    let bytes = match packed {
        Some((bytes, _)) => {
            let coding = HeaderValue::from_static("gzip");
            response
                .headers_mut()
                .insert(header::CONTENT_ENCODING, coding);
            bytes.clone()
        }
        None => Bytes::from_static(page.file.text.as_bytes()),
    };
    *response.body_mut() = Full::new(bytes);
    Some(response)
}

/// Whether there is a page at a path, for who asks with a wrong method.
pub(crate) fn is_page(path: &str, pages: &Pages) -> bool {
    let mut files = FILES.iter();
    files.any(|file| file.path == path && file.is_on(pages))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn get(
        path: &str,
        known: Option<&HeaderValue>,
        pages: &Pages,
    ) -> Option<Response<Full<Bytes>>> {
        let mut request = HeaderMap::new();
        if let Some(known) = known {
            request.insert(header::IF_NONE_MATCH, known.clone());
        }
        page(path, &request, pages)
    }

    #[test]
    fn each_file_has_its_type_and_is_asked_for_again_by_its_tag() {
        let pages = Pages::default();
        for file in FILES {
            let first = get(file.path, None, &pages).unwrap();
            let headers = first.headers();
            assert_eq!(headers[header::CONTENT_TYPE], file.kind(), "{}", file.path);
            assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
            let tag = headers[header::ETAG].clone();
            let again = get(file.path, Some(&tag), &pages).unwrap();
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
            assert_eq!(again.headers()[header::ETAG], tag);
            let other = HeaderValue::from_static("\"other\"");
            let changed = get(file.path, Some(&other), &pages).unwrap();
            assert_eq!(changed.status(), StatusCode::OK);
        }
        assert!(get("/ui/", None, &pages).is_none());
    }

    #[test]
    fn who_takes_gzip_gets_it_with_a_tag_of_its_own() {
        let pages = Pages::default();
        let ask = |accepted: &'static str, known: Option<&HeaderValue>| {
            let mut request = HeaderMap::new();
            request.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(accepted));
            if let Some(known) = known {
                request.insert(header::IF_NONE_MATCH, known.clone());
            }
            page("/ui/dashboard.js", &request, &pages).unwrap()
        };
        let coding = |accepted| {
            let response = ask(accepted, None);
            let headers = response.headers();
            assert_eq!(headers[header::VARY], "accept-encoding");
            headers.get(header::CONTENT_ENCODING).cloned()
        };
        for accepted in ["gzip", "br, GZip;q=0.5", "*", "deflate, *;q=0.1"] {
            assert_eq!(coding(accepted).unwrap(), "gzip", "{accepted}");
        }
        for accepted in [
            "",
            "br",
            "gzip;q=0",
            "*, gzip; q=0.0",
            "identity",
            "*;q=0",
            "gzip;q=x",
        ] {
            assert_eq!(coding(accepted), None, "{accepted}");
        }
        let tag = |response: &Response<Full<Bytes>>| response.headers()[header::ETAG].clone();
        let (plain, packed) = (tag(&ask("", None)), tag(&ask("gzip", None)));
        assert_ne!(plain, packed);
        for known in [&plain, &packed] {
            assert_eq!(ask("gzip", Some(known)).status(), StatusCode::NOT_MODIFIED);
        }
    }

    #[test]
    fn parts_are_turned_off_apart() {
        let off = |change: fn(&mut Pages)| {
            let mut pages = Pages::default();
            change(&mut pages);
            let there = |path| get(path, None, &pages).is_some();
            (there("/"), there("/demo/chat"), there("/polycast.js"))
        };
        assert_eq!(off(|pages| pages.dashboard = false), (false, true, true));
        assert_eq!(off(|pages| pages.demos = false), (true, false, true));
        assert_eq!(off(|pages| pages.client = false), (true, true, false));
    }

    #[test]
    fn a_page_runs_what_stands_in_it_and_nothing_else() {
        let policy = policy("<style>a{}</style><script src=x></script><script>b()</script>");
        let digest = |text: &str| STANDARD.encode(sha256(text.as_bytes()));
        let (style, script) = (digest("a{}"), digest("b()"));
        assert_eq!(
            policy,
            format!(
                "default-src 'none'; script-src 'self' 'sha256-{script}'; style-src 'self' \
                 'sha256-{style}'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; \
                 form-action 'none'; frame-ancestors 'none'"
            )
        );
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere() {
        for file in FILES.iter().filter(|file| file.part != Part::Client) {
            for word in [
                "src=\"http",
                "href=\"http",
                "url(http",
                "from 'http",
                "@import",
                " style=\"",
                " onclick=",
            ] {
                assert!(!file.text.contains(word), "{} has {word}", file.path);
            }
        }
    }
}
