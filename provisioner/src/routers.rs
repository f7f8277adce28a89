//! Asks routers what they know, at their private listeners.

use std::time::Duration;

use provisioner_api::places::Router;
use serde::de::DeserializeOwned;

/// Longest time for one answer.
const ANSWER: Duration = Duration::from_secs(1);

/// What a router answers at `path`.
///
/// # Errors
/// When it does not answer, or not with that.
pub async fn ask<T: DeserializeOwned>(
    http: &reqwest::Client,
    router: &Router,
    path: &str,
) -> Result<T, reqwest::Error> {
    let url = format!("{}{path}", router.admin_url.trim_end_matches('/'));
    let answer = http.get(&url).timeout(ANSWER).send().await?;
    answer.error_for_status()?.json().await
}
