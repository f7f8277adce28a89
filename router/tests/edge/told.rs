//! What the router tells of its work, once it is as a story wishes.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::stack::{Site, Stack};

const PATIENCE: Duration = Duration::from_secs(30);

impl Stack {
    /// What the router says of a site, once it is as wished.
    pub async fn site_until(&self, site: &Site, wished: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let text = self.admin(&format!("/sites/{}", site.id)).await;
            let seen = serde_json::from_str(&text).unwrap_or_default();
            if wished(&seen) {
                return seen;
            }
            assert!(begun.elapsed() < PATIENCE, "still {seen}: {}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The status of all processes, once it is as wished.
    pub async fn status_until(&self, wished: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let text = self.admin("/status").await;
            // A process that is being replaced may close without an answer.
            let status: Value = serde_json::from_str(&text).unwrap_or_default();
            if wished(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(begun.elapsed() < PATIENCE, "still {status}");
        }
    }

    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.admin("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        line.unwrap_or_default()
    }

    pub async fn metric_above(&self, name: &str, least: f64) {
        self.metric_until(name, |value| value > least).await;
    }

    pub async fn metric_until(&self, name: &str, wished: impl Fn(f64) -> bool) {
        let begun = Instant::now();
        loop {
            let value = self.metric(name).await;
            if wished(value) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{name} stays {value}: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
