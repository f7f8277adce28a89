//! The typed client, for the CLI and the tests.

mod backups;
mod certificates;
mod domains;
mod moves;
mod previews;

use std::time::Duration;

use control_types::OperationId;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    operations::{Operation, OperationFilter, OperationNews},
    places::{Cluster, ObjectStore, Plan, PutCluster, PutObjectStore, PutRegion, Region, Router},
    problem::{self, Problem},
    routers::{HoldSite, RouterStatus, SiteHold},
    sites::{Accepted, ChangeSite, CreateSite, DeleteSite, DryRun, Site},
    status::Status,
};

/// Longest time to wait for an answer, besides what the request itself waits for.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The provisioner refused, and said why.
    #[error("{0}")]
    Refused(Box<Problem>),
    /// Nobody answered.
    #[error("the provisioner at {url} does not answer")]
    Unreachable {
        /// Its URL.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// Somebody answered who is no provisioner, or one of another version.
    #[error("{url} answered {status} with something that is not the provisioner's API")]
    Unexpected {
        /// The URL asked.
        url: String,
        /// The status.
        status: u16,
    },
}

impl ClientError {
    /// The provisioner's own words, if it answered.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refused(problem) => Some(problem),
            _ => None,
        }
    }
}

/// A provisioner, seen over HTTP.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    token: String,
}

type Result<T> = std::result::Result<T, ClientError>;

