//! Passes a request on to the site's instance and its answer back, both as streams. A request is
//! sent again only when it cannot have been processed: not a byte of it left, or the instance
//! refused it unread because the route is stale. The one exception is a GET or HEAD without a body on
//! a connection that the instance had closed while it was idle: repeating a safe request changes
//! nothing (RFC 9110 section 9.2.2).

use std::sync::Arc;

use control_types::state::SiteState;
use http::{HeaderValue, Method, Response, StatusCode, request::Parts};
use http_body::Body as _;
use hyper::upgrade::OnUpgrade;
use tokio::time::{Duration, Instant, sleep_until};

pub mod answer;
pub mod client_body;
mod connection;
mod events;
pub mod headers;
mod refusal;
mod gone;
mod relay;
pub mod tunnel;
mod websocket;
pub mod upload;

use answer::{AnswerBody, Stream};
use client_body::ClientBody;
use headers::Stamp;
use refusal::Refusal;
use tunnel::Agreed;
use upload::{RequestBody, Upload, announced_bytes};

use crate::{
    Edge, hold,
    limits::{
        ANSWER_TIMEOUT, CONNECT_PATIENCE, FENCED_FIRST_PAUSE, FENCED_LONGEST_PAUSE, MAX_RETRIES,
        REFRESH_PATIENCE,
    },
    record::{Client, Record, Way},
    rejection::Reason,
    route_table::{Route, Site},
    upstream::{Connection, SendError, Wanted},
};

/// One request on its way.
struct Forwarding<'a> {
    edge: &'a Arc<Edge>,
    client: &'a Client,
    authority: &'a HeaderValue,
    hostname: Arc<str>,
    head: &'a Parts,
    upload: Option<Arc<Upload>>,
    websocket: bool,
    deadline: Instant,
    fenced_pause: Duration,
}

/// An instance's answer, or the reason why there is none.
pub type Forwarded = Result<(Response<()>, Option<Box<Stream>>), Reason>;

/// Passes a request on.
///
/// # Errors
/// The reason that the client is told. `record` knows the rest.
pub async fn forward(
    edge: &Arc<Edge>,
    client: &Client,
    route: &Route,
    authority: &HeaderValue,
    head: &mut Parts,
    body: ClientBody,
    record: &mut Record,
) -> Forwarded {
    let limit_bytes = route.site.max_body_bytes;
    if announced_bytes(&head.headers).is_some_and(|length| length > limit_bytes) {
        return Err(Reason::BodyTooLarge);
    }
    let websocket = body.is_end_stream()
        && headers::asks_for_websocket(&head.method, head.version, &head.headers);
    // Who answers the connection takes the stream itself when hyper is done with it.
    let may_switch = head.extensions.remove::<OnUpgrade>().is_some() && websocket;
    // Without a collector this router says nothing of traces, but a router that relays may have.
    let traced = edge.traces.is_some() || client.way == Way::Relayed;
    headers::clean_request(&mut head.headers, traced);
    let upload =
        (!body.is_end_stream()).then(|| Upload::new(body, limit_bytes, edge.limits.sending()));
    record.upload.clone_from(&upload);
    let mut forwarding = Forwarding {
        edge,
        client,
        authority,
        hostname: Arc::clone(&route.hostname),
        head,
        upload,
        websocket: may_switch,
        deadline: Instant::now() + CONNECT_PATIENCE,
        fenced_pause: FENCED_FIRST_PAUSE,
    };
    let (response, connection) = forwarding.run(Arc::clone(&route.site), record).await?;
    if let Some(upload) = &forwarding.upload {
        upload.forget();
    }
    forwarding.answer(response, connection, record)
}

