//! What is remembered of one request until its answer is over: then it is counted and logged, also
//! when the client left early.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use http::{HeaderValue, Method, StatusCode, Uri, Version};
use time::OffsetDateTime;
use tokio::{
    sync::Notify,
    time::{Duration, Instant},
};

use crate::{
    Edge,
    access_log::{Line, without_secrets},
    arrival::Visitor,
    forward::{tunnel::Agreed, upload::Upload},
    limits::addresses::Admission,
    listener::patient::WatchClient,
    rejection::Reason,
    request_id,
    route_table::Site,
    site_traffic::InFlight,
    traces::{Finished, Part, Trace},
    upstream::Waits,
};

/// How a connection came to this router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client, or a load balancer in front.
    Straight,
    /// Another region's router passed it on as it is.
    PassedOn,
    /// Another region's router decrypted a request and sends it here. It never goes further.
    Relayed,
}

/// The connection that a request came over.
#[derive(Debug)]
pub struct Client {
    /// The other end.
    pub address: SocketAddr,
    /// The address, without the port, as the value of a header.
    pub address_header: HeaderValue,
    /// The hostname in canonical form that the client named in its handshake.
    pub server_name: Option<Box<str>>,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// How the connection came.
    pub way: Way,
    /// What the address may take.
    pub admission: Admission,
    /// What is known of the stream below.
    pub stream: Arc<WatchClient>,
    leaving: Notify,
    switched: Mutex<Option<Box<Agreed>>>,
}

impl Client {
    /// The client of a connection over `stream`.
    pub fn new(
        visitor: Visitor,
        server_name: Option<Box<str>>,
        tls: bool,
        stream: Arc<WatchClient>,
    ) -> Self {
        let Visitor { address, way, admission, .. } = visitor;
        let address_header = HeaderValue::try_from(address.ip().to_string());
        Self {
            address,
            address_header: address_header.unwrap_or(HeaderValue::from_static("")),
            server_name,
            tls,
            way,
            admission,
            stream,
            leaving: Notify::new(),
            switched: Mutex::default(),
        }
    }

    /// Closes the connection after the requests that are on it: the next one is better made anew.
    pub fn send_away(&self) {
        self.leaving.notify_one();
    }

    /// The connection becomes a WebSocket once the answer is out.
    pub fn switch(&self, agreed: Agreed) {
        *self.switched.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(agreed));
    }

    /// What the connection became, if it did.
    pub fn switched(&self) -> Option<Box<Agreed>> {
        self.switched.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits until [`Client::send_away`].
    pub async fn sent_away(&self) {
        self.leaving.notified().await;
    }
}

/// One request. Counted and logged when dropped.
#[derive(Debug)]
pub struct Record {
    /// The request's id.
    pub id: HeaderValue,
    /// The method.
    pub method: Method,
    /// The hostname in canonical form, once known.
    pub host: Option<Arc<str>>,
    /// The site, once known.
    pub site: Option<Arc<Site>>,
    /// The status, once there is an answer.
    pub status: Option<StatusCode>,
    /// Why it was not forwarded.
    pub reason: Option<Reason>,
    /// How long the instance took to begin its answer.
    pub upstream: Option<Duration>,
    /// How long it took until the head of the answer was there.
    pub first_byte: Option<Duration>,
    /// How long it waited for a held site.
    pub held: Option<Duration>,
    /// What else it waited for.
    pub waits: Option<Box<Waits>>,
    /// The trace that it is a span of, if that is sampled.
    pub trace: Option<Box<Trace>>,
    /// How often it was sent again.
    pub retries: u32,
    /// The body that the client sent.
    pub upload: Option<Arc<Upload>>,
    /// Bytes of the answer's body.
    pub sent_bytes: u64,
    /// Whether the answer was handed out to its end.
    pub complete: bool,
    /// Counts the request of the site for as long as its answer lasts.
    pub in_flight: Option<InFlight>,
    edge: Arc<Edge>,
    client: Arc<Client>,
    uri: Uri,
    version: Version,
    begun: Instant,
}

impl Record {
    /// A request begins. On the heap, since it goes from hand to hand until its answer is over.
    pub fn begin(
        edge: &Arc<Edge>,
        client: &Arc<Client>,
        method: &Method,
        uri: &Uri,
        version: Version,
    ) -> Box<Self> {
        edge.metrics.in_flight.increment(1.0);
        client.stream.request_begins();
        Box::new(Self {
            id: request_id::next(),
            method: method.clone(),
            host: None,
            site: None,
            status: None,
            reason: None,
            upstream: None,
            first_byte: None,
            held: None,
            waits: None,
            trace: None,
            retries: 0,
            upload: None,
            sent_bytes: 0,
            complete: false,
            in_flight: None,
            edge: Arc::clone(edge),
            client: Arc::clone(client),
            uri: uri.clone(),
            version,
            begun: Instant::now(),
        })
    }

    /// When the request began.
    pub const fn begun(&self) -> Instant {
        self.begun
    }

    /// There is an answer to send.
    pub fn answers(&mut self, status: StatusCode) {
        self.status = Some(status);
        self.first_byte = Some(self.begun.elapsed());
    }

