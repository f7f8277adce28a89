//! The log and the metrics of this process. What is counted for every request is looked up once, at
//! the start; on the way of a request only atomic numbers change. No metric has a hostname in its
//! labels: whoever asks for random names must not fill the memory.

use std::sync::LazyLock;

use http::StatusCode;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::rejection::Reason;

const UPKEEP_INTERVAL: std::time::Duration = std::time::Duration::from_secs(5);
const SECONDS: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];
const CLASSES: [&str; 6] = ["aborted", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Begins the log: JSON lines on standard error.
pub fn start_log(filter: &str) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_writer(std::io::stderr)
        .with_env_filter(filter);
    // A second start in one process, as in tests, keeps the first.
    let _ = log.try_init();
}

/// Begins the metrics of the process, once.
///
/// # Errors
/// When another recorder was installed.
pub fn start_metrics() -> Result<PrometheusHandle, String> {
    static HANDLE: LazyLock<Result<PrometheusHandle, String>> =
        LazyLock::new(|| recorder().map_err(|error| format!("cannot start the metrics: {error}")));
    HANDLE.clone()
}

fn recorder() -> Result<PrometheusHandle, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .install_recorder()
}

/// Keeps the histograms small, for ever.
pub async fn upkeep(handle: PrometheusHandle) {
    let mut rounds = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        rounds.tick().await;
        handle.run_upkeep();
    }
}

/// What is counted.
#[derive(Debug)]
#[allow(missing_docs, reason = "the names of the metrics say it")]
pub struct Metrics {
    requests: [Counter; CLASSES.len()],
    rejections: [Counter; Reason::ALL.len()],
    pub request_seconds: Histogram,
    pub upstream_seconds: Histogram,
    pub in_flight: Gauge,
    pub held: Gauge,
    pub holds: Counter,
    pub held_seconds: Histogram,
    pub hold_overflows: Counter,
    pub hold_timeouts: Counter,
    pub fenced: Counter,
    pub moved: Counter,
    pub gone_sites: Gauge,
    pub refused_connections: Counter,
    pub refused_handshakes: Counter,
    pub refused_for_site: Counter,
    pub stalled_streams: Counter,
    pub cut_streams: Counter,
    pub fast_failures: Counter,
    pub retries_over_budget: Counter,
    pub retries_not_sent: Counter,
    pub retries_refused: Counter,
    pub wrong_site: Counter,
    pub tunnels: Gauge,
    pub connections: Gauge,
    pub quiet_connections: Gauge,
    pub accepted: Counter,
    pub handshakes: Counter,
    pub handshake_errors: Counter,
    pub handshake_timeouts: Counter,
    pub challenges_http: Counter,
    passed_on: [Counter; 2],
    pub passing_on: Gauge,
    pub relayed: Counter,
    pub not_taken: Counter,
    pub challenges_tls: Counter,
    pub http3_connections: Gauge,
    pub http3_retries: Counter,
    pub http3_malformed: Counter,
    pub received_bytes: Counter,
    pub sent_bytes: Counter,
    pub routes: Gauge,
    pub certificates: Gauge,
    pub open_certificates: Gauge,
    pub table_age_seconds: Gauge,
    pub feed_lag_seconds: Gauge,
    pub polls: Counter,
    pub poll_errors: Counter,
    pub full_reads: Counter,
    pub refused_tables: Counter,
    pub snapshots_written: Counter,
}

/// One more in a gauge, for as long as this lives.
#[must_use = "it is over when this is dropped"]
pub struct OneMore(Gauge);

