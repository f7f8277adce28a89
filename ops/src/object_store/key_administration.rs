//! The HTTP API by which the provisioner makes and removes the keys of sites:
//! `PUT {url}/{access_key}`, `DELETE {url}/{access_key}`, `GET {url}`; a bearer token opens it.

use std::path::Path;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use subtle::ConstantTimeEq as _;

use super::{
    keys::{Grant, Keys, is_plain_key},
    store::end_uploads_of,
};

/// Where the API lies. No bucket's name begins with an underscore.
pub const PATH: &str = "/_keys";

const MAX_BODY_BYTES: usize = 16 * 1024;

/// The API over the keys of one object store.
#[derive(Clone)]
pub struct KeyAdministration {
    keys: Keys,
    /// Where the objects lie, and the unfinished uploads beside them.
    objects: std::sync::Arc<Path>,
    token: std::sync::Arc<str>,
    /// The key of the operator: it is not to be changed over the API.
    admin_key: std::sync::Arc<str>,
}

#[derive(Serialize)]
struct KeyView<'a> {
    access_key: &'a str,
    bucket: &'a str,
    prefix: &'a str,
}

type Answer = Response<Full<Bytes>>;

impl KeyAdministration {
    /// Over these keys, for those who know `token`.
    pub fn new(keys: Keys, objects: &Path, token: &str, admin_key: &str) -> Self {
        let (objects, token, admin_key) = (objects.into(), token.into(), admin_key.into());
        Self { keys, objects, token, admin_key }
    }

    /// Whether a request is for this API.
    pub fn is_for(path: &str) -> bool {
        path.strip_prefix(PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Answers a request.
    pub async fn answer(&self, request: Request<Incoming>) -> Answer {
        if !self.knows_token(&request) {
            return problem(StatusCode::UNAUTHORIZED, "the bearer token is missing or wrong");
        }
        let path = request.uri().path().strip_prefix(PATH).unwrap_or_default().to_owned();
        let access_key = path.trim_start_matches('/');
        match (request.method(), access_key) {
            (&Method::GET, "") => self.list(),
            (&Method::PUT, key) if self.may_change(key) => self.put(key, request).await,
            (&Method::DELETE, key) if self.may_change(key) => {
                done(self.remove(key).await, StatusCode::NO_CONTENT)
            }
            (&Method::PUT | &Method::DELETE, _) => {
                problem(StatusCode::BAD_REQUEST, "not an access key that can be changed")
            }
            _ => problem(StatusCode::METHOD_NOT_ALLOWED, "GET, PUT and DELETE are possible"),
        }
    }

    /// First the key, so that it begins no more uploads; then the uploads that it left.
    async fn remove(&self, access_key: &str) -> anyhow::Result<()> {
        self.keys.remove(access_key).await?;
        let (objects, access_key) = (std::sync::Arc::clone(&self.objects), access_key.to_owned());
        tokio::task::spawn_blocking(move || end_uploads_of(&objects, &access_key)).await??;
        Ok(())
    }

    fn knows_token(&self, request: &Request<Incoming>) -> bool {
        let given = request.headers().get(header::AUTHORIZATION).map(http::HeaderValue::as_bytes);
        let given = given.and_then(|given| given.strip_prefix(b"Bearer ")).unwrap_or_default();
        given.ct_eq(self.token.as_bytes()).into()
    }

    fn may_change(&self, access_key: &str) -> bool {
        let plain =
            access_key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        (3..=128).contains(&access_key.len()) && plain && *access_key != *self.admin_key
    }

    fn list(&self) -> Answer {
        let grants = self.keys.all();
        let view: Vec<_> = grants
            .iter()
            .map(|(access_key, grant)| KeyView {
                access_key,
                bucket: &grant.bucket,
                prefix: &grant.prefix,
            })
            .collect();
        json(StatusCode::OK, &view)
    }

    async fn put(&self, access_key: &str, request: Request<Incoming>) -> Answer {
        let Ok(body) = Limited::new(request.into_body(), MAX_BODY_BYTES).collect().await else {
            return problem(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large or incomplete");
        };
        let grant: Grant = match serde_json::from_slice(&body.to_bytes()) {
            Ok(grant) => grant,
            // The error could quote the secret.
            Err(_) => {
                return problem(
                    StatusCode::BAD_REQUEST,
                    "not a JSON object with `secret_key`, `bucket` and `prefix`",
                );
            }
        };
        if grant.secret_key.len() < 16 {
            return problem(StatusCode::BAD_REQUEST, "secret_key: at least 16 characters");
        }
        if !s3s::path::check_bucket_name(&grant.bucket) {
            return problem(StatusCode::BAD_REQUEST, "bucket: not a bucket's name");
        }
        // Without a prefix it would be a key for everything.
        if !is_plain_key(&grant.prefix) {
            return problem(
                StatusCode::BAD_REQUEST,
                "prefix: not a prefix without slashes around it",
            );
        }
        done(self.keys.put(access_key, grant).await, StatusCode::NO_CONTENT)
    }
}

fn done(result: anyhow::Result<()>, status: StatusCode) -> Answer {
    match result {
        Ok(()) => {
            let mut answer = Response::new(Full::default());
            *answer.status_mut() = status;
            answer
        }
        Err(error) => {
            tracing::error!(
                error = format!("{error:#}"),
                "the object store's keys cannot be written"
            );
            problem(StatusCode::INTERNAL_SERVER_ERROR, "the keys cannot be written")
        }
    }
}

fn problem(status: StatusCode, detail: &str) -> Answer {
    json(status, &serde_json::json!({ "status": status.as_u16(), "detail": detail }))
}

fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let mut answer = Response::new(Full::from(serde_json::to_vec(body).unwrap_or_default()));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    answer
}
