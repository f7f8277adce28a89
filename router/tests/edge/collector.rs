//! A collector that takes spans by OTLP over HTTP with protobuf, and remembers them.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{ResourceSpans, Span},
};
use prost::Message;
use tokio::net::TcpListener;

const PATIENCE: Duration = Duration::from_secs(30);

pub struct Collector {
    address: SocketAddr,
    taken: Arc<Mutex<Vec<ResourceSpans>>>,
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let address = listener.local_addr().expect("has an address");
        let taken = Arc::<Mutex<Vec<ResourceSpans>>>::default();
        let inside = Arc::clone(&taken);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let inside = Arc::clone(&inside);
                tokio::spawn(async move {
                    let service = service_fn(|request| take(&inside, request));
                    let connection = http1::Builder::new();
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, taken }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}/v1/traces", self.address)
    }

    /// What came, with whom it came from.
    pub fn taken(&self) -> Vec<ResourceSpans> {
        self.taken.lock().expect("not poisoned").clone()
    }

    pub fn spans(&self) -> Vec<Span> {
        let taken = self.taken();
        taken.into_iter().flat_map(|of| of.scope_spans).flat_map(|scope| scope.spans).collect()
    }

    /// The spans of a trace, once a whole request of it is there.
    pub async fn trace(&self, id: u128) -> Vec<Span> {
        let begun = Instant::now();
        loop {
            let mut spans = self.spans();
            spans.retain(|span| span.trace_id == id.to_be_bytes());
            if spans.iter().any(is_of_request) {
                return spans;
            }
            assert!(begun.elapsed() < PATIENCE, "no span of {id:x}: {:?}", self.spans());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Whether it is a request's own span, and not a part's.
pub fn is_of_request(span: &Span) -> bool {
    span.kind == 2
}

/// An attribute as text.
pub fn attribute(attributes: &[KeyValue], name: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => Some(format!("{other:?}")),
    }
}

async fn take(
    taken: &Mutex<Vec<ResourceSpans>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let is_right = request.method() == http::Method::POST
        && request.uri().path() == "/v1/traces"
        && request.headers()["content-type"] == "application/x-protobuf";
    let body = request.into_body().collect().await.map(|body| body.to_bytes());
    let sent = body.ok().and_then(|body| ExportTraceServiceRequest::decode(body).ok());
    let Some(sent) = sent.filter(|_| is_right) else {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(response);
    };
    taken.lock().expect("not poisoned").extend(sent.resource_spans);
    let answer = ExportTraceServiceResponse::default().encode_to_vec();
    let mut response = Response::new(Full::new(answer.into()));
    let value = http::HeaderValue::from_static("application/x-protobuf");
    response.headers_mut().insert("content-type", value);
    Ok(response)
}
