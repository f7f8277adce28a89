//! A form that was sent, small and with its token checked: handlers that take [`Form`] cannot
//! forget the check.

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts as _, Request},
};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{rejection::Rejection, site::Site, visit::Visit};

/// Most bytes of a form without files.
pub const MAX_BYTES: usize = 64 * 1024;

/// A checked form and the visit that it came with.
pub struct Form<T>(pub Visit, pub T);

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    csrf: String,
}

impl<T: DeserializeOwned> FromRequest<Arc<Site>> for Form<T> {
    type Rejection = Rejection;

    async fn from_request(request: Request, site: &Arc<Site>) -> Result<Self, Rejection> {
        let (mut parts, body) = request.into_parts();
        let visit = Visit::from_request_parts(&mut parts, site).await?;
        let body = Bytes::from_request(Request::from_parts(parts, body), site)
            .await
            .map_err(|_| Rejection::TooLarge { limit: MAX_BYTES as u64 })?;
        let token: Token = parse(&body)?;
        visit.csrf.check(&token.csrf)?;
        let form = parse(&body)?;
        Ok(Self(visit, form))
    }
}

/// A form without fields of its own.
#[derive(Deserialize)]
pub struct Nothing {}

/// Every field is text; of a field that was sent twice the last counts.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Rejection> {
    let fields = url::form_urlencoded::parse(body)
        .map(|(name, value)| (name.into_owned(), value.into_owned().into()))
        .collect::<serde_json::Map<_, _>>();
    T::deserialize(serde_json::Value::Object(fields))
        .map_err(|error| Rejection::Invalid("invalid-form", error.to_string()))
}
