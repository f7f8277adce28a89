//! What SIGINT, SIGTERM and SIGHUP mean: the first asks for a stop in good order, a further one for
//! a quick one.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::progress::note;

/// The bit of SIGHUP in the masks of `/proc/self/status`.
const HANGUP_BIT: u64 = 1;

/// From now on signals do not end the process but cancel these two, one after the other.
///
/// # Errors
/// When the handlers cannot be set.
pub fn listen() -> std::io::Result<(CancellationToken, CancellationToken)> {
    let (stop, hurry) = (CancellationToken::new(), CancellationToken::new());
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // Who runs under `nohup` does not want to be stopped with the terminal.
    let mut hangup = if ignores_hangup() { None } else { Some(signal(SignalKind::hangup())?) };
    let tokens = (stop.clone(), hurry.clone());
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                () = received(hangup.as_mut()) => {}
            }
            if stop.is_cancelled() {
                note("stopping at once");
                hurry.cancel();
            } else {
                stop.cancel();
            }
        }
    });
    Ok(tokens)
}

async fn received(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & HANGUP_BIT != 0)
}
