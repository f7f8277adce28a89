//! The way of a request through the router, in one place: head, host, route, site, forward. What
//! stops it on the way becomes a page by `rejection`; everything is recorded by `record`.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{
        ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, HOST, LOCATION, STRICT_TRANSPORT_SECURITY,
    },
    request::Parts,
};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::{
    Edge, challenge,
    forward::{self, answer::AnswerBody, client_body::ClientBody, headers::REQUEST_ID},
    hold,
    host::{Asked, asked, check_head},
    record::{Client, Record, Way},
    rejection::{self, Brand, Reason},
    route_table::Route,
    site_traffic::InFlight,
};

/// Browsers keep a redirect for this long only, so that a site can change its primary hostname.
const REDIRECT_CACHE: HeaderValue = HeaderValue::from_static("max-age=300");
const METHODS: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// Answers one request over TLS.
///
/// # Errors
/// Never.
pub async fn answer<B: Into<ClientBody>>(
    edge: Arc<Edge>,
    client: Arc<Client>,
    request: Request<B>,
) -> Result<Response<AnswerBody>, Infallible> {
    let (mut head, body) = request.into_parts();
    let body = body.into();
    let mut record = Record::begin(&edge, &client, &head.method, &head.uri, head.version);
    record.trace = edge.traces.as_ref().and_then(|all| all.begin(&client, &mut head.headers));
    let has_body = !body.is_end_stream();
    let outcome = forwarded_or_not(&edge, &client, &mut head, body, &mut record).await;
    Ok(match outcome {
        Ok(Outcome::Forwarded(mut response, stream)) => {
            record.answers(response.status());
            if let Some(offer) = edge.http3.get() {
                offer.tell(&edge, &client, &record, response.headers_mut());
            }
            response.map(|()| forward::body_of(stream, record))
        }
        Ok(Outcome::Own(response)) => own(response, has_body, head.version, record),
        Err(reason) => rejected(reason, &head.headers, has_body, head.version, record),
    })
}

/// Answers one request over plain HTTP: the same place over TLS.
///
/// # Errors
/// Never.
pub async fn redirect(
    edge: Arc<Edge>,
    client: Arc<Client>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    let (mut head, body) = request.into_parts();
    let mut record = Record::begin(&edge, &client, &head.method, &head.uri, head.version);
    record.trace = edge.traces.as_ref().and_then(|all| all.begin(&client, &mut head.headers));
    let has_body = !body.is_end_stream();
    Ok(match plain(&edge, &client, &head, &mut record).await {
        Ok(response) => own(response, has_body, head.version, record),
        Err(reason) => rejected(reason, &head.headers, has_body, head.version, record),
    })
}

async fn plain(
    edge: &Edge,
    client: &Client,
    head: &Parts,
    record: &mut Record,
) -> Result<Response<Bytes>, Reason> {
    check_head(&head.method, &head.uri, &head.headers)?;
    let mut scratch = String::new();
    let asked = asked(head.version, &head.uri, &head.headers, &mut scratch)?;
    if let Some(token) = challenge::answer::token(&head.method, head.uri.path()) {
        record.host = Some(asked.host.into());
        // An authority is never told to come later; whoever guesses tokens is counted.
        return match challenge::answer::answer(edge, &asked, token).await {
            Some(answer) => Ok(answer),
            None if client.admission.may_ask(record.begun()) => Ok(challenge::answer::none()),
            None => Err(Reason::ClientOverLimit),
        };
    }
    let within_limit = client.admission.may_ask(record.begun());
    let route = find(edge, &asked, record)?;
    if !within_limit {
        return Err(Reason::ClientOverLimit);
    }
    let port = match edge.https_port {
        443 => String::new(),
        port => format!(":{port}"),
    };
    moved(head, &route.hostname, &port)
}

enum Outcome {
    Forwarded(Response<()>, Option<Box<forward::answer::Stream>>),
    Own(Response<Bytes>),
}

async fn forwarded_or_not(
    edge: &Arc<Edge>,
    client: &Client,
    head: &mut Parts,
    body: ClientBody,
    record: &mut Record,
) -> Result<Outcome, Reason> {
    check_head(&head.method, &head.uri, &head.headers)?;
    if let Some(token) = challenge::answer::token(&head.method, head.uri.path()) {
        // What happens rarely is on the heap, here and below: it would make every request's task
        // bigger.
        if let Some(answer) = Box::pin(challenge_answer(edge, head, token, record)).await? {
            return Ok(Outcome::Own(answer));
        }
    }
    let within_limit = client.admission.may_ask(record.begun());
    let mut was_let_go = false;
    loop {
        let (route, authority, redirect) = admitted(edge, client, head, record)?;
        if !was_let_go {
            check_limits(within_limit, &route, record)?;
        }
        if let Some(redirect) = redirect {
            return Ok(Outcome::Own(redirect));
        }
        if head.uri.path() == "*" {
            let mut response = Response::new(Bytes::new());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response.headers_mut().insert(ALLOW, METHODS);
            return Ok(Outcome::Own(response));
        }
        if !hold::must_wait(edge, &route.site, was_let_go) {
            let (response, stream) =
                forward::forward(edge, client, &route, &authority, head, body, record).await?;
            return Ok(Outcome::Forwarded(response, stream));
        }
        Box::pin(hold::wait(edge, client, &route.site, record)).await?;
        was_let_go = true;
    }
}

/// The answer to a certificate authority, if that is who asks.
async fn challenge_answer(
    edge: &Edge,
    head: &Parts,
    token: &str,
    record: &mut Record,
) -> Result<Option<Response<Bytes>>, Reason> {
    let mut scratch = String::new();
    let asked = asked(head.version, &head.uri, &head.headers, &mut scratch)?;
    let answer = challenge::answer::answer(edge, &asked, token).await;
    if answer.is_some() {
        record.host = Some(asked.host.into());
    }
    Ok(answer)
}

