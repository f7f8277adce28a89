//! From ended requests to the collector, beside everything else: a bounded queue that is emptied every
//! second. When the collector does not follow, spans are dropped and counted, and no request waits.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::Uri;
use metrics::Counter;
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{
    Protocol, RetryPolicy, SpanExporter as Otlp, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::{Resource, trace::SpanExporter as _};
use rustls::RootCertStore;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Duration, Instant, interval, timeout},
};

use super::{
    collector::{Collector, TIMEOUT},
    span::Finished,
};

/// Most requests that wait to be sent.
const FULL: usize = 2_048;
/// So many are sent at once, and as soon as there are so many.
const BATCH: usize = 512;
/// How often what there is is sent.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long the end of the process waits for what is left.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a failure that stays is logged again.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Requests that ended, to be sent.
#[derive(Debug)]
pub struct Queue {
    waiting: Mutex<VecDeque<Finished>>,
    many: Notify,
    flushes: mpsc::UnboundedSender<oneshot::Sender<()>>,
    dropped: Counter,
}

/// Sends them.
#[derive(Debug)]
pub struct Exporter {
    queue: Arc<Queue>,
    otlp: Otlp,
    scope: InstrumentationScope,
    flushes: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
    sent: Counter,
    failed: Counter,
    logged: Option<Instant>,
}

/// An empty queue, and what empties it to the collector.
///
/// # Errors
/// When the collector's address cannot be used.
pub fn new(
    endpoint: &Uri,
    router: &str,
    region: &str,
    roots: RootCertStore,
) -> anyhow::Result<(Arc<Queue>, Exporter)> {
    let spans =
        |outcome: &'static str| metrics::counter!("router_traces_total", "outcome" => outcome);
    let mut otlp = Otlp::builder()
        .with_http()
        .with_http_client(Collector::new(roots)?)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(endpoint.to_string())
        .with_timeout(TIMEOUT)
        // What cannot be sent is dropped: the next one is there soon.
        .with_retry_policy(RetryPolicy::disabled())
        .build()?;
    let resource = Resource::builder_empty().with_service_name("ta3lem-router").with_attributes([
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", router.to_owned()),
        KeyValue::new("ta3lem.region", region.to_owned()),
    ]);
    otlp.set_resource(&resource.build());
    let (flush, flushes) = mpsc::unbounded_channel();
    let queue = Arc::new(Queue {
        waiting: Mutex::default(),
        many: Notify::new(),
        flushes: flush,
        dropped: spans("dropped"),
    });
    let exporter = Exporter {
        queue: Arc::clone(&queue),
        otlp,
        scope: InstrumentationScope::builder("router").build(),
        flushes,
        sent: spans("sent"),
        failed: spans("failed"),
        logged: None,
    };
    Ok((queue, exporter))
}

impl Queue {
    /// One more, if there is room.
    pub fn put(&self, finished: Finished) {
        let mut waiting = self.lock();
        if waiting.len() >= FULL {
            drop(waiting);
            self.dropped.increment(1);
            return;
        }
        waiting.push_back(finished);
        let many = waiting.len() == BATCH;
        drop(waiting);
        if many {
            self.many.notify_one();
        }
    }

    fn take(&self) -> Vec<Finished> {
        let mut waiting = self.lock();
        let number = waiting.len().min(BATCH);
        waiting.drain(..number).collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Finished>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when what is in the queue now is sent or lost, or after a moment.
    pub async fn flushed(&self) {
        let (tell, told) = oneshot::channel();
        if self.flushes.send(tell).is_ok() {
            let _ = timeout(FINISH_TIMEOUT, told).await;
        }
    }
}

impl Exporter {
    /// Sends what ends, for ever.
    pub async fn run(mut self) {
        let queue = Arc::clone(&self.queue);
        let mut rounds = interval(INTERVAL);
        loop {
            let flush = tokio::select! {
                _ = rounds.tick() => None,
                () = queue.many.notified() => None,
                flush = self.flushes.recv() => flush,
            };
            loop {
                let batch = queue.take();
                if batch.is_empty() {
                    break;
                }
                self.send(batch).await;
            }
            if let Some(flush) = flush {
                let _ = flush.send(());
            }
        }
    }

    async fn send(&mut self, batch: Vec<Finished>) {
        let number = batch.len() as u64;
        let spans = batch.into_iter().flat_map(|finished| finished.spans(&self.scope)).collect();
        match self.otlp.export(spans).await {
            Ok(()) => {
                self.sent.increment(number);
                if self.logged.take().is_some() {
                    tracing::info!("the collector takes spans again");
                }
            }
            Err(error) => {
                self.failed.increment(number);
                if self.logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
                    self.logged = Some(Instant::now());
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "the collector does not take spans; they are dropped");
                }
            }
        }
    }
}
