//! The HTTP client that authorities are spoken to with: time and size are bounded, and what a
//! server says of waiting is kept, also where the ACME library drops it.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, StatusCode, header::RETRY_AFTER};
use http_body_util::BodyExt;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use time::{OffsetDateTime, format_description::well_known::Rfc2822};

/// Longest time for a connection to an authority.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest time for an answer.
const ANSWER: Duration = Duration::from_secs(30);
/// Largest answer, in bytes: a chain is some 6 KiB.
const MAX_BYTES: usize = 256 * 1024;
/// How long to wait at most because a server says so.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);
/// For renewal information that comes without it: the library insists on one.
const DEFAULT_RETRY_AFTER: HeaderValue = HeaderValue::from_static("21600");

tokio::task_local! {
    static SAID: Cell<Option<Duration>>;
}

/// Runs `work` with a memory for the last `Retry-After` that it was told.
pub async fn remembering<T>(work: impl Future<Output = T>) -> T {
    SAID.scope(Cell::new(None), work).await
}

/// How long the last answer asked to wait, if it did.
pub fn told_to_wait() -> Option<Duration> {
    SAID.try_with(Cell::get).ok().flatten()
}

/// Speaks HTTPS to one authority.
#[derive(Clone, Debug)]
pub struct AcmeHttp(reqwest::Client);

impl AcmeHttp {
    /// Trusts the system's authorities and `roots` (DER).
    ///
    /// # Errors
    /// When no client can be made of these.
    pub fn new(roots: &[Vec<u8>]) -> Result<Self, reqwest::Error> {
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("ta3lem/", env!("CARGO_PKG_VERSION")));
        // Roots of the system that cannot be read are of no use to anybody else either.
        for root in rustls_native_certs::load_native_certs().certs {
            if let Ok(root) = reqwest::Certificate::from_der(&root) {
                builder = builder.add_root_certificate(root);
            }
        }
        for root in roots {
            builder = builder.add_root_certificate(reqwest::Certificate::from_der(root)?);
        }
        Ok(Self(builder.build()?))
    }

    /// A document, as the directory.
    ///
    /// # Errors
    /// When the server does not answer with one.
    pub async fn get_json<T: serde::de::DeserializeOwned>(
        &self,
        url: &str,
    ) -> Result<T, reqwest::Error> {
        self.0.get(url).send().await?.error_for_status()?.json().await
    }

    async fn send(self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Error> {
        let (parts, body) = request.into_parts();
        let Ok(body) = body.collect().await;
        let is_get = parts.method == Method::GET;
        let answer = self
            .0
            .request(parts.method, parts.uri.to_string())
            .headers(parts.headers)
            .body(body.to_bytes())
            .send()
            .await
            .map_err(|error| Error::Other(Box::new(error)))?;
        let mut response: http::Response<reqwest::Body> = answer.into();
        let wait = response.headers().get(RETRY_AFTER).and_then(read_wait);
        let _ = SAID.try_with(|said| said.set(wait));
        if is_get && response.status() == StatusCode::OK && wait.is_none() {
            response.headers_mut().insert(RETRY_AFTER, DEFAULT_RETRY_AFTER);
        }
        let (parts, mut body) = response.into_parts();
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Error::Other(Box::new(error)))?;
            if let Some(data) = frame.data_ref() {
                bytes.extend_from_slice(data);
            }
            if bytes.len() > MAX_BYTES {
                return Err(Error::Str("an answer of reasonable size"));
            }
        }
        Ok(BytesResponse { parts, body: Box::new(bytes.freeze()) })
    }
}

impl HttpClient for AcmeHttp {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        Box::pin(self.clone().send(request))
    }
}

/// Seconds, or a date.
fn read_wait(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(secs) => Duration::from_secs(secs),
        Err(_) => {
            let at = OffsetDateTime::parse(&text.replace("GMT", "+0000"), &Rfc2822).ok()?;
            SystemTime::from(at).duration_since(SystemTime::now()).unwrap_or_default()
        }
    };
    Some(wait.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_in_seconds_or_until_a_date() {
        let read = |text: &'static str| read_wait(&HeaderValue::from_static(text));
        assert_eq!(read("120"), Some(Duration::from_secs(120)));
        assert_eq!(read("99999999999"), Some(LONGEST_WAIT));
        assert_eq!(read("Fri, 31 Dec 1999 23:59:59 GMT"), Some(Duration::ZERO));
        assert_eq!(read("Fri, 31 Dec 2100 23:59:59 GMT"), Some(LONGEST_WAIT));
        assert_eq!(read("soon"), None);
    }
}
