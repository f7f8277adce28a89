//! What ships with the binary for browsers: the stylesheet and the icon. Each has its hash in its
//! name, so it can be kept for ever.

use std::sync::LazyLock;

use axum::{
    extract::Path,
    http::header,
    response::{IntoResponse as _, Response},
};
use minijinja::{Error, ErrorKind};
use sha2::{Digest as _, Sha256};

use crate::rejection::Rejection;

/// For what never changes under its name.
pub const FOR_EVER: &str = "public, max-age=31536000, immutable";

struct Asset {
    name: &'static str,
    media_type: &'static str,
    bytes: &'static [u8],
    path: LazyLock<String>,
}

static STYLESHEET: Asset = Asset {
    name: "app.css",
    media_type: "text/css; charset=utf-8",
    bytes: include_bytes!("../assets/app.css"),
    path: LazyLock::new(|| STYLESHEET.hashed_path()),
};

static ALL: [&Asset; 1] = [&STYLESHEET];

impl Asset {
    fn hashed_path(&self) -> String {
        let (stem, extension) = self.name.split_once('.').unwrap_or((self.name, ""));
        format!("/assets/{stem}-{}.{extension}", short_hash(self.bytes))
    }
}

/// Sixteen hexadecimal digits that change when the bytes do.
pub fn short_hash(bytes: &[u8]) -> String {
    hex::encode(&Sha256::digest(bytes)[..8])
}

/// `asset("app.css")` in templates.
pub fn path(name: String) -> Result<String, Error> {
    let asset = ALL.iter().find(|asset| asset.name == name);
    asset
        .map(|asset| asset.path.clone())
        .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, format!("no asset {name}")))
}

/// `GET /assets/{name}`
pub async fn show(Path(name): Path<String>) -> Result<Response, Rejection> {
    let path = format!("/assets/{name}");
    let asset = ALL.iter().find(|asset| *asset.path == path).ok_or(Rejection::NotFound)?;
    let headers = [(header::CONTENT_TYPE, asset.media_type), (header::CACHE_CONTROL, FOR_EVER)];
    Ok((headers, asset.bytes).into_response())
}
