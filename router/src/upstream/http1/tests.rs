//! Exchanges over real sockets with an instance that says exactly what it is told to.

use std::{future::poll_fn, io};

use http::{Method, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::*;
use crate::forward::upload::Upload;

/// A runtime for one case.
fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

fn pair() -> (Exchange, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    (Exchange::new(Transport::Unix(ours)), theirs)
}

fn begin(exchange: &mut Exchange, method: &Method) {
    exchange.begin(method, RequestBody::Empty, |to| {
        to.extend_from_slice(format!("{method} / HTTP/1.1\r\nhost: a.test\r\n").as_bytes());
    });
}

async fn head(exchange: &mut Exchange, method: &Method) -> Result<Response<()>, ExchangeError> {
    poll_fn(|cx| exchange.poll_head(cx, method)).await
}

/// The body and its trailers.
async fn rest(exchange: &mut Exchange) -> Result<(Vec<u8>, Vec<String>), ExchangeError> {
    let (mut body, mut trailers) = (Vec::new(), Vec::new());
    while let Some(frame) = poll_fn(|cx| exchange.poll_frame(cx)).await {
        match frame?.into_data() {
            Ok(data) => body.extend_from_slice(&data),
            Err(frame) => {
                let found = frame.into_trailers().expect("trailers");
                trailers.extend(found.keys().map(|name| name.as_str().to_owned()));
            }
        }
    }
    Ok((body, trailers))
}

type Whole = (StatusCode, Vec<u8>, bool);

/// What comes of an answer to `method` that is said in pieces, and then the connection closes.
fn answer(method: &Method, said: &[u8], piece: usize) -> Result<Whole, ExchangeError> {
    run(async {
        let (mut exchange, mut instance) = pair();
        begin(&mut exchange, method);
        let said = said.to_vec();
        let saying = async move {
            for piece in said.chunks(piece) {
                instance.write_all(piece).await?;
                tokio::task::yield_now().await;
            }
            // The other side has read what it wants to before this is closed.
            instance.shutdown().await?;
            let mut asked = Vec::new();
            instance.read_to_end(&mut asked).await?;
            io::Result::Ok(())
        };
        let saying = tokio::spawn(saying);
        let head = head(&mut exchange, method).await;
        let whole = match head {
            Ok(head) => rest(&mut exchange)
                .await
                .map(|(body, _)| (head.status(), body, exchange.can_go_on())),
            Err(error) => Err(error),
        };
        drop(exchange);
        // What was not read resets the connection: nobody cares.
        let _ = saying.await.expect("does not panic");
        whole
    })
}

#[test]
fn bodies_end_where_they_say() {
    let get = |said: &str| answer(&Method::GET, said.as_bytes(), 4096).expect("an answer");
    let by_length = get("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(by_length, (StatusCode::OK, b"ok".to_vec(), true));
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunked = get(&format!("{chunked}3;a=b\r\nabc\r\n0A\r\n0123456789\r\n0\r\n\r\n"));
    assert_eq!(chunked, (StatusCode::OK, b"abc0123456789".to_vec(), true));
    let until_close = get("HTTP/1.1 200 OK\r\n\r\nall of it");
    assert_eq!(until_close, (StatusCode::OK, b"all of it".to_vec(), false));
    let none = get("HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n");
    assert_eq!(none, (StatusCode::NOT_MODIFIED, Vec::new(), true));
    let to_head = answer(&Method::HEAD, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", 7);
    assert_eq!(to_head.expect("an answer"), (StatusCode::OK, Vec::new(), true));
    let after_interim = get("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No\r\n\r\n");
    assert_eq!(after_interim, (StatusCode::NO_CONTENT, Vec::new(), true));
}

#[test]
fn a_connection_goes_on_only_when_both_sides_know_where_they_are() {
    for said in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        // More than was said.
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n",
        "HTTP/1.1 204 No Content\r\n\r\nbody",
    ] {
        let (_, _, goes_on) = answer(&Method::GET, said.as_bytes(), 4096).expect("an answer");
        assert!(!goes_on, "{said}");
    }
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n";
    for said in [
        "",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        &format!("{chunked}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        &format!("{chunked}Content-Length: 2\r\n\r\n0\r\n\r\n"),
        &format!("{chunked}\r\n2\r\nabc\r\n0\r\n\r\n"),
        &format!("{chunked}\r\n+2\r\nab\r\n0\r\n\r\n"),
        &format!("{chunked}\r\n2\nab\n0\n\n"),
        &format!("{chunked}\r\n10000000000000000\r\nab"),
        &format!("{chunked}\r\n2\r\nab\r\n0\r\nname\r\n\r\n"),
        &format!("{chunked}\r\n2\r\nab\r\n"),
        &format!(
            "HTTP/1.1 200 OK\r\nx: {}\r\n\r\n",
            "x".repeat(crate::limits::MAX_ANSWER_HEAD_BYTES)
        ),
        &format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(101)),
    ] {
        let short = said.get(..said.len().min(120));
        assert!(answer(&Method::GET, said.as_bytes(), 8192).is_err(), "{short:?}");
    }
}

#[test]
fn trailers_come_after_the_last_chunk() {
    run(async {
        let (mut exchange, mut instance) = pair();
        begin(&mut exchange, &Method::GET);
        let said =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-sum: 1\r\n\r\n";
        instance.write_all(said).await.expect("writes");
        head(&mut exchange, &Method::GET).await.expect("a head");
        let (body, trailers) = rest(&mut exchange).await.expect("a body");
        assert_eq!((body.as_slice(), trailers.as_slice()), (&b"a"[..], &["x-sum".to_owned()][..]));
        assert!(exchange.can_go_on());
    });
}

#[test]
fn an_answer_that_comes_before_the_body_was_taken_is_read() {
    run(async {
        let (mut exchange, mut instance) = pair();
        let length = 64 * 1024 * 1024;
        let first = format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {length}\r\n\r\n");
        let body = uploaded([first.into_bytes(), vec![b'x'; length]].concat()).await;
        exchange.begin(&Method::POST, body, |to| to.extend_from_slice(b"POST / HTTP/1.1\r\n"));
        instance
            .write_all(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno")
            .await
            .expect("writes");
        drop(instance);
        let answer = head(&mut exchange, &Method::POST).await.expect("a head");
        assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(rest(&mut exchange).await.expect("a body").0, b"no");
        assert!(!exchange.can_go_on(), "the request was not sent to its end");
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However the answer comes in, it is read alike.
    #[test]
    fn pieces_make_no_difference(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..3_000), 0..8),
        by_length in any::<bool>(),
        piece in 1_usize..6_000,
    ) {
        let body = chunks.concat();
        let mut said = b"HTTP/1.1 200 OK\r\nX-Other: \xe9\r\n".to_vec();
        if by_length {
            said.extend(format!("Content-Length: {}\r\n\r\n", body.len()).into_bytes());
            said.extend(&body);
        } else {
            said.extend(b"Transfer-Encoding: chunked\r\n\r\n");
            said.extend(chunked(&chunks));
        }
        let (status, read, goes_on) = answer(&Method::GET, &said, piece).expect("an answer");
        prop_assert_eq!((status, read, goes_on), (StatusCode::OK, body, true));
    }

    /// What is sent is what hyper, and so every instance of ours, reads.
    #[test]
    fn a_request_arrives_as_it_is(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..20_000), 0..6),
        known_length in any::<bool>(),
    ) {
        let body = pieces.concat();
        let received = run(async {
            let (mut exchange, instance) = pair();
            let serving = tokio::spawn(serve_one(instance));
            let mut said = b"POST / HTTP/1.1\r\nHost: a.test\r\n".to_vec();
            if known_length {
                said.extend(format!("Content-Length: {}\r\n\r\n", body.len()).into_bytes());
                said.extend(&body);
            } else {
                said.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                said.extend(chunked(&pieces));
            }
            let attempt = uploaded(said).await;
            exchange.begin(&Method::POST, attempt, |to| {
                to.extend_from_slice(b"POST /a?b HTTP/1.1\r\nhost: a.test\r\n");
            });
            let answer = head(&mut exchange, &Method::POST).await.expect("a head");
            assert_eq!(answer.status(), StatusCode::OK);
            let echoed = rest(&mut exchange).await.expect("a body").0;
            assert!(exchange.can_go_on());
            drop(exchange);
            serving.await.expect("does not panic");
            echoed
        });
        prop_assert_eq!(received, body);
    }
}

/// An instance that says back what it was sent.
async fn serve_one(stream: UnixStream) {
    let service = hyper::service::service_fn(|request: http::Request<Incoming>| async {
        assert_eq!(request.uri(), "/a?b");
        let body = request.into_body().collect().await.expect("a whole body").to_bytes();
        Ok::<_, std::convert::Infallible>(Response::new(http_body_util::Full::new(body)))
    });
    let io = hyper_util::rt::TokioIo::new(stream);
    let served = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
    served.expect("serves");
}

fn chunked(pieces: &[Vec<u8>]) -> Vec<u8> {
    let mut said = Vec::new();
    for piece in pieces {
        said.extend(format!("{:x}\r\n", piece.len()).into_bytes());
        said.extend(piece);
        said.extend(b"\r\n");
    }
    said.extend(b"0\r\n\r\n");
    said
}

/// The body of a request that a client sends to a server like the router's.
async fn uploaded(said: Vec<u8>) -> RequestBody {
    let (mut client, server) = UnixStream::pair().expect("a pair");
    let (give, given) = tokio::sync::oneshot::channel();
    let give = std::sync::Mutex::new(Some(give));
    tokio::spawn(async move {
        let service = hyper::service::service_fn(|request: http::Request<Incoming>| {
            let give = give.lock().expect("not poisoned").take().expect("asked once");
            give.send(request.into_body()).expect("is waited for");
            // The body lives for as long as its connection.
            std::future::pending::<Result<Response<String>, std::convert::Infallible>>()
        });
        let io = hyper_util::rt::TokioIo::new(server);
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
    });
    tokio::spawn(async move {
        // Fails when the test is over before all of it was taken.
        let _ = client.write_all(&said).await;
        std::future::pending::<()>().await;
    });
    let body = given.await.expect("a request");
    if body.is_end_stream() {
        return RequestBody::Empty;
    }
    let pace = crate::limits::Limits::default().sending();
    RequestBody::Upload(
        Upload::new(body.into(), u64::MAX, pace).attempt().expect("nothing sent yet"),
    )
}
