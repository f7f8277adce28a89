//! One tenant-app process: started, found again, watched and ended.

use std::{
    fs::File,
    io::{self, Write},
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
use control_types::{
    Generation, InstanceConfig,
    instance_config::{CONTROL_FD, LISTEN_FD},
};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::{
    io::unix::AsyncFd,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{LocalConfig, STOP_TIMEOUT, sockets, state_file::ProcessIdentity};

/// How long a killed process may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a replaced process keeps connections that nobody uses. A router keeps them for 15 s at most,
/// and a request may be on its way on each: only a router can close one without losing it.
const KEPT: Duration = Duration::from_secs(20);
/// How often a process is told that it was replaced: it may not have listened yet.
const TOLD_AGAIN: Duration = Duration::from_secs(1);

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With status 0.
    Well,
    /// In another way, said in words.
    Badly(String),
    /// It was started by an earlier provisioner, so its status is told to nobody.
    Unknown,
}

/// A process that lives, or did when last looked.
#[derive(Debug)]
pub struct Process {
    /// Which.
    pub identity: ProcessIdentity,
    /// Of which generation; none until that is known of one that was found again.
    pub generation: Option<Generation>,
    /// When it was started, or found again.
    pub since: Instant,
    /// Where in the site's log its lines begin.
    pub log_start: u64,
    /// Whether it answered on its control socket: it came as far as serving.
    pub answered: Arc<AtomicBool>,
    watch: AsyncFd<OwnedFd>,
    child: Option<Child>,
}

/// A process that has not been told its configuration yet. When its provisioner dies now, it reads
/// an empty one and ends; so no process runs that nobody wrote down.
pub struct Untold {
    process: Process,
    stdin: ChildStdin,
}

impl Untold {
    /// Starts the binary with the two sockets.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn start(
        config: &LocalConfig,
        listener: &OwnedFd,
        control: OwnedFd,
        (log, log_start): (File, u64),
    ) -> io::Result<Self> {
        let mut command = Command::new(&config.tenant_app);
        command
            .env_clear()
            .env("LISTEN_FDS", "2")
            .env("RUST_LOG", &config.log)
            .current_dir("/")
            // Not in the terminal's foreground group: Ctrl-C is for the provisioner, which drains.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .fd_mappings(vec![
                FdMapping { parent_fd: listener.try_clone()?, child_fd: LISTEN_FD },
                FdMapping { parent_fd: control, child_fd: CONTROL_FD },
            ])
            .map_err(io::Error::other)?;
        let mut child = command.spawn()?;
        let stdin = child.stdin.take();
        let pid = child.id().cast_signed();
        let found = watch(pid).and_then(|watch| {
            let identity = ProcessIdentity::read(pid).ok_or(io::ErrorKind::NotFound)?;
            Ok((watch, identity, stdin.ok_or(io::ErrorKind::BrokenPipe)?))
        });
        match found {
            Ok((watch, identity, stdin)) => {
                let child = Some(child);
                let since = Instant::now();
                let answered = Arc::default();
                let generation = None;
                let process =
                    Process { identity, generation, since, log_start, answered, watch, child };
                Ok(Self { process, stdin })
            }
            Err(error) => {
                end_now(&mut child);
                Err(error)
            }
        }
    }

    /// Which.
    pub fn identity(&self) -> &ProcessIdentity {
        &self.process.identity
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When the configuration cannot be written as JSON.
    pub fn tell(mut self, config: &InstanceConfig) -> io::Result<Process> {
        let text = serde_json::to_vec(config).map_err(io::Error::other)?;
        // Far less than a pipe holds, so this waits for nothing. A process that ended already
        // does not read it; its end tells more than this error would.
        let _ = self.stdin.write_all(&text);
        self.process.generation = Some(config.generation);
        Ok(self.process)
    }

    /// Ends it before it began.
    pub fn discard(mut self) {
        if let Some(child) = &mut self.process.child {
            end_now(child);
        }
    }
}

impl Process {
    /// The process that an earlier provisioner wrote down, if it still lives.
    pub fn find(identity: &ProcessIdentity) -> Option<Self> {
        // First get hold of whatever has the number now, then look whether it is the one.
        let watch = watch(identity.pid).ok()?;
        let identity = Some(identity).filter(|identity| identity.is_alive())?.clone();
        let since = Instant::now();
        let answered = Arc::new(AtomicBool::new(true));
        let generation = None;
        Some(Self { identity, generation, since, log_start: 0, answered, watch, child: None })
    }

    /// Returns when the process has ended. Can be cancelled and called again.
    pub async fn ended(&mut self) -> Ended {
        if self.watch.readable().await.is_err() {
            // The tokio runtime is going away, and this task with it.
            std::future::pending::<()>().await;
        }
        let Some(child) = &mut self.child else { return Ended::Unknown };
        match child.wait() {
            Ok(status) if status.success() => Ended::Well,
            Ok(status) => Ended::Badly(status.to_string()),
            Err(error) => Ended::Badly(format!("its status cannot be read: {error}")),
        }
    }

    /// Tells it that another takes new connections now: it answers what comes on those that it has,
    /// asks to close each, and ends with the last. Drains it when that takes too long, or at `hurry`.
    pub async fn hand_over(mut self, hurry: CancellationToken) -> (ProcessIdentity, bool) {
        let until = Instant::now() + KEPT;
        while Instant::now() < until {
            // One that does not know the signal is not disturbed by it.
            self.signal(Signal::WINCH);
            let next = until.min(Instant::now() + TOLD_AGAIN);
            tokio::select! {
                _ = self.ended() => return (self.identity, true),
                () = hurry.cancelled() => break,
                () = sleep_until(next) => {}
            }
        }
        self.drain().await
    }

    /// Tells it to finish its requests and end; kills it when it does not. False when it did not
    /// even end then.
    pub async fn drain(mut self) -> (ProcessIdentity, bool) {
        self.signal(Signal::TERM);
        let mut ended = timeout(STOP_TIMEOUT, self.ended()).await.is_ok();
        if !ended {
            tracing::warn!(process.id = self.identity.pid, "killing a process that does not end");
            self.signal(Signal::KILL);
            ended = timeout(KILL_TIMEOUT, self.ended()).await.is_ok();
        }
        (self.identity, ended)
    }

    fn signal(&self, signal: Signal) {
        // Fails only when the process has ended, which is what the signal is for.
        let _ = pidfd_send_signal(self.watch.get_ref(), signal);
    }
}

fn watch(pid: i32) -> io::Result<AsyncFd<OwnedFd>> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    sockets::watch(pidfd_open(pid, PidfdFlags::empty())?)
}

fn end_now(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}
