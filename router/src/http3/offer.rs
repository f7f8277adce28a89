//! What clients on other connections are told of HTTP/3 (RFC 7838): that it is spoken here, or that it
//! is not any more.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    Edge,
    record::{Client, Record, Way},
};

const ALT_SVC: HeaderName = HeaderName::from_static("alt-svc");
const CLEAR: HeaderValue = HeaderValue::from_static("clear");
/// How long a client may remember it, in seconds. Short: an operator who takes the address away again
/// wants to be done with it the same day.
const MAX_AGE_SECS: u32 = 3_600;

/// What is said in answers.
#[derive(Debug)]
pub struct Offer(HeaderValue);

impl Offer {
    /// HTTP/3 is spoken at a port of the address that the client is connected to.
    pub fn of_port(port: u16) -> Self {
        let value = HeaderValue::try_from(format!("h3=\":{port}\"; ma={MAX_AGE_SECS}"));
        Self(value.unwrap_or(CLEAR))
    }

    /// Says it, or takes it back where it does not hold: QUIC is not passed on between regions, so it
    /// is for those who came straight to a router of the site's own region.
    pub fn tell(&self, edge: &Edge, client: &Client, record: &Record, headers: &mut HeaderMap) {
        let at_home = record.site.as_ref().is_some_and(|site| *site.region == *edge.region);
        let value = match client.way {
            // The router that the client is connected to speaks for itself.
            Way::Relayed => return,
            Way::Straight if at_home => self.0.clone(),
            Way::Straight | Way::PassedOn => CLEAR,
        };
        headers.insert(ALT_SVC, value);
    }
}
