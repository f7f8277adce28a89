//! The process of an instance, reduced to its contract: two inherited sockets, the configuration
//! on standard input, an idle exit, a drain at SIGTERM, and at SIGWINCH an end with its last
//! connection. It answers each line with its process id and its generation. `storage.bucket` says how
//! it behaves: `serve`, `crash`, or `mute` (does not answer on its control socket); `storage.prefix`
//! is the idle time in milliseconds, 0 for none.

use std::{
    io::{IoSlice, Read},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, FromRawFd, OwnedFd},
        unix::net::UnixListener as StdListener,
    },
    sync::Arc,
    time::Duration,
};

use control_types::{
    InstanceConfig,
    instance_config::{CONTROL_FD, LISTEN_FD},
};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::sleep,
};

/// Does not return.
pub fn main() {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).expect("reads its configuration");
    let Ok(config) = serde_json::from_str::<InstanceConfig>(&text) else {
        std::process::exit(64);
    };
    if config.storage.bucket == "crash" {
        eprintln!("starts\nthe database is away");
        std::process::exit(1);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(serve(Arc::new(config)));
    std::process::exit(0);
}

async fn serve(config: Arc<InstanceConfig>) {
    let listener = inherited(LISTEN_FD);
    let control = inherited(CONTROL_FD);
    let mut terminated = signal(SignalKind::terminate()).expect("a signal");
    let mut replaced = signal(SignalKind::window_change()).expect("a signal");
    let idle = Duration::from_millis(config.storage.prefix.parse().expect("milliseconds"));
    let mute = config.storage.bucket == "mute";
    let open = watch::Sender::new(0_usize);
    let draining = watch::Sender::new(false);
    eprintln!("serves");
    loop {
        let mut opened = open.subscribe();
        let n_open = *opened.borrow_and_update();
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.expect("accepts");
                open.send_modify(|n_open| *n_open += 1);
                let (open, config) = (open.clone(), Arc::clone(&config));
                let draining = draining.subscribe();
                tokio::spawn(async move {
                    answer(stream, &config, draining).await;
                    open.send_modify(|n_open| *n_open -= 1);
                });
            }
            Ok((stream, _)) = control.accept(), if !mute => hand_over(&stream, &listener),
            _ = opened.changed() => {}
            _ = replaced.recv() => break,
            _ = terminated.recv() => {
                draining.send_replace(true);
                break;
            }
            () = sleep(idle), if n_open == 0 && !idle.is_zero() => return,
        }
    }
    drop(listener);
    tokio::spawn(async move {
        terminated.recv().await;
        draining.send_replace(true);
    });
    let _ = open.subscribe().wait_for(|n_open| *n_open == 0).await;
}

async fn answer(stream: UnixStream, config: &InstanceConfig, mut draining: watch::Receiver<bool>) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    loop {
        let n_bytes = tokio::select! {
            biased;
            n_bytes = stream.read_line(&mut line) => n_bytes.unwrap_or_default(),
            // Whoever waits for nothing is closed.
            _ = draining.wait_for(|draining| *draining) => return,
        };
        if n_bytes == 0 {
            return;
        }
        if line.trim() == "slow" {
            sleep(Duration::from_millis(500)).await;
        }
        let answer = format!("{} {}\n", std::process::id(), config.generation);
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        line.clear();
    }
}

fn hand_over(stream: &UnixStream, listener: &UnixListener) {
    let descriptors = [listener.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let _ = sendmsg(stream, &[IoSlice::new(b"L")], &mut control, SendFlags::NOSIGNAL);
}

#[allow(unsafe_code, reason = "takes over what its parent handed down")]
fn inherited(number: i32) -> UnixListener {
    // SAFETY: the runtime hands these two down, and nothing else here uses them.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    UnixListener::from_std(StdListener::from(socket)).expect("listens")
}
