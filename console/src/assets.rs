//! The page's files, inside the binary.

use axum::http::header;
use axum::response::{IntoResponse, Response};

/// A file of the page.
struct Asset {
    name: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

macro_rules! asset {
    ($name:literal, $kind:literal) => {
        Asset { name: $name, kind: $kind, bytes: include_bytes!(concat!("../assets/", $name)) }
    };
    ($name:literal, $kind:literal, font) => {
        Asset { name: $name, kind: $kind, bytes: include_bytes!(concat!("../../explainer/fonts/", $name)) }
    };
}

const ASSETS: &[Asset] = &[
    asset!("index.html", "text/html; charset=utf-8"),
    asset!("app.css", "text/css; charset=utf-8"),
    asset!("early.js", "text/javascript; charset=utf-8"),
    asset!("app.js", "text/javascript; charset=utf-8"),
    asset!("words.js", "text/javascript; charset=utf-8"),
    asset!("draw.js", "text/javascript; charset=utf-8"),
    asset!("machines.js", "text/javascript; charset=utf-8"),
    asset!("defects.js", "text/javascript; charset=utf-8"),
    asset!("live.js", "text/javascript; charset=utf-8"),
    asset!("icon.svg", "image/svg+xml"),
    asset!("castwatch-sans.woff2", "font/woff2", font),
    asset!("castwatch-sans-bold.otf", "font/otf", font),
];

/// The file `name`, if the page has it.
pub(crate) fn get(name: &str) -> Option<Response> {
    let asset = ASSETS.iter().find(|a| a.name == name)?;
    // A new binary brings new files under the same names; fonts are large and stay.
    let cache = if asset.kind.starts_with("font/") { "max-age=86400" } else { "no-cache" };
    Some(([(header::CONTENT_TYPE, asset.kind), (header::CACHE_CONTROL, cache)], asset.bytes).into_response())
}
