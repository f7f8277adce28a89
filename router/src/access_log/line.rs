//! The line of a request. Written by hand, since it is written for every request: a general
//! serialiser takes a tenth of what a request takes in all.

use std::{cell::Cell, time::Duration};

use control_types::SiteId;
use time::{OffsetDateTime, UtcOffset};

/// One request, as written.
#[derive(Debug)]
#[allow(missing_docs, reason = "the names are the documentation of the log's fields")]
pub struct Line<'a> {
    pub at: OffsetDateTime,
    pub request_id: &'a str,
    pub site_id: Option<SiteId>,
    pub host: &'a str,
    pub method: &'a str,
    pub path: &'a str,
    pub protocol: &'static str,
    pub status: u16,
    pub reason: Option<&'static str>,
    pub aborted: bool,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub duration: Duration,
    pub first_byte: Option<Duration>,
    pub upstream: Option<Duration>,
    pub held: Option<Duration>,
    pub queue: Option<Duration>,
    pub start: Option<Duration>,
    pub connect: Option<Duration>,
    pub trace_id: Option<&'a str>,
    pub retries: u32,
    pub client: &'a str,
}

impl Line<'_> {
    /// Appends the line, without its end.
    pub fn write_to(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(b"{\"timestamp\":\"");
        timestamp(to, self.at);
        to.extend_from_slice(
            b"\",\"level\":\"INFO\",\"target\":\"access\",\"message\":\"request\"",
        );
        plain(to, ",\"request.id\":\"", self.request_id);
        if let Some(id) = self.site_id {
            let mut buffer = uuid::Uuid::encode_buffer();
            plain(to, ",\"site.id\":\"", id.0.hyphenated().encode_lower(&mut buffer));
        }
        text(to, ",\"host\":\"", self.host);
        plain(to, ",\"method\":\"", self.method);
        text(to, ",\"path\":\"", self.path);
        plain(to, ",\"protocol\":\"", self.protocol);
        number(to, ",\"status\":", self.status.into());
        if let Some(reason) = self.reason {
            plain(to, ",\"reason\":\"", reason);
        }
        if self.aborted {
            to.extend_from_slice(b",\"aborted\":true");
        }
        number(to, ",\"received_bytes\":", self.received_bytes);
        number(to, ",\"sent_bytes\":", self.sent_bytes);
        millis(to, ",\"duration_ms\":", Some(self.duration));
        millis(to, ",\"first_byte_ms\":", self.first_byte);
        millis(to, ",\"upstream_ms\":", self.upstream);
        millis(to, ",\"held_ms\":", self.held);
        millis(to, ",\"queue_ms\":", self.queue);
        millis(to, ",\"start_ms\":", self.start);
        millis(to, ",\"connect_ms\":", self.connect);
        if let Some(id) = self.trace_id {
            plain(to, ",\"trace.id\":\"", id);
        }
        if self.retries > 0 {
            number(to, ",\"retries\":", self.retries.into());
        }
        plain(to, ",\"client\":\"", self.client);
        to.push(b'}');
    }
}

/// A text of which is known that it holds nothing that JSON writes in another way: ids, addresses,
/// tokens of HTTP. `before` ends with the quotation mark that begins the text.
fn plain(to: &mut Vec<u8>, before: &str, value: &str) {
    to.extend_from_slice(before.as_bytes());
    to.extend_from_slice(value.as_bytes());
    to.push(b'"');
}

/// Any text.
fn text(to: &mut Vec<u8>, before: &str, value: &str) {
    to.extend_from_slice(before.as_bytes());
    if value.bytes().any(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
        to.pop();
        // Writing text into memory cannot fail.
        let _ = serde_json::to_writer(to, value);
    } else {
        to.extend_from_slice(value.as_bytes());
        to.push(b'"');
    }
}

