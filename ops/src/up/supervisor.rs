//! Child processes: started, written down, started again when they end by themselves, and stopped
//! in the order that the caller chooses. Each is in a process group of its own, so that Ctrl-C at
//! the terminal reaches `ta3lem up` alone. A child outlives an `up` that is killed (nothing is lost
//! by that: requests are served on); the next `up` or `down` finds it by its record.

use std::{
    fs::OpenOptions,
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::{fs::OpenOptionsExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Signal, kill_process_group};
use tokio::{
    process::{Child, Command},
    sync::{Notify, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    process::{ProcessRecord, pid},
    progress,
};
use crate::{config, data_dir::DataDir};

/// A log over this size is put aside at the next start of its component.
const MAX_LOG_BYTES: u64 = 16 * 1024 * 1024;
/// The pause before the first restart; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause before a restart.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Who ran this long is healthy: the pauses begin anew.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);
/// How long a process may take to go after the last signal that it can catch.
const LAST_GRACE: Duration = Duration::from_secs(10);

/// What to run, and how to stop it.
#[derive(Clone, Debug)]
pub struct Component {
    /// As `router-id-jakarta`.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments; no secrets.
    pub arguments: Vec<String>,
    /// Where its output goes.
    pub log: PathBuf,
    /// Asks it to end in good order.
    pub stop_signal: Signal,
    /// How long that may take.
    pub grace: Duration,
    /// Ends it at once, as well as it can.
    pub hurry_signal: Signal,
}

/// What is known of a component that is kept running.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Its process, while there is one.
    pub process_id: Option<u32>,
    /// How often it ended by itself.
    pub exits: u32,
    /// How it ended last.
    pub last_exit: Option<String>,
}

/// A component that is kept running.
pub struct Supervised {
    /// What runs.
    pub component: Component,
    status: watch::Receiver<Status>,
    stop: CancellationToken,
    replace: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Supervised {
    /// Starts a component and keeps it running. `hurry` shortens its stop.
    ///
    /// # Errors
    /// When it cannot be started at all.
    pub fn start(
        component: Component,
        data: &DataDir,
        hurry: CancellationToken,
    ) -> anyhow::Result<Self> {
        let (child, record) = spawn(&component, data)?;
        let (status_sender, status) =
            watch::channel(Status { process_id: child.id(), ..Status::default() });
        let stop = CancellationToken::new();
        let replace = Arc::new(Notify::new());
        let keeper = Keeper {
            component: component.clone(),
            data: data.clone(),
            status: status_sender,
            stop: stop.clone(),
            replace: Arc::clone(&replace),
            hurry,
        };
        let task = tokio::spawn(keeper.keep(child, record));
        Ok(Self { component, status, stop, replace, task })
    }

    /// Starts another process of the same beside it, which takes over from the first; only for
    /// programs that can. The first one goes on if the other does not get ready.
    pub fn replace(&self) {
        self.replace.notify_one();
    }

    /// Its process and its exits, now and whenever they change.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Waits for `ready`, unless the process ends first.
    ///
    /// # Errors
    /// That of `ready`; or how the process ended, with the end of its log.
    pub async fn when_ready<T>(
        &self,
        ready: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        wait_ready(self.status(), &self.component.log, ready).await
    }

    /// Stops it and waits until it is gone.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

/// As [`Supervised::when_ready`].
///
/// # Errors
/// As [`Supervised::when_ready`].
pub async fn wait_ready<T>(
    mut status: watch::Receiver<Status>,
    log: &Path,
    ready: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let how = tokio::select! {
        ready = ready => return ready,
        ended = status.wait_for(|status| status.exits > 0) => match ended {
            Ok(status) => status.last_exit.clone().unwrap_or_default(),
            Err(_) => "it was stopped".to_owned(),
        },
    };
    match last_line(log) {
        Some(line) => bail!("the process {how} at its start; its last words: {line}"),
        None => bail!("the process {how} at its start and said nothing"),
    }
}

struct Keeper {
    component: Component,
    data: DataDir,
    status: watch::Sender<Status>,
    stop: CancellationToken,
    replace: Arc<Notify>,
    hurry: CancellationToken,
}

/// A process and its record.
type Running = (Child, ProcessRecord);

impl Keeper {
    async fn keep(self, mut child: Child, mut record: ProcessRecord) {
        let mut pause = FIRST_PAUSE;
        let mut next: Option<Running> = None;
        loop {
            let begun = Instant::now();
            let ended = tokio::select! {
                ended = child.wait() => ended,
                () = self.replace.notified(), if next.is_none() => {
                    next = self.start_next();
                    continue;
                }
                how = end_of(next.as_mut()) => {
                    progress::note(format!(
                        "the new process of {} {how}; the old one goes on (its log: {})",
                        self.component.name,
                        self.component.log.display()
                    ));
                    if let Some((_, record)) = next.take() {
                        record.remove(&self.data);
                    }
                    continue;
                }
                () = self.stop.cancelled() => {
                    if let Some((mut child, record)) = next {
                        self.end(&mut child).await;
                        record.remove(&self.data);
                    }
                    self.end(&mut child).await;
                    record.remove(&self.data);
                    return;
                }
            };
            record.remove(&self.data);
            if let Some(taken_over) = next.take() {
                (child, record) = taken_over;
                self.status.send_modify(|status| status.process_id = child.id());
                progress::note(format!("{} was replaced", self.component.name));
                continue;
            }
            let how = ended.map_or_else(|error| error.to_string(), in_words);
            self.status.send_modify(|status| {
                status.process_id = None;
                status.exits += 1;
                status.last_exit = Some(how.clone());
            });
            pause = if begun.elapsed() > HEALTHY_AFTER { FIRST_PAUSE } else { pause };
            progress::note(format!(
                "{} {how}; it is started again (its log: {})",
                self.component.name,
                self.component.log.display()
            ));
            match self.start_again(&mut pause).await {
                Some(again) => (child, record) = again,
                None => return,
            }
        }
    }

    fn start_next(&self) -> Option<Running> {
        match spawn(&self.component, &self.data) {
            Ok(next) => Some(next),
            Err(error) => {
                progress::note(format!("{} is not replaced: {error:#}", self.component.name));
                None
            }
        }
    }

    /// None when it is to stop in the meantime.
    async fn start_again(&self, pause: &mut Duration) -> Option<Running> {
        loop {
            tokio::select! {
                () = tokio::time::sleep(*pause) => {}
                () = self.stop.cancelled() => return None,
            }
            *pause = (*pause * 2).min(LONGEST_PAUSE);
            match spawn(&self.component, &self.data) {
                Ok((child, record)) => {
                    let process_id = child.id();
                    self.status.send_modify(|status| status.process_id = process_id);
                    return Some((child, record));
                }
                Err(error) => progress::note(format!("{}: {error:#}", self.component.name)),
            }
        }
    }

    async fn end(&self, child: &mut Child) {
        signal(child, self.component.stop_signal);
        tokio::select! {
            _ = child.wait() => return,
            () = tokio::time::sleep(self.component.grace) => {}
            () = self.hurry.cancelled() => {}
        }
        signal(child, self.component.hurry_signal);
        if tokio::time::timeout(LAST_GRACE, child.wait()).await.is_err() {
            signal(child, Signal::KILL);
            let _ = child.wait().await;
        }
    }
}

/// How a process ended; never for none.
async fn end_of(running: Option<&mut Running>) -> String {
    let Some((child, _)) = running else { return std::future::pending().await };
    child.wait().await.map_or_else(|error| error.to_string(), in_words)
}

fn signal(child: &Child, signal: Signal) {
    let signals_group = signal == Signal::KILL;
    if let Some(pid) = child.id().and_then(pid) {
        // Only what cannot be caught goes to the whole group: a postmaster tells its children itself.
        let _ = if signals_group {
            kill_process_group(pid, signal)
        } else {
            rustix::process::kill_process(pid, signal)
        };
    }
}

fn spawn(component: &Component, data: &DataDir) -> anyhow::Result<(Child, ProcessRecord)> {
    let log = open_log(&component.log)?;
    let mut command = Command::new(&component.program);
    command
        .args(&component.arguments)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    for variable in config::postgres_variables() {
        command.env_remove(variable);
    }
    let child = command
        .spawn()
        .with_context(|| format!("{} cannot be started", component.program.display()))?;
    let id = child.id().context("the process ended at once")?;
    let record = ProcessRecord::of(&component.name, id, component.log.clone());
    record.save(data)?;
    Ok((child, record))
}

fn open_log(path: &Path) -> anyhow::Result<std::fs::File> {
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > MAX_LOG_BYTES) {
        std::fs::rename(path, path.with_extension("log.1"))?;
    }
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    options.open(path).with_context(|| format!("cannot open the log {}", path.display()))
}

fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// The last line of a log, shortened.
fn last_line(log: &Path) -> Option<String> {
    let mut file = std::fs::File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(4096))).ok()?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).ok()?;
    let tail = String::from_utf8_lossy(&tail).into_owned();
    let line = tail.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(line.trim().chars().take(400).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(data: &DataDir, script: &str) -> Component {
        Component {
            name: "shell".into(),
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            log: data.log("shell"),
            stop_signal: Signal::TERM,
            grace: Duration::from_secs(30),
            hurry_signal: Signal::KILL,
        }
    }

    fn data() -> (tempfile::TempDir, DataDir) {
        let directory = tempfile::tempdir().expect("a directory");
        let data = DataDir::at(directory.path()).expect("a path");
        data.prepare().expect("made");
        (directory, data)
    }

    #[tokio::test]
    async fn who_dies_is_started_again_and_who_is_stopped_is_gone() {
        let (_directory, data) = data();
        let script = "trap 'exit 0' TERM; while :; do sleep 0.05; done";
        let hurry = CancellationToken::new();
        let child = Supervised::start(shell(&data, script), &data, hurry).expect("starts");
        let mut status = child.status();
        let first = status.borrow().process_id.expect("runs");
        rustix::process::kill_process(pid(first).expect("a pid"), Signal::KILL).expect("killed");
        let again = status.wait_for(|status| status.exits == 1 && status.process_id.is_some());
        let second = again.await.expect("kept").process_id.expect("runs");
        assert_ne!(first, second);
        assert_eq!(super::super::process::records(&data).expect("read").len(), 1);
        child.stop().await;
        assert!(!super::super::process::is_alive(second));
        assert!(super::super::process::records(&data).expect("read").is_empty());
    }

    #[tokio::test]
    async fn a_process_is_replaced_when_the_old_one_has_gone() {
        let (directory, data) = data();
        // The second one finds the first one's mark and asks it to go.
        let mark = directory.path().join("mark");
        let script = format!(
            "trap 'exit 0' TERM; [ -e {0} ] && kill \"$(cat {0})\"; echo $$ > {0}; \
             while :; do sleep 0.05; done",
            mark.display()
        );
        let hurry = CancellationToken::new();
        let child = Supervised::start(shell(&data, &script), &data, hurry).expect("starts");
        let mut status = child.status();
        let first = status.borrow().process_id.expect("runs");
        while !mark.exists() {
            tokio::task::yield_now().await;
        }
        child.replace();
        let replaced = status.wait_for(|status| status.process_id != Some(first));
        let second = replaced.await.expect("kept").clone();
        assert_eq!(second.exits, 0, "it did not fail");
        assert_eq!(super::super::process::records(&data).expect("read").len(), 1);
        child.stop().await;
        assert!(!super::super::process::is_alive(second.process_id.expect("runs")));
    }

    #[tokio::test]
    async fn a_hurry_ends_those_who_will_not_go() {
        let (_directory, data) = data();
        let hurry = CancellationToken::new();
        let script = "trap '' TERM; echo deaf; while :; do sleep 0.05; done";
        let child = Supervised::start(shell(&data, script), &data, hurry.clone()).expect("starts");
        let id = child.status().borrow().process_id.expect("runs");
        hurry.cancel();
        let begun = Instant::now();
        child.stop().await;
        assert!(begun.elapsed() < Duration::from_secs(20));
        assert!(!super::super::process::is_alive(id));
    }

    #[tokio::test]
    async fn a_start_that_fails_tells_the_last_words() {
        let (_directory, data) = data();
        let script = "echo 'no such cluster'; exit 3";
        let hurry = CancellationToken::new();
        let child = Supervised::start(shell(&data, script), &data, hurry).expect("starts");
        let never = std::future::pending::<anyhow::Result<()>>();
        let error = child.when_ready(never).await.expect_err("ended").to_string();
        assert!(error.contains("status 3") && error.contains("no such cluster"), "{error}");
        child.stop().await;
    }
}
