//! The key administration of an object store: keys that reach one prefix of its bucket each.

use std::time::Duration;

use reqwest::{Client, Method, Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::{KeyPrefix, SiteStorageError};

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A key of one prefix. Its secret is not told again.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct StorageKey {
    /// The key.
    pub access_key: String,
    /// The bucket that it reaches.
    pub bucket: String,
    /// The prefix there.
    pub prefix: String,
}

#[derive(Serialize)]
struct PutKey<'a> {
    read_only: bool,
    secret_key: &'a str,
    bucket: &'a str,
    prefix: &'a str,
}

/// Client of the key administration. Every call may be made again.
pub struct StorageKeyAdmin {
    store: String,
    bucket: String,
    url: String,
    token: String,
    http: Client,
}

impl StorageKeyAdmin {
    pub(super) fn new(
        store: &str,
        bucket: &str,
        url: &str,
        token: &str,
    ) -> Result<Self, SiteStorageError> {
        let http = Client::builder()
            .timeout(REQUEST_TIMEOUT)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| SiteStorageError::of_http(store, error))?;
        Ok(Self {
            store: store.to_owned(),
            bucket: bucket.to_owned(),
            url: url.trim_end_matches('/').to_owned(),
            token: token.to_owned(),
            http,
        })
    }

    /// Gives a key to a prefix. A key that is there gets this secret and this reach.
    ///
    /// # Errors
    /// When the object store is down or refuses.
    pub async fn ensure_key(
        &self,
        access_key: &str,
        secret_key: &str,
        prefix: &impl KeyPrefix,
    ) -> Result<(), SiteStorageError> {
        self.put(access_key, secret_key, prefix, false).await
    }

    /// The same for a key that may only read what is there.
    ///
    /// # Errors
    /// When the object store is down or refuses.
    pub async fn ensure_read_key(
        &self,
        access_key: &str,
        secret_key: &str,
        prefix: &impl KeyPrefix,
    ) -> Result<(), SiteStorageError> {
        self.put(access_key, secret_key, prefix, true).await
    }

    async fn put(
        &self,
        access_key: &str,
        secret_key: &str,
        prefix: &impl KeyPrefix,
        read_only: bool,
    ) -> Result<(), SiteStorageError> {
        let prefix = prefix.to_string();
        let body = PutKey { read_only, secret_key, bucket: &self.bucket, prefix: &prefix };
        let request = self.request(Method::PUT, Some(access_key)).json(&body);
        self.send("make a key", request).await.map(drop)
    }

    /// Removes the key, if it is there.
    ///
    /// # Errors
    /// When the object store is down or refuses.
    pub async fn remove_key(&self, access_key: &str) -> Result<(), SiteStorageError> {
        let request = self.request(Method::DELETE, Some(access_key));
        match self.send("remove a site's key", request).await {
            Err(SiteStorageError::Refused { status: Some(404), .. }) => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// All keys of prefixes of this store's bucket.
    ///
    /// # Errors
    /// When the object store is down or refuses.
    pub async fn list_keys(&self) -> Result<Vec<StorageKey>, SiteStorageError> {
        let request = self.request(Method::GET, None);
        let answer = self.send("list the keys of sites", request).await?;
        let keys: Vec<StorageKey> =
            answer.json().await.map_err(|error| SiteStorageError::of_http(&self.store, error))?;
        Ok(keys.into_iter().filter(|key| key.bucket == self.bucket).collect())
    }

    pub(super) async fn probe(&self) -> Result<(), SiteStorageError> {
        self.send("list the keys of sites", self.request(Method::GET, None)).await.map(drop)
    }

    fn request(&self, method: Method, access_key: Option<&str>) -> reqwest::RequestBuilder {
        let url = match access_key {
            Some(access_key) => format!("{}/{access_key}", self.url),
            None => self.url.clone(),
        };
        self.http.request(method, url).bearer_auth(&self.token)
    }

    async fn send(
        &self,
        action: &'static str,
        request: reqwest::RequestBuilder,
    ) -> Result<Response, SiteStorageError> {
        let sent = request.send().await;
        let answer = sent.map_err(|error| SiteStorageError::of_http(&self.store, error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        // The answer's body could repeat the secret that was sent, so it is not shown.
        let reason = if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
            format!("{status}: see that `key_admin_token` is right")
        } else {
            status.to_string()
        };
        Err(SiteStorageError::Refused {
            store: self.store.clone(),
            action,
            reason,
            status: Some(status.as_u16()),
        })
    }
}
