//! One JSON line for each request, and for each connection that goes to another region, on the
//! process's standard error like all other lines. A thread of its own writes them; when it cannot
//! follow, lines are dropped and counted, and no request waits.
//! The line holds the client's address and no other personal data: no query, no header, and no part
//! of a path that looks like a secret.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use metrics::Counter;
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

mod writer;

use writer::Writer;

const FINISH_TIMEOUT: Duration = Duration::from_millis(500);
/// A part of a path at least this long may be a secret.
const SECRET_MIN_LENGTH: usize = 24;

/// One request, as written.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the names are the documentation of the log's fields")]
pub struct Line<'a> {
    pub timestamp: String,
    pub level: &'static str,
    pub target: &'static str,
    pub message: &'static str,
    #[serde(rename = "request.id")]
    pub request_id: &'a str,
    #[serde(rename = "site.id", skip_serializing_if = "Option::is_none")]
    pub site_id: Option<control_types::SiteId>,
    pub host: &'a str,
    pub method: &'a str,
    pub path: Cow<'a, str>,
    pub protocol: &'static str,
    pub status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub aborted: bool,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_byte_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_ms: Option<f64>,
    #[serde(rename = "trace.id", skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u32,
    pub client: IpAddr,
}

/// A connection that went to another region, as written.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the names are the documentation of the log's fields")]
pub struct PassedLine<'a> {
    pub timestamp: String,
    pub level: &'static str,
    pub target: &'static str,
    pub message: &'static str,
    pub host: &'a str,
    pub region: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub router: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub duration_ms: f64,
    pub client: IpAddr,
}

impl PassedLine<'_> {
    /// A line of this moment, to be filled in.
    pub fn now() -> Self {
        Self {
            timestamp: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
            level: "INFO",
            target: "access",
            message: "passed on",
            host: "",
            region: "",
            router: None,
            error: None,
            received_bytes: 0,
            sent_bytes: 0,
            duration_ms: 0.0,
            client: Ipv4Addr::UNSPECIFIED.into(),
        }
    }
}

/// Milliseconds as written.
pub fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Where the lines go.
#[derive(Debug)]
pub struct AccessLog {
    writer: Option<Writer>,
    dropped: Counter,
}

impl AccessLog {
    /// A log that writes, unless the filter of the log leaves these lines out.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start() -> std::io::Result<Self> {
        let dropped = metrics::counter!("router_access_log_dropped_total");
        let is_on = tracing::enabled!(target: "access", tracing::Level::INFO);
        let writer = is_on.then(|| Writer::start(std::io::stderr())).transpose()?;
        Ok(Self { writer, dropped })
    }

    /// Whether lines are written at all.
    pub fn is_on(&self) -> bool {
        self.writer.is_some()
    }

    /// Writes a line some time soon.
    pub fn write(&self, line: &impl Serialize) {
        let Some(writer) = &self.writer else { return };
        let appended = writer.append(|buffer| {
            // Writing into memory cannot fail, and all fields of a line can be written.
            let _ = serde_json::to_writer(&mut *buffer, line);
            buffer.push(b'\n');
        });
        if !appended {
            self.dropped.increment(1);
        }
    }

    /// Waits until what was logged is written, for a moment at most.
    pub fn finish(&self) {
        if let Some(writer) = &self.writer {
            writer.finish(FINISH_TIMEOUT);
        }
    }
}

/// The path without what looks like a secret, as the token of an invitation.
pub fn without_secrets(path: &str) -> Cow<'_, str> {
    if !path.split('/').any(looks_secret) {
        return Cow::Borrowed(path);
    }
    let parts: Vec<_> =
        path.split('/').map(|part| if looks_secret(part) { "[redacted]" } else { part }).collect();
    Cow::Owned(parts.join("/"))
}

/// Long, with digits, and not made of words: slugs have hyphens and no capitals, ids are UUIDs.
fn looks_secret(part: &str) -> bool {
    part.len() >= SECRET_MIN_LENGTH
        && part.bytes().any(|b| b.is_ascii_digit())
        && (part.bytes().any(|b| b.is_ascii_uppercase()) || !part.contains(['-', '.']))
        && uuid::Uuid::try_parse(part).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_left_out_and_names_are_not() {
        for kept in [
            "/",
            "/course/introduction-to-programming-2024/lesson/3",
            "/content/0197c2a5-8f3e-7a40-9d3f-0242ac120002",
            "/assets/app.3f2a1b.css",
        ] {
            assert_eq!(without_secrets(kept), kept);
        }
        for token in ["k3Jx9_aB-27hsLqpZ0yRtuVw1mNoEcD4fGhI5jKlMn8", "0a1b2c3d4e5f0a1b2c3d4e5f"] {
            assert_eq!(without_secrets(&format!("/invitation/{token}")), "/invitation/[redacted]");
        }
    }
}
