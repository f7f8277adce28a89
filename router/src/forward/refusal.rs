//! What an instance says when it did not process a request, so that it may be sent again.

use control_types::headers as internal;
use http::{Response, StatusCode};

/// Why an instance did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It serves another site.
    WrongSite,
    /// It serves another generation: the route is stale.
    WrongGeneration,
    /// Its database takes no writes any more: the site is on its way to another place.
    Fenced,
}

impl Refusal {
    /// The refusal that an answer is; none when the request was processed.
    pub fn of<B>(response: &Response<B>) -> Option<Self> {
        let value = response.headers().get(internal::REFUSED)?;
        match (response.status(), value.to_str().ok()?) {
            (StatusCode::MISDIRECTED_REQUEST, internal::REFUSED_SITE) => Some(Self::WrongSite),
            (StatusCode::MISDIRECTED_REQUEST, internal::REFUSED_GENERATION) => {
                Some(Self::WrongGeneration)
            }
            (StatusCode::SERVICE_UNAVAILABLE, internal::REFUSED_FENCED) => Some(Self::Fenced),
            _ => None,
        }
    }
}