impl OneMore {
    /// Begins to count.
    pub fn of(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for OneMore {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

impl Metrics {
    /// All of them, at zero. After [`start_metrics`].
    pub fn new() -> Self {
        let retries = |cause: &'static str| counter!("router_retries_total", "cause" => cause);
        let failed =
            |cause: &'static str| counter!("router_handshake_errors_total", "cause" => cause);
        Self {
            requests: CLASSES.map(|class| counter!("router_requests_total", "class" => class)),
            rejections: Reason::ALL
                .map(|reason| counter!("router_rejections_total", "reason" => reason.as_str())),
            request_seconds: histogram!("router_request_seconds"),
            upstream_seconds: histogram!("router_upstream_seconds"),
            in_flight: gauge!("router_requests_in_flight"),
            held: gauge!("router_requests_held"),
            holds: counter!("router_requests_held_total"),
            held_seconds: histogram!("router_held_seconds"),
            hold_overflows: counter!("router_hold_refusals_total", "cause" => "full"),
            hold_timeouts: counter!("router_hold_refusals_total", "cause" => "deadline"),
            fenced: counter!("router_fenced_answers_total"),
            moved: counter!("router_moved_answers_total"),
            gone_sites: gauge!("router_sites_gone"),
            refused_connections: counter!("router_connections_refused_total", "cause" => "connections"),
            refused_for_site: counter!("router_connections_refused_total", "cause" => "site"),
            refused_handshakes: counter!("router_connections_refused_total", "cause" => "handshakes"),
            stalled_streams: counter!("router_stalled_streams_total"),
            cut_streams: counter!("router_streams_ended_by_hold_total"),
            fast_failures: counter!("router_upstream_fast_failures_total"),
            retries_over_budget: counter!("router_retries_over_budget_total"),
            retries_not_sent: retries("not_sent"),
            retries_refused: retries("stale_route"),
            wrong_site: counter!("router_wrong_site_total"),
            tunnels: gauge!("router_tunnels"),
            connections: gauge!("router_connections"),
            quiet_connections: gauge!("router_quiet_connections"),
            accepted: counter!("router_connections_total"),
            handshakes: counter!("router_handshakes_total"),
            handshake_errors: failed("failed"),
            handshake_timeouts: failed("timeout"),
            passed_on: ["failed", "carried"]
                .map(|outcome| counter!("router_passed_on_total", "outcome" => outcome)),
            passing_on: gauge!("router_passing_on"),
            relayed: counter!("router_relayed_requests_total"),
            not_taken: counter!("router_connections_refused_total", "cause" => "entrance"),
            challenges_http: counter!("router_challenges_total", "kind" => "http_01"),
            challenges_tls: counter!("router_challenges_total", "kind" => "tls_alpn_01"),
            http3_connections: gauge!("router_http3_connections"),
            http3_retries: counter!("router_http3_address_checks_total"),
            http3_malformed: counter!("router_http3_malformed_requests_total"),
            received_bytes: counter!("router_received_bytes_total"),
            sent_bytes: counter!("router_sent_bytes_total"),
            routes: gauge!("router_routes"),
            certificates: gauge!("router_certificates"),
            open_certificates: gauge!("router_certificates_open"),
            table_age_seconds: gauge!("router_route_table_age_seconds"),
            feed_lag_seconds: gauge!("router_route_feed_lag_seconds"),
            polls: counter!("router_route_polls_total"),
            poll_errors: counter!("router_route_poll_errors_total"),
            full_reads: counter!("router_route_full_reads_total"),
            refused_tables: counter!("router_route_tables_refused_total"),
            snapshots_written: counter!("router_snapshots_written_total"),
        }
    }

    /// Counts an answer; none when the client left before there was one.
    pub fn answered(&self, status: Option<StatusCode>) {
        let class = status.map_or(0, |status| usize::from(status.as_u16() / 100));
        self.requests[if class < CLASSES.len() { class } else { 0 }].increment(1);
    }

    /// Counts a connection that went to another region, or should have gone.
    pub fn passed_on(&self, carried: bool) {
        self.passed_on[usize::from(carried)].increment(1);
    }

    /// Counts a rejection.
    pub fn rejected(&self, reason: Reason) {
        self.rejections[reason as usize].increment(1);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
