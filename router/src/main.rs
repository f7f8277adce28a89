//! The router's process: configuration, log, build, serve, drain. Exit codes: 0 after a request to
//! stop, 64 for a bad configuration, 1 for a failed start.

use std::{path::PathBuf, process::ExitCode};

use router::{Router, config::Config, telemetry};
use tokio::signal::unix::{SignalKind, signal};

const BAD_CONFIGURATION: u8 = 64;

/// A request takes a few dozen allocations, and this one takes them in half the time of the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let config = match config_path()
        .and_then(|path| Config::load(&path).map_err(|error| error.to_string()))
    {
        Ok(config) => config,
        Err(error) => {
            eprintln!("router: {error}");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    telemetry::start_log(&config.log);
    // Where the system hands huge pages to everybody, a connection that is idle would cost twice as
    // much. Without this it is not wrong, only bigger.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the router failed");
            ExitCode::FAILURE
        }
    }
}

fn config_path() -> Result<PathBuf, String> {
    let mut arguments = std::env::args_os().skip(1);
    match (arguments.next(), arguments.next(), arguments.next()) {
        (Some(flag), Some(path), None) if flag == "--config" => Ok(path.into()),
        _ => Err("usage: router --config FILE".to_owned()),
    }
}

fn run(config: Config) -> anyhow::Result<()> {
    // Another crate may have brought a second provider; which one is used is decided here.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // For what goes on beside the connections, which have threads of their own.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(async {
        let router = Router::build(config)?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        router
            .serve(async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            })
            .await
    });
    runtime.shutdown_background();
    outcome
}
