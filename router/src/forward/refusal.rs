//! What an instance says when it did not process a request, so that it may be sent again.

use control_types::{Generation, headers as internal};
use http::{HeaderMap, Response, StatusCode};

use crate::route_table::Home;

/// Why an instance did nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It serves another site.
    WrongSite,
    /// It serves another generation, or its site has gone nobody knows where: the route is stale.
    WrongGeneration,
    /// Its database takes no writes any more: the site is on its way to another place.
    Fenced,
    /// Its site has gone there for good.
    Moved(Home),
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
            (StatusCode::MISDIRECTED_REQUEST, internal::REFUSED_MOVED) => {
                Some(home(response.headers()).map_or(Self::WrongGeneration, Self::Moved))
            }
            (StatusCode::SERVICE_UNAVAILABLE, internal::REFUSED_FENCED) => Some(Self::Fenced),
            _ => None,
        }
    }
}

fn home(headers: &HeaderMap) -> Option<Home> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let generation = Generation(text(internal::MOVED_GENERATION)?.parse().ok()?);
    Some(Home { generation, region: text(internal::MOVED_REGION)?.into() })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn who_has_moved_says_where_or_is_only_stale() {
        let answer = |generation: &'static str, region: Option<&'static str>| {
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::MISDIRECTED_REQUEST;
            let headers = response.headers_mut();
            headers.insert(internal::REFUSED, HeaderValue::from_static(internal::REFUSED_MOVED));
            headers.insert(internal::MOVED_GENERATION, HeaderValue::from_static(generation));
            if let Some(region) = region {
                headers.insert(internal::MOVED_REGION, HeaderValue::from_static(region));
            }
            response
        };
        let home = Home { generation: Generation(8), region: "r".into() };
        assert_eq!(Refusal::of(&answer("8", Some("r"))), Some(Refusal::Moved(home)));
        for stale in [answer("x", Some("r")), answer("8", None)] {
            assert_eq!(Refusal::of(&stale), Some(Refusal::WrongGeneration));
        }
        let mut served = answer("8", Some("r"));
        *served.status_mut() = StatusCode::OK;
        assert_eq!(Refusal::of(&served), None);
    }
}