fn number(to: &mut Vec<u8>, before: &str, value: u64) {
    to.extend_from_slice(before.as_bytes());
    to.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// To the microsecond.
fn millis(to: &mut Vec<u8>, before: &str, value: Option<Duration>) {
    let Some(value) = value else { return };
    let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
    number(to, before, micros / 1_000);
    to.push(b'.');
    digits::<3>(to, micros % 1_000);
}

/// `N` digits, with zeros in front.
fn digits<const N: usize>(to: &mut Vec<u8>, mut value: u64) {
    let mut written = [b'0'; N];
    for digit in written.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
    to.extend_from_slice(&written);
}

thread_local! {
    // The second that was written last, and its text.
    static SECOND: Cell<(i64, [u8; 19])> = const { Cell::new((i64::MIN, [0; 19])) };
}

/// By RFC 3339, to the microsecond.
fn timestamp(to: &mut Vec<u8>, at: OffsetDateTime) {
    let (known, text) = SECOND.get();
    let begin = to.len();
    if known == at.unix_timestamp() {
        to.extend_from_slice(&text);
    } else {
        let at = at.to_offset(UtcOffset::UTC);
        digits::<4>(to, at.year().unsigned_abs().into());
        for (before, value) in [
            (b'-', u8::from(at.month())),
            (b'-', at.day()),
            (b'T', at.hour()),
            (b':', at.minute()),
            (b':', at.second()),
        ] {
            to.push(before);
            digits::<2>(to, value.into());
        }
        if let Some(text) = to.get(begin..).and_then(|text| text.try_into().ok()) {
            SECOND.set((at.unix_timestamp(), text));
        }
    }
    to.push(b'.');
    digits::<6>(to, at.microsecond().into());
    to.push(b'Z');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::format_description::well_known::Rfc3339;

    use super::*;

    fn line<'a>(path: &'a str, host: &'a str) -> Line<'a> {
        Line {
            at: OffsetDateTime::UNIX_EPOCH,
            request_id: "0197c2a58f3e7a409d3f0242ac120002",
            site_id: None,
            host,
            method: "GET",
            path,
            protocol: "h2",
            status: 200,
            reason: None,
            aborted: false,
            received_bytes: 0,
            sent_bytes: 0,
            duration: Duration::ZERO,
            first_byte: None,
            upstream: None,
            held: None,
            queue: None,
            start: None,
            connect: None,
            trace_id: None,
            retries: 0,
            client: "127.0.0.1",
        }
    }

    proptest! {
        #[test]
        fn every_line_is_json_that_says_what_was_given(
            path in "\\PC{0,40}|[\\x00-\\x7f]{0,40}",
            host in "[a-z.]{1,20}",
            seconds in 0_i64..4_102_444_800,
            micros in 0_u32..1_000_000,
            duration in 0_u64..100_000_000_000,
            bytes in any::<u64>(),
            retries in 0_u32..3,
            site in any::<bool>(),
        ) {
            let at = OffsetDateTime::from_unix_timestamp(seconds).expect("a date");
            let at = at.replace_microsecond(micros).expect("in range");
            let site = site.then(SiteId::generate);
            let written = Line {
                at,
                sent_bytes: bytes,
                duration: Duration::from_micros(duration),
                upstream: Some(Duration::from_micros(duration / 2)),
                reason: Some("busy"),
                site_id: site,
                retries,
                ..line(&path, &host)
            };
            let mut text = Vec::new();
            written.write_to(&mut text);
            let read: serde_json::Value = serde_json::from_slice(&text).expect("is JSON");
            prop_assert_eq!(read["path"].as_str(), Some(&*path));
            prop_assert_eq!(read["host"].as_str(), Some(&*host));
            prop_assert_eq!(read["sent_bytes"].as_u64(), Some(bytes));
            prop_assert_eq!(read["reason"].as_str(), Some("busy"));
            prop_assert_eq!(read["site.id"].as_str().map(str::to_owned), site.map(|id| id.to_string()));
            prop_assert_eq!(read["retries"].as_u64(), (retries > 0).then_some(retries.into()));
            prop_assert!(read.get("aborted").is_none() && read.get("held_ms").is_none());
            #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
            let expected = duration as f64 / 1e3;
            prop_assert!((read["duration_ms"].as_f64().expect("a number") - expected).abs() < 1e-6);
            let said = OffsetDateTime::parse(read["timestamp"].as_str().expect("text"), &Rfc3339);
            prop_assert_eq!(said.expect("a time"), at);
        }
    }
}