    /// Waiting for a held site is over, for now.
    pub fn was_held(&mut self, begun: Instant) {
        let time = begun.elapsed();
        self.held = Some(self.held.unwrap_or_default() + time);
        self.spent(Part::Held, begun, time);
    }

    /// What was waited for until the connection was there, at `end`.
    pub fn waited(&mut self, waits: Waits, end: Instant) {
        let Waits { queue, start, connect } = waits;
        let mut from = end;
        let sums = self.waits.get_or_insert_default();
        for (part, time, sum) in [
            (Part::Connect, connect, &mut sums.connect),
            (Part::Queue, queue, &mut sums.queue),
            (Part::Start, start, &mut sums.start),
        ] {
            let Some(time) = time else { continue };
            *sum = Some(sum.unwrap_or_default() + time);
            // Waiting for an instance that listens is everything since then.
            from = if part == Part::Start { end } else { from } - time;
            if let Some(trace) = &mut self.trace {
                trace.spent(part, from, time);
            }
        }
    }

    /// The instance that was asked at `begun` has begun to answer.
    pub fn answered_upstream(&mut self, begun: Instant) {
        let time = begun.elapsed();
        self.upstream = Some(time);
        self.spent(Part::Upstream, begun, time);
    }

    fn spent(&mut self, part: Part, begun: Instant, time: Duration) {
        if let Some(trace) = &mut self.trace {
            trace.spent(part, begun, time);
        }
    }

    /// The request's id as text.
    pub fn id_text(&self) -> &str {
        self.id.to_str().unwrap_or("")
    }

    /// How long the client's browser shall insist on TLS.
    pub fn hsts(&self) -> Option<HeaderValue> {
        let host = self.host.as_deref()?;
        self.site.as_ref().filter(|_| self.client.tls)?.hsts(host)
    }

    fn received_bytes(&self) -> u64 {
        self.upload.as_ref().map_or(0, |upload| upload.received_bytes())
    }

    fn log(&self, duration: Duration) {
        let waits = self.waits.as_deref().copied().unwrap_or_default();
        let trace = self.trace.as_ref().map(|trace| trace.id());
        self.edge.log.request(&Line {
            at: OffsetDateTime::now_utc(),
            request_id: self.id_text(),
            site_id: self.site.as_ref().map(|site| site.id),
            host: self.host.as_deref().unwrap_or(""),
            method: self.method.as_str(),
            path: &without_secrets(self.uri.path()),
            protocol: protocol(self.version, self.client.tls),
            status: self.status.map_or(499, |status| status.as_u16()),
            reason: self.reason.map(Reason::as_str),
            aborted: !self.complete,
            received_bytes: self.received_bytes(),
            sent_bytes: self.sent_bytes,
            duration,
            first_byte: self.first_byte,
            upstream: self.upstream,
            held: self.held,
            queue: waits.queue,
            start: waits.start,
            connect: waits.connect,
            trace_id: trace.as_deref(),
            retries: self.retries,
            client: self.client.address_header.to_str().unwrap_or(""),
        });
    }

    fn finished(&self, trace: Box<Trace>, duration: Duration) -> Finished {
        Finished {
            trace,
            begun: self.begun,
            duration,
            first_byte: self.first_byte,
            request_id: self.id.clone(),
            method: self.method.clone(),
            version: self.version,
            tls: self.client.tls,
            https_port: self.edge.https_port,
            host: self.host.clone(),
            path: without_secrets(self.uri.path()).into_owned(),
            site: self.site.as_ref().map(|site| (site.id, site.generation)),
            status: self.status,
            reason: self.reason,
            complete: self.complete,
            retries: self.retries,
            received_bytes: self.received_bytes(),
            sent_bytes: self.sent_bytes,
            client: self.client.address.ip(),
        }
    }
}

const fn protocol(version: Version, tls: bool) -> &'static str {
    match (version, tls) {
        (Version::HTTP_2, _) => "h2",
        (Version::HTTP_3, _) => "h3",
        (Version::HTTP_10, true) => "https/1.0",
        (Version::HTTP_10, false) => "http/1.0",
        (_, true) => "https/1.1",
        (_, false) => "http/1.1",
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let metrics = &self.edge.metrics;
        let duration = self.begun.elapsed();
        metrics.in_flight.decrement(1.0);
        self.client.stream.request_ends();
        metrics.answered(self.status);
        metrics.request_seconds.record(duration.as_secs_f64());
        if let Some(upstream) = self.upstream {
            metrics.upstream_seconds.record(upstream.as_secs_f64());
        }
        if let Some(held) = self.held {
            metrics.held_seconds.record(held.as_secs_f64());
        }
        if let Some(reason) = self.reason {
            metrics.rejected(reason);
        }
        metrics.received_bytes.increment(self.received_bytes());
        metrics.sent_bytes.increment(self.sent_bytes);
        if self.edge.log.is_on() {
            self.log(duration);
        }
        if let Some(trace) = self.trace.take()
            && let Some(traces) = &self.edge.traces
        {
            traces.ended(self.finished(trace, duration));
        }
    }
}