impl Client {
    /// For the provisioner at `url` (as `http://127.0.0.1:7000`), as the holder of `token`.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(url: &str, token: &str) -> Result<Self> {
        let url = url.trim_end_matches('/').to_owned();
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            // A proxy of the environment is for the web; it must not see the token.
            .no_proxy()
            .build()
            .map_err(|source| ClientError::Unreachable { url: url.clone(), source })?;
        Ok(Self { http, url, token: token.to_owned() })
    }

    /// Whether the provisioner answers at all.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ready(&self) -> Result<()> {
        let request = self.http.get(format!("{}/readyz", self.url)).timeout(TIMEOUT);
        let answer = request.send().await.map_err(|source| self.unreachable(source))?;
        if answer.status().is_success() {
            return Ok(());
        }
        let (url, status) = (answer.url().to_string(), answer.status().as_u16());
        Err(answer.json().await.map_or(ClientError::Unexpected { url, status }, |problem| {
            ClientError::Refused(Box::new(problem))
        }))
    }

    /// All regions.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn regions(&self) -> Result<Vec<Region>> {
        self.get("/v1/regions").await
    }

    /// Makes a region, or changes it.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn put_region(&self, name: &str, region: &PutRegion) -> Result<Region> {
        self.send(Method::PUT, &format!("/v1/regions/{name}"), region).await
    }

    /// All clusters.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn clusters(&self) -> Result<Vec<Cluster>> {
        self.get("/v1/clusters").await
    }

    /// Makes a cluster known, or changes it.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn put_cluster(&self, name: &str, cluster: &PutCluster) -> Result<Cluster> {
        self.send(Method::PUT, &format!("/v1/clusters/{name}"), cluster).await
    }

    /// All object stores.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn object_stores(&self) -> Result<Vec<ObjectStore>> {
        self.get("/v1/object-stores").await
    }

    /// Makes an object store known, or changes it.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn put_object_store(
        &self,
        name: &str,
        store: &PutObjectStore,
    ) -> Result<ObjectStore> {
        self.send(Method::PUT, &format!("/v1/object-stores/{name}"), store).await
    }

    /// All routers.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn routers(&self) -> Result<Vec<Router>> {
        self.get("/v1/routers").await
    }

    /// Makes a router known, or changes it.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn put_router(&self, name: &str, router: &Router) -> Result<Router> {
        self.send(Method::PUT, &format!("/v1/routers/{name}"), router).await
    }

    /// How a router is.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn router_status(&self, name: &str) -> Result<RouterStatus> {
        self.get(&format!("/v1/routers/{}/status", segment(name))).await
    }

    /// All plans.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn plans(&self) -> Result<Vec<Plan>> {
        self.get("/v1/plans").await
    }

    /// All sites that are not deleted.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn sites(&self) -> Result<Vec<Site>> {
        self.get("/v1/sites").await
    }

    /// One site, by slug or id.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn site(&self, site: &str) -> Result<Site> {
        self.get(&format!("/v1/sites/{}", segment(site))).await
    }

    /// Makes a site. The same `idempotency_key` again returns the same operation.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn create_site(&self, site: &CreateSite, idempotency_key: &str) -> Result<Accepted> {
        let request = self
            .request(Method::POST, "/v1/sites")
            .header("idempotency-key", idempotency_key)
            .json(site);
        self.answer(request).await
    }

    /// What making a site would do.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn plan_create_site(&self, site: &CreateSite) -> Result<DryRun> {
        let site = CreateSite { dry_run: true, ..site.clone() };
        self.send(Method::POST, "/v1/sites", &site).await
    }

    /// Deletes a site after its grace period.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn delete_site(
        &self,
        site: &str,
        delete: &DeleteSite,
        idempotency_key: &str,
    ) -> Result<Accepted> {
        let request = self
            .request(Method::DELETE, &format!("/v1/sites/{}", segment(site)))
            .header("idempotency-key", idempotency_key)
            .json(delete);
        self.answer(request).await
    }

    /// What deleting a site would do.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn plan_delete_site(&self, site: &str, delete: &DeleteSite) -> Result<DryRun> {
        let delete = DeleteSite { dry_run: true, ..delete.clone() };
        self.send(Method::DELETE, &format!("/v1/sites/{}", segment(site)), &delete).await
    }

    /// Closes a site.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn suspend_site(&self, site: &str, change: &ChangeSite) -> Result<Site> {
        self.send(Method::POST, &format!("/v1/sites/{}/suspend", segment(site)), change).await
    }

    /// Opens a closed site again.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn resume_site(&self, site: &str, change: &ChangeSite) -> Result<Site> {
        self.send(Method::POST, &format!("/v1/sites/{}/resume", segment(site)), change).await
    }

    /// Lets the requests of a site wait at all routers.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn hold_site(&self, site: &str, hold: &HoldSite) -> Result<SiteHold> {
        self.send(Method::POST, &format!("/v1/sites/{}/hold", segment(site)), hold).await
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn release_site(&self, site: &str, change: &ChangeSite) -> Result<SiteHold> {
        self.send(Method::DELETE, &format!("/v1/sites/{}/hold", segment(site)), change).await
    }

    /// Operations, the newest first.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn operations(&self, filter: &OperationFilter) -> Result<Vec<Operation>> {
        self.answer(self.request(Method::GET, "/v1/operations").query(filter)).await
    }

    /// One operation.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn operation(&self, id: OperationId) -> Result<Operation> {
        self.get(&format!("/v1/operations/{id}")).await
    }

    /// Waits up to `wait` for something to happen in an operation after event `after_seq`
    /// (0 for all events).
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn operation_news(
        &self,
        id: OperationId,
        after_seq: i32,
        wait: Duration,
    ) -> Result<OperationNews> {
        let path = format!("/v1/operations/{id}/events");
        let request = self
            .request(Method::GET, &path)
            .query(&[("after_seq", i64::from(after_seq)), ("wait_secs", secs(wait))])
            .timeout(wait + TIMEOUT);
        self.answer(request).await
    }

    /// Waits for an operation to end, however long it takes.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn wait_for(&self, id: OperationId) -> Result<Operation> {
        let mut seq = 0;
        loop {
            let news = self.operation_news(id, seq, Duration::from_secs(20)).await?;
            seq = news.events.last().map_or(seq, |event| event.seq);
            let state = news.operation.state;
            if state.is_final() || state == control_types::state::OperationState::Stuck {
                return Ok(news.operation);
            }
        }
    }

    /// Asks an operation to stop and undo what it did.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn cancel_operation(&self, id: OperationId) -> Result<Operation> {
        self.send(Method::POST, &format!("/v1/operations/{id}/cancel"), &()).await
    }

    /// Lets a stuck operation try again.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn retry_operation(&self, id: OperationId) -> Result<Operation> {
        self.send(Method::POST, &format!("/v1/operations/{id}/retry"), &()).await
    }

    /// How the platform is.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn status(&self) -> Result<Status> {
        self.get("/v1/status").await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.answer(self.request(Method::GET, path)).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        self.answer(self.request(method, path).json(body)).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(&self.token)
            .timeout(TIMEOUT)
    }

    async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let answer = request.send().await.map_err(|source| self.unreachable(source))?;
        let (url, status) = (answer.url().to_string(), answer.status());
        let is_problem = answer
            .headers()
            .get("content-type")
            .is_some_and(|kind| kind.as_bytes().starts_with(problem::CONTENT_TYPE.as_bytes()));
        let unexpected = |_| ClientError::Unexpected { url: url.clone(), status: status.as_u16() };
        if is_problem {
            let problem = answer.json().await.map_err(unexpected)?;
            return Err(ClientError::Refused(Box::new(problem)));
        }
        if status.is_success() && status != StatusCode::NO_CONTENT {
            return answer.json().await.map_err(unexpected);
        }
        Err(ClientError::Unexpected { url, status: status.as_u16() })
    }

    fn unreachable(&self, source: reqwest::Error) -> ClientError {
        ClientError::Unreachable { url: self.url.clone(), source: source.without_url() }
    }
}

fn secs(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// `text` as one segment of a path. Slugs and ids need no escaping; anything else must not be able
/// to reach another path.
fn segment(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => escaped.push(byte.into()),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_stays_one() {
        assert_eq!(segment("acme-2"), "acme-2");
        assert_eq!(segment("../x y"), "%2E%2E%2Fx%20y");
    }
}
