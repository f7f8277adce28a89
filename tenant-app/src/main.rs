//! One site's process: configuration, hardening, serve, drain.

use std::process::ExitCode;

use tenant_app::{config, hardening, listener::Ended, telemetry};

fn main() -> ExitCode {
    if let Err(error) = hardening::harden() {
        eprintln!("tenant-app: cannot give up privileges: {error}");
        return ExitCode::FAILURE;
    }
    telemetry::start();
    let config = match config::read(std::io::stdin().lock()) {
        Ok(config) => config,
        Err(mistakes) => {
            for mistake in mistakes {
                tracing::error!("configuration: {mistake}");
            }
            return ExitCode::from(64);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(8)
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(tenant_app::run(config));
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(Ended::Idle) => {
            tracing::info!("idle: ended");
            ExitCode::SUCCESS
        }
        Ok(Ended::Replaced) => {
            tracing::info!("replaced: ended");
            ExitCode::SUCCESS
        }
        Ok(Ended::Drained) => {
            tracing::info!("drained: ended");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!("cannot serve: {error:#}");
            ExitCode::FAILURE
        }
    }
}