/// Where the request goes, under which authority, and where it is sent instead if at all. Counts it.
fn admitted(
    edge: &Edge,
    client: &Client,
    head: &Parts,
    record: &mut Record,
) -> Result<(Route, HeaderValue, Option<Response<Bytes>>), Reason> {
    let mut scratch = String::new();
    let asked = asked(head.version, &head.uri, &head.headers, &mut scratch)?;
    let route = find(edge, &asked, record)?;
    check_server_name(edge, client, &route)?;
    if *route.site.region != *edge.region {
        // The site went away since the connection was made: a new one ends there.
        client.send_away();
        if client.way == Way::Relayed {
            return Err(Reason::Misdirected);
        }
    }
    forward::check_state(&route.site)?;
    let redirect = match route.primary() {
        Some(primary) => Some(moved(head, primary, asked.port)?),
        None => None,
    };
    let authority = authority(&head.headers, &asked)?;
    Ok((route, authority, redirect))
}

/// What the client's address, the site's people together and its instance may take.
fn check_limits(within_limit: bool, route: &Route, record: &Record) -> Result<(), Reason> {
    if !within_limit {
        return Err(Reason::ClientOverLimit);
    }
    let (traffic, limits) = (&route.site.traffic, &route.site.limits);
    if !traffic.may_begin(limits, record.begun()) {
        return Err(Reason::SiteOverLimit);
    }
    // As many as are in progress may wait for their turn, and no more.
    if traffic.in_flight() > 2 * u64::from(limits.concurrent) {
        return Err(Reason::Busy);
    }
    Ok(())
}

/// The route of the hostname. Counts the request of its site before its state is read.
fn find(edge: &Edge, asked: &Asked<'_>, record: &mut Record) -> Result<Route, Reason> {
    let table = edge.routes.load();
    let Some(known) = table.route(asked.host) else {
        record.host = Some(asked.host.into());
        let reason = if edge.routes.is_loaded() { Reason::UnknownHost } else { Reason::NoRoutes };
        return Err(reason);
    };
    record.in_flight = Some(InFlight::begin(&known.site.traffic));
    let route = edge.routes.load().route(asked.host).cloned().ok_or(Reason::UnknownHost)?;
    record.host = Some(Arc::clone(&route.hostname));
    record.site = Some(Arc::clone(&route.site));
    Ok(route)
}

/// A connection made for one site's hostname carries no other site's requests.
fn check_server_name(edge: &Edge, client: &Client, route: &Route) -> Result<(), Reason> {
    let Some(server_name) = client.server_name.as_deref() else {
        return Err(Reason::Misdirected);
    };
    if *server_name == *route.hostname {
        return Ok(());
    }
    match edge.routes.load().route(server_name) {
        Some(other) if other.site.id == route.site.id => Ok(()),
        _ => Err(Reason::Misdirected),
    }
}

/// The authority in canonical form; the client's own header where it is canonical already.
fn authority(headers: &HeaderMap, asked: &Asked<'_>) -> Result<HeaderValue, Reason> {
    if let Some(header) = headers.get(HOST) {
        let text = header.as_bytes();
        if text.len() == asked.host.len() + asked.port.len()
            && text.starts_with(asked.host.as_bytes())
        {
            return Ok(header.clone());
        }
    }
    let text = Bytes::from([asked.host.as_bytes(), asked.port.as_bytes()].concat());
    HeaderValue::from_maybe_shared(text).map_err(|_| Reason::BadHost)
}

fn moved(head: &Parts, hostname: &str, port: &str) -> Result<Response<Bytes>, Reason> {
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let path = if path == "*" { "/" } else { path };
    let location = HeaderValue::try_from(format!("https://{hostname}{port}{path}"));
    let mut response = Response::new(Bytes::new());
    // Method and body are kept, where there is more than a look.
    *response.status_mut() = if matches!(head.method, Method::GET | Method::HEAD) {
        StatusCode::MOVED_PERMANENTLY
    } else {
        StatusCode::PERMANENT_REDIRECT
    };
    response.headers_mut().insert(LOCATION, location.map_err(|_| Reason::BadRequest)?);
    response.headers_mut().insert(CACHE_CONTROL, REDIRECT_CACHE);
    Ok(response)
}

fn rejected(
    reason: Reason,
    asked: &HeaderMap,
    has_body: bool,
    version: Version,
    mut record: Box<Record>,
) -> Response<AnswerBody> {
    record.reason = Some(reason);
    // Whoever asks over a connection of another site is not told this site's name.
    let site = record.site.clone().filter(|_| reason != Reason::Misdirected);
    let brand =
        site.as_ref().map(|site| Brand { site_name: &site.name, language: &site.default_language });
    let response = rejection::answer(reason, asked, brand, record.id_text());
    own(response, has_body, version, record)
}

/// An answer of the router's own.
fn own(
    mut response: Response<Bytes>,
    has_body: bool,
    version: Version,
    mut record: Box<Record>,
) -> Response<AnswerBody> {
    record.answers(response.status());
    let length = response.body().len();
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, record.id.clone());
    if record.reason != Some(Reason::Misdirected)
        && let Some(hsts) = record.hsts()
    {
        headers.insert(STRICT_TRANSPORT_SECURITY, hsts);
    }
    if length > 0 {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let read = record.upload.as_ref().is_some_and(|upload| upload.has_ended());
    if has_body && !read && version <= Version::HTTP_11 {
        // The rest of the body must not be taken for the next request.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response.map(|content| AnswerBody::whole(content, record))
}
