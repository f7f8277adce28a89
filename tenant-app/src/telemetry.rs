//! Log lines: JSON on standard error, one per event.

use tracing_subscriber::{filter::LevelFilter, layer::SubscriberExt, util::SubscriberInitExt};

/// Starts logging. The database driver's statement log stays off: it could show personal data.
pub fn start() {
    let targets = tracing_subscriber::filter::Targets::new()
        .with_default(LevelFilter::INFO)
        .with_target("sqlx::query", LevelFilter::OFF)
        .with_target("s3", LevelFilter::WARN);
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(true)
        .with_span_list(false)
        .with_writer(std::io::stderr);
    let subscriber = tracing_subscriber::registry().with(lines).with(targets);
    // Only fails when one was set already, as in tests.
    let _ = subscriber.try_init();
}