impl Forwarding<'_> {
    /// Sends the request until an instance processes it.
    async fn run(
        &mut self,
        mut site: Arc<Site>,
        record: &mut Record,
    ) -> Result<(Response<()>, Connection), Reason> {
        let mut wanted = if self.is_safe() { Wanted::Any } else { Wanted::Open };
        loop {
            let mut connection = self.connection(&mut site, wanted).await?;
            record.site = Some(Arc::clone(&site));
            let begun = Instant::now();
            if let Some(waits) = connection.waits.take() {
                record.waited(*waits, begun);
            }
            let outcome = self.send(&mut connection, &site, &record.id, begun).await?;
            let again = record.retries < MAX_RETRIES;
            match outcome {
                Ok(response) => {
                    record.answered_upstream(begun);
                    let Some(refusal) = Refusal::of(&response) else {
                        return Ok((response, connection));
                    };
                    drop((response, connection));
                    if matches!(refusal, Refusal::Fenced) {
                        Box::pin(self.wait_for_fence(&mut site, record)).await?;
                        continue;
                    }
                    site = Box::pin(self.refresh(&site, &refusal, again)).await?;
                    self.edge.metrics.retries_refused.increment(1);
                }
                Err(error) if again && self.may_repeat(&site, &error) => {
                    wanted = Wanted::New;
                    self.edge.metrics.retries_not_sent.increment(1);
                }
                Err(error) => return Err(self.failed(&site, record, &error)),
            }
            record.retries += 1;
        }
    }

    /// The instance may not write any more: the request waits as if the router had been told to
    /// hold it. The instance did nothing, so this may happen as often as the time allows.
    async fn wait_for_fence(
        &mut self,
        site: &mut Arc<Site>,
        record: &mut Record,
    ) -> Result<(), Reason> {
        self.edge.metrics.fenced.increment(1);
        if self.upload.as_ref().is_some_and(|upload| !upload.is_kept()) {
            return Err(Reason::Held);
        }
        let (begun, pause) = (Instant::now(), self.fenced_pause);
        self.fenced_pause = (pause * 2).min(FENCED_LONGEST_PAUSE);
        hold::wait_for_fence(self.edge, self.client, &self.hostname, site, pause, record).await?;
        // Waiting takes nothing of the time that the instance has.
        self.deadline += begun.elapsed();
        self.update(site, Duration::ZERO, |_| true).await
    }

    /// Whether the request changes nothing, and is all there.
    fn is_safe(&self) -> bool {
        matches!(self.head.method, Method::GET | Method::HEAD) && self.upload.is_none()
    }

    fn may_repeat(&self, site: &Site, error: &SendError) -> bool {
        if self.upload.as_ref().is_some_and(|upload| upload.failure().is_some()) {
            return false;
        }
        if !(error.nothing_sent || (error.closed_while_idle && self.is_safe())) {
            return false;
        }
        let paid = site.traffic.may_retry();
        if !paid {
            self.edge.metrics.retries_over_budget.increment(1);
        }
        paid
    }

    fn failed(&self, site: &Site, record: &Record, error: &SendError) -> Reason {
        if let Some(reason) = self.upload.as_ref().and_then(|upload| upload.failure()) {
            return reason;
        }
        tracing::warn!(
            request.id = record.id_text(),
            site.id = %site.id,
            host = %self.hostname,
            error = error as &dyn std::error::Error,
            "the instance gave no answer"
        );
        Reason::UpstreamFailed
    }

    /// The site after a refusal: a newer version of it, or no answer.
    async fn refresh(
        &self,
        site: &Arc<Site>,
        refusal: &Refusal,
        again: bool,
    ) -> Result<Arc<Site>, Reason> {
        if matches!(refusal, Refusal::WrongSite) {
            self.edge.metrics.wrong_site.increment(1);
        }
        if let Refusal::Moved(home) = refusal {
            self.edge.metrics.moved.increment(1);
            if let Some(gone) = self.goes_by_word(site, home, again)? {
                return Ok(gone);
            }
        }
        let arrived = |now: &Site| match refusal {
            // Another version of the generation that was left is no news.
            Refusal::Moved(_) => now.generation > site.generation,
            _ => now.version > site.version,
        };
        let mut newer = Arc::clone(site);
        if again {
            self.edge.routes.nudge();
            self.update(&mut newer, REFRESH_PATIENCE, |route| arrived(&route.site)).await?;
        }
        if arrived(&newer) {
            return Ok(newer);
        }
        let (host, generation) = (&*self.hostname, site.generation);
        match refusal {
            Refusal::WrongSite => tracing::error!(
                site.id = %site.id, host, %generation,
                "the instance at this site's address serves another site"
            ),
            Refusal::WrongGeneration | Refusal::Fenced => tracing::warn!(
                site.id = %site.id, host, %generation,
                "the instance serves another generation and no newer route came"
            ),
            Refusal::Moved(home) => tracing::warn!(
                site.id = %site.id, host, %generation, ?home,
                "the instance says that the site has gone, and no newer route came"
            ),
        }
        Err(Reason::Relocating)
    }

    /// Appends the head of the request as this site's instance gets it.
    fn write_head(&self, to: &mut Vec<u8>, site: &Site, id: &HeaderValue) {
        to.extend_from_slice(self.head.method.as_str().as_bytes());
        to.push(b' ');
        to.extend_from_slice(self.head.uri.path().as_bytes());
        if let Some(query) = self.head.uri.query() {
            to.push(b'?');
            to.extend_from_slice(query.as_bytes());
        }
        to.extend_from_slice(b" HTTP/1.1\r\n");
        let stamp = Stamp {
            authority: self.authority,
            client: &self.client.address_header,
            request_id: id,
            site: site.id,
            generation: site.generation,
            websocket: self.websocket,
            relayed: self.is_elsewhere(site),
        };
        headers::write(to, &self.head.headers, &stamp);
    }

    /// Sends once. The instance has its time from the moment when the client's last byte came.
    async fn send(
        &self,
        connection: &mut Connection,
        site: &Site,
        id: &HeaderValue,
        begun: Instant,
    ) -> Result<Result<Response<()>, SendError>, Reason> {
        let body = match &self.upload {
            None => RequestBody::Empty,
            // What was sent before is not kept any more: only the client can send it again.
            Some(upload) => RequestBody::Upload(upload.attempt().ok_or(Reason::Relocating)?),
        };
        let head = |to: &mut Vec<u8>| self.write_head(to, site, id);
        let mut answer = std::pin::pin!(connection.send(&self.head.method, body, head));
        let mut end = begun + ANSWER_TIMEOUT;
        loop {
            tokio::select! {
                outcome = &mut answer => return Ok(outcome),
                () = sleep_until(end) => {
                    let last = self.upload.as_ref().map(|upload| upload.last_received());
                    match last.map(|last| last + ANSWER_TIMEOUT) {
                        Some(later) if later > end => end = later,
                        _ => return Err(Reason::UpstreamTimeout),
                    }
                }
            }
        }
    }

    fn answer(
        &self,
        response: Response<()>,
        connection: Connection,
        record: &mut Record,
    ) -> Forwarded {
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if switched {
            if !(self.websocket && headers::is_websocket(response.headers())) {
                tracing::warn!(host = %self.hostname, "the instance switched to what nobody asked for");
                return Err(Reason::UpstreamFailed);
            }
            if let Some(site) = &record.site {
                let (instance, said) = connection.into_tunnel();
                self.client.switch(Agreed::new(instance, said, site, record.in_flight.take()));
            }
            let (mut head, ()) = response.into_parts();
            headers::clean_answer(&mut head.headers, &record.id, None, true);
            return Ok((Response::from_parts(head, ()), None));
        }
        let (mut head, ()) = response.into_parts();
        headers::clean_answer(&mut head.headers, &record.id, record.hsts(), false);
        let mut stream = Stream::new(connection, self.edge);
        if headers::is_event_stream(&head.headers)
            && let Some(site) = &record.site
        {
            stream.ends_at_hold(site);
        }
        Ok((Response::from_parts(head, ()), Some(stream)))
    }
}

/// Whether a site answers, and what it says if not.
///
/// # Errors
/// The reason for the client.
pub fn check_state(site: &Site) -> Result<(), Reason> {
    match site.state {
        SiteState::Active => Ok(()),
        SiteState::Suspended => Err(Reason::Suspended),
        SiteState::Deleting => Err(Reason::Deleting),
        SiteState::Creating | SiteState::Deleted => Err(Reason::UnknownHost),
    }
}

/// The body of the answer for `record`.
pub fn body_of(stream: Option<Box<Stream>>, record: Box<Record>) -> AnswerBody {
    match stream {
        Some(stream) => AnswerBody::stream(stream, record),
        None => AnswerBody::whole(bytes::Bytes::new(), record),
    }
}
