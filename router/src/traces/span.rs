//! A sampled request as spans, named by the stable semantic conventions for HTTP. There is nothing in
//! them that the access log may not have: no query, no header, no body, and no part of a path that
//! looks like a secret.

use std::{net::IpAddr, sync::Arc, time::SystemTime};

use control_types::{Generation, SiteId};
use http::{HeaderValue, Method, StatusCode, Version};
use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, Value,
    trace::{Event, Link, SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use tokio::time::{Duration, Instant};

use super::Trace;
use crate::rejection::Reason;

/// Longest path that is told, in bytes.
const MAX_PATH_BYTES: usize = 1_024;

/// What is known of a sampled request when it is over.
#[derive(Debug)]
#[allow(missing_docs, reason = "the fields are those of the record")]
pub struct Finished {
    pub trace: Box<Trace>,
    pub begun: Instant,
    pub duration: Duration,
    pub first_byte: Option<Duration>,
    pub request_id: HeaderValue,
    pub method: Method,
    pub version: Version,
    pub tls: bool,
    pub https_port: u16,
    pub host: Option<Arc<str>>,
    pub path: String,
    pub site: Option<(SiteId, Generation)>,
    pub status: Option<StatusCode>,
    pub reason: Option<Reason>,
    pub complete: bool,
    pub retries: u32,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub client: IpAddr,
}

impl Finished {
    /// The span of the request, and one for each thing that it waited for.
    pub fn spans(self, scope: &InstrumentationScope) -> Vec<SpanData> {
        let (own, begun) = (self.trace.span_context(), self.trace.begun);
        let at = |moment: Instant| begun + moment.saturating_duration_since(self.begun);
        let mut spans = Vec::with_capacity(1 + self.trace.parts.len());
        for (part, from, time) in &self.trace.parts {
            spans.push(SpanData {
                span_context: self.trace.own.child(true).span_context(false, TraceState::NONE),
                parent_span_id: own.span_id(),
                name: part.name().into(),
                ..bare(at(*from), at(*from + *time), own.clone(), scope)
            });
        }
        let mut span = bare(begun, begun + self.duration, own, scope);
        let parent =
            self.trace.parent.map(|parent| SpanId::from_bytes(parent.span_id.to_be_bytes()));
        span.parent_span_is_remote = parent.is_some();
        span.parent_span_id = parent.unwrap_or(SpanId::INVALID);
        span.span_kind = SpanKind::Server;
        span.name = known(&self.method).unwrap_or("HTTP").into();
        span.attributes = self.attributes();
        if let Some(first_byte) = self.first_byte {
            let event = Event::new("first_byte", begun + first_byte, Vec::new(), 0);
            span.events.events.push(event);
        }
        if let Some(link) = self.trace.link {
            let context = link.span_context(true, TraceState::NONE);
            span.links.links.push(Link::with_context(context));
        }
        if self.status.is_some_and(|status| status.is_server_error()) {
            span.status = Status::error("");
        }
        spans.push(span);
        spans
    }

    fn attributes(&self) -> Vec<KeyValue> {
        let mut attributes = Vec::with_capacity(20);
        let mut add =
            |name: &'static str, value: Value| attributes.push(KeyValue::new(name, value));
        add("http.request.method", known(&self.method).unwrap_or("_OTHER").into());
        add("url.scheme", if self.tls { "https" } else { "http" }.into());
        add("url.path", cut(&self.path).to_owned().into());
        add("network.protocol.version", version(self.version).into());
        add("client.address", self.client.to_string().into());
        if let Some(host) = &self.host {
            add("server.address", host.to_string().into());
            if self.tls {
                add("server.port", i64::from(self.https_port).into());
            }
        }
        if let Some(status) = self.status {
            add("http.response.status_code", i64::from(status.as_u16()).into());
            if status.is_server_error() {
                let kind = self.reason.map_or_else(|| status.as_u16().to_string(), reason);
                add("error.type", kind.into());
            }
        }
        if let Some((site, generation)) = self.site {
            add("ta3lem.site.id", site.to_string().into());
            add("ta3lem.site.generation", generation.0.into());
        }
        add("ta3lem.request.id", self.request_id.to_str().unwrap_or_default().to_owned().into());
        add("ta3lem.received_bytes", signed(self.received_bytes).into());
        add("ta3lem.sent_bytes", signed(self.sent_bytes).into());
        if let Some(why) = self.reason {
            add("ta3lem.reason", why.as_str().into());
        }
        if self.retries > 0 {
            add("ta3lem.retries", i64::from(self.retries).into());
        }
        if !self.complete {
            add("ta3lem.aborted", true.into());
        }
        attributes
    }
}

fn reason(reason: Reason) -> String {
    reason.as_str().to_owned()
}

fn bare(
    start_time: SystemTime,
    end_time: SystemTime,
    span_context: SpanContext,
    scope: &InstrumentationScope,
) -> SpanData {
    SpanData {
        span_context,
        parent_span_id: SpanId::INVALID,
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: "".into(),
        start_time,
        end_time,
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: scope.clone(),
    }
}

/// The methods that the conventions know; a client may send any.
fn known(method: &Method) -> Option<&'static str> {
    const KNOWN: [&str; 9] =
        ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"];
    KNOWN.into_iter().find(|known| method.as_str() == *known)
}

const fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    }
}

fn cut(path: &str) -> &str {
    &path[..path.floor_char_boundary(MAX_PATH_BYTES)]
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
