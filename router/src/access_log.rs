//! One JSON line for each request, on the process's standard error like all other lines. A thread of
//! its own writes them; when it cannot follow, lines are dropped and counted, and no request waits.
//! The line holds the client's address and no other personal data: no query, no header, and no part
//! of a path that looks like a secret.

use std::{
    borrow::Cow,
    io::Write,
    net::IpAddr,
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
};

use metrics::Counter;
use serde::Serialize;

/// Lines that may wait to be written.
const QUEUE_LINES: usize = 8_192;
/// The most written at once, in bytes.
const BATCH_BYTES: usize = 64 * 1024;
const FINISH_TIMEOUT: std::time::Duration = std::time::Duration::from_millis(500);
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
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u32,
    pub client: IpAddr,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A line to write, or somebody who waits until all lines before are written.
#[derive(Debug)]
enum Entry {
    Line(Vec<u8>),
    Mark(SyncSender<()>),
}

/// Where the lines go.
#[derive(Debug)]
pub struct AccessLog {
    lines: Option<SyncSender<Entry>>,
    dropped: Counter,
}

impl AccessLog {
    /// A log that writes, unless the filter of the log leaves these lines out.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start() -> std::io::Result<Self> {
        let dropped = metrics::counter!("router_access_log_dropped_total");
        if !tracing::enabled!(target: "access", tracing::Level::INFO) {
            return Ok(Self { lines: None, dropped });
        }
        let (lines, queue) = sync_channel(QUEUE_LINES);
        std::thread::Builder::new().name("access-log".into()).spawn(move || write_lines(&queue))?;
        Ok(Self { lines: Some(lines), dropped })
    }

    /// Whether lines are written at all.
    pub fn is_on(&self) -> bool {
        self.lines.is_some()
    }

    /// Writes a line some time soon.
    pub fn write(&self, line: &Line<'_>) {
        let Some(lines) = &self.lines else { return };
        let Ok(mut text) = serde_json::to_vec(line) else { return };
        text.push(b'\n');
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            lines.try_send(Entry::Line(text))
        {
            self.dropped.increment(1);
        }
    }

    /// Waits until what was logged is written, for a moment at most.
    pub fn finish(&self) {
        let Some(lines) = &self.lines else { return };
        let (mark, written) = sync_channel(1);
        if lines.try_send(Entry::Mark(mark)).is_ok() {
            let _ = written.recv_timeout(FINISH_TIMEOUT);
        }
    }
}

fn write_lines(queue: &Receiver<Entry>) {
    let mut batch = Vec::with_capacity(BATCH_BYTES);
    while let Ok(first) = queue.recv() {
        let mut next = Some(first);
        let mut waiting = None;
        while let Some(entry) = next {
            match entry {
                Entry::Line(line) => batch.extend(line),
                Entry::Mark(mark) => waiting = Some(mark),
            }
            let more = batch.len() < BATCH_BYTES && waiting.is_none();
            next = if more { queue.try_recv().ok() } else { None };
        }
        // Nothing can be said about a standard error that does not take anything.
        let _ = std::io::stderr().lock().write_all(&batch);
        batch.clear();
        if let Some(mark) = waiting {
            let _ = mark.send(());
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
