//! The section `pages`: what the HTTP port has for browsers.

use super::section::section;
use super::setting::Bounds::Type;

section! {
    /// Pages for browsers, on the port of `http.listen`. They hold no data of the broker: what they show
    /// comes from the HTTP API and from the protocols, and takes the permissions that these ask for.
    pub struct Pages in "pages" {
        /// Whether the dashboard is served at `/`.
        dashboard: bool = true, Type, Live;
        /// Whether the demonstrations are served at `/demo/chat` and `/demo/fleet`.
        demos: bool = true, Type, Live;
        /// Whether the JavaScript client is served at `/polycast.js`. The demonstrations need it.
        client: bool = true, Type, Live;
    }
}
