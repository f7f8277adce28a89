//! Spans of OpenTelemetry: one for each sampled request, with what it waited for below it, sent to a
//! collector by OTLP over HTTP. What is not sampled costs its ids; without a collector a request costs
//! one look. Who decides: a parent from trusted networks, and else chance alone, so that nobody outside
//! can make the router sample more.

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use http::{HeaderMap, HeaderName, Uri};
use opentelemetry::trace::{SpanContext, TraceFlags, TraceState};
use serde::Deserialize;
use tokio::time::{Duration, Instant};

use crate::{
    config::network::Network,
    record::{Client, Way},
};

pub mod context;
mod collector;
mod export;
mod span;

use context::Context;
pub use export::Exporter;
use export::Queue;
pub use span::Finished;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// The longest `tracestate` that is passed on, in bytes: what W3C Trace Context asks for at least.
const MAX_STATE_BYTES: usize = 512;

/// What the configuration may set under `traces`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where the collector takes spans, as `http://127.0.0.1:4318/v1/traces`.
    #[serde(deserialize_with = "uri")]
    pub endpoint: Uri,
    /// Which part of the requests is sampled, of those without a trusted parent; 0 to 1.
    #[serde(default = "some")]
    pub ratio: f64,
    /// The networks whose `traceparent` is believed, with its decision.
    #[serde(default)]
    pub parents_from: Vec<Network>,
}

const fn some() -> f64 {
    0.01
}

fn uri<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Uri, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

impl Settings {
    /// What is wrong with these settings.
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let known = matches!(self.endpoint.scheme_str(), Some("http" | "https"));
        if !known || self.endpoint.host().is_none_or(str::is_empty) {
            let wanted = "must be a URL, as http://127.0.0.1:4318/v1/traces";
            mistakes.push(format!("traces.endpoint: {wanted}"));
        }
        if !(0.0..=1.0).contains(&self.ratio) {
            mistakes.push("traces.ratio: must be between 0 and 1".to_owned());
        }
        mistakes
    }
}

/// Decides what is sampled, and keeps what is to be sent.
#[derive(Debug)]
pub struct Traces {
    /// Of 2^64.
    share: u64,
    all: bool,
    parents_from: Vec<Network>,
    queue: Arc<Queue>,
}

/// A sampled request on its way.
#[derive(Debug)]
pub struct Trace {
    own: Context,
    state: TraceState,
    parent: Option<Context>,
    /// A trace of somebody who is not believed, to be found from this one.
    link: Option<Context>,
    begun: SystemTime,
    parts: Vec<(Part, Instant, Duration)>,
}

/// What a request spent time on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Its site was held.
    Held,
    /// All connections to the instance were in use.
    Queue,
    /// There was no instance that listened.
    Start,
    /// A connection was made.
    Connect,
    /// The instance worked on the beginning of its answer.
    Upstream,
}

impl Traces {
    /// Sampling by these settings, and what sends the spans.
    ///
    /// # Errors
    /// When the collector's address cannot be used.
    pub fn new(
        settings: &Settings,
        router: &str,
        region: &str,
        tls: rustls::RootCertStore,
    ) -> anyhow::Result<(Self, Exporter)> {
        let (queue, exporter) = export::new(&settings.endpoint, router, region, tls)?;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "the share is between 0 and 2^64, and need not be exact"
        )]
        let share = (settings.ratio * u64::MAX as f64) as u64;
        let parents_from = settings.parents_from.clone();
        Ok((Self { share, all: settings.ratio >= 1.0, parents_from, queue }, exporter))
    }

    /// A request begins. Tells the instance by the headers to which trace it belongs; gives the trace
    /// if it is sampled.
    pub fn begin(&self, client: &Client, headers: &mut HeaderMap) -> Option<Box<Trace>> {
        let given = given(headers);
        let believed = client.way == Way::Relayed || self.believes(client.address);
        let (parent, link) = if believed { (given, None) } else { (None, given) };
        let own = match &parent {
            Some(parent) => parent.child(parent.sampled),
            None => Context::new(self.all || context::random() < self.share),
        };
        let mut state = TraceState::NONE;
        match headers.get(TRACESTATE) {
            Some(value) if parent.is_some() && value.len() <= MAX_STATE_BYTES => {
                let text = value.to_str().unwrap_or_default();
                match text.parse() {
                    Ok(known) => state = known,
                    Err(_) => drop(headers.remove(TRACESTATE)),
                }
            }
            Some(_) => drop(headers.remove(TRACESTATE)),
            None => {}
        }
        headers.insert(TRACEPARENT, own.header());
        own.sampled.then(|| {
            let (begun, parts) = (SystemTime::now(), Vec::new());
            Box::new(Trace { own, state, parent, link, begun, parts })
        })
    }

    fn believes(&self, peer: SocketAddr) -> bool {
        self.parents_from.iter().any(|network| network.contains(peer.ip()))
    }

    /// A sampled request is over; its spans are sent some time soon.
    pub fn ended(&self, finished: Finished) {
        self.queue.put(finished);
    }

    /// Waits until what ended is sent, for a moment at most.
    pub async fn finish(&self) {
        self.queue.flushed().await;
    }
}

/// What the client says; nothing when it says it twice or not as it should.
fn given(headers: &HeaderMap) -> Option<Context> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let only = values.next().filter(|_| values.next().is_none())?;
    Context::parse(only.as_bytes())
}

/// Whether a header of this name says to which trace a request belongs.
pub fn is_context(name: &HeaderName) -> bool {
    *name == TRACEPARENT || *name == TRACESTATE
}

impl Trace {
    /// The trace's id, as in logs.
    pub fn id(&self) -> String {
        format!("{:032x}", self.own.trace_id)
    }

    /// The request spent this time, until now or before.
    pub fn spent(&mut self, part: Part, begun: Instant, time: Duration) {
        self.parts.push((part, begun, time));
    }

    fn span_context(&self) -> SpanContext {
        self.own.span_context(false, self.state.clone())
    }
}

impl Context {
    fn span_context(&self, remote: bool, state: TraceState) -> SpanContext {
        let flags = TraceFlags::default().with_sampled(self.sampled);
        let (trace, span) = (self.trace_id.to_be_bytes(), self.span_id.to_be_bytes());
        let trace = opentelemetry::TraceId::from_bytes(trace);
        SpanContext::new(trace, opentelemetry::SpanId::from_bytes(span), flags, remote, state)
    }
}

impl Part {
    const fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Queue => "queue",
            Self::Start => "start",
            Self::Connect => "connect",
            Self::Upstream => "upstream",
        }
    }
}
