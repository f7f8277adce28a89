//! How an instance's process is started, and what follows from its end.

use std::{
    fmt::Write,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout},
};

use super::{
    super::{
        back_off::RunEnd,
        log_file::LogFile,
        process::{Ended, Untold},
        sockets,
        state_file::ProcessIdentity,
    },
    Instance,
};

/// How long a start may hold up others that wait for their turn.
const START_TIMEOUT: Duration = Duration::from_secs(10);

impl Instance {
    pub(super) fn start(&mut self, permit: OwnedSemaphorePermit) {
        self.start_now = false;
        let outcome = self.start_process(permit);
        if let Err((action, error)) = outcome {
            let program = self.shared.config.tenant_app.display();
            let message = format!("cannot {action} ({program}): {error}");
            let ran = Duration::ZERO;
            self.decide(RunEnd { well: false, ran, wanted: true }, message);
        }
    }

    fn start_process(
        &mut self,
        permit: OwnedSemaphorePermit,
    ) -> Result<(), (&'static str, io::Error)> {
        let (Some(spec), Some(listener)) = (self.spec.clone(), self.listener.clone()) else {
            return Ok(());
        };
        let log = LogFile::of(&self.shared.config.logs, &spec.config.slug);
        let log = log.open().map_err(|error| ("open the log file of the instance", error))?;
        let control = sockets::listen_at(&self.files.control, &self.files)
            .map_err(|error| ("make the control socket of the instance", error))?;
        let untold = Untold::start(&self.shared.config, &listener, control, log)
            .map_err(|error| ("start the instance's process", error))?;
        self.starts += 1;
        if let Err(error) = self.write_state(Some(untold.identity())) {
            untold.discard();
            return Err(("write the state file of the instance", error));
        }
        let process = untold
            .tell(&spec.config)
            .map_err(|error| ("tell the instance's process its configuration", error))?;
        tracing::info!(
            instance.id = %self.id, site.slug = %spec.config.slug,
            process.id = process.identity.pid, "started an instance"
        );
        self.watch_start(permit, Arc::clone(&process.answered));
        self.outdated = false;
        if let Some(old) = self.process.replace(process) {
            // One of another generation has nothing to answer any more.
            let is_superseded = old.generation.is_some_and(|old| old != spec.config.generation);
            self.let_go(old, is_superseded);
        }
        Ok(())
    }

    /// Lets the next start have its turn when this one is through.
    fn watch_start(&self, permit: OwnedSemaphorePermit, answered: Arc<AtomicBool>) {
        let control = self.files.control.clone();
        let id = self.id;
        tokio::spawn(async move {
            let begun = Instant::now();
            let answers = timeout(START_TIMEOUT, sockets::answers(&control)).await;
            drop(permit);
            let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            answered.store(matches!(answers, Ok(true)), Ordering::Relaxed);
            match answers {
                Ok(true) => tracing::debug!(instance.id = %id, millis, "an instance is ready"),
                Ok(false) => {}
                Err(_) => tracing::warn!(instance.id = %id, millis, "an instance is slow to start"),
            }
        });
    }

    pub(super) fn on_end(&mut self, ended: Ended) {
        let Some(process) = self.process.take() else { return };
        self.outdated = false;
        let ran = process.since.elapsed();
        let waits = self.listener.as_ref().is_some_and(|fd| sockets::connection_waits(fd));
        // One that served and ended may well be wanted again at once.
        let wanted = (waits || self.is_warm()) && !process.answered.load(Ordering::Relaxed);
        let pid = process.identity.pid;
        if let Err(error) = self.write_state(None) {
            // Only says of a dead process that it is there, which its successor checks.
            tracing::warn!(instance.id = %self.id, %error, "cannot write a state file");
        }
        match ended {
            Ended::Badly(how) => {
                let message = self.describe_end(&how, process.log_start);
                self.decide(RunEnd { well: false, ran, wanted }, message);
            }
            Ended::Well | Ended::Unknown => {
                tracing::info!(instance.id = %self.id, process.id = pid, "an instance ended");
                let message = "the process ends at once, without having served".to_owned();
                self.decide(RunEnd { well: true, ran, wanted }, message);
            }
        }
    }

    /// Decides when the next process may start.
    fn decide(&mut self, end: RunEnd, message: String) {
        let Some(wait) = self.back_off.after(end) else {
            self.last_error = None;
            return;
        };
        tracing::warn!(
            instance.id = %self.id, reason = message, wait_secs = wait.as_secs(),
            "an instance failed; the next start waits"
        );
        self.last_error = Some(message);
        self.not_before = Some(Instant::now() + wait);
    }

    fn describe_end(&self, how: &str, log_start: u64) -> String {
        let mut message = format!("the process ended with {how}");
        let Some(slug) = &self.slug else { return message };
        let log = LogFile::of(&self.shared.config.logs, slug);
        let _ = write!(message, "; see {}", log.path.display());
        if let Some(line) = log.last_line(log_start) {
            let _ = write!(message, ", which ends: {line}");
        }
        message
    }

    pub(super) fn on_drained(&mut self, identity: &ProcessIdentity, ended: bool) {
        self.draining_ids.retain(|draining| draining != identity);
        if !ended {
            tracing::error!(
                instance.id = %self.id, process.id = identity.pid,
                "a replaced process of an instance does not end, not even when killed"
            );
        }
        if let Err(error) = self.write_state(None) {
            tracing::warn!(instance.id = %self.id, %error, "cannot write a state file");
        }
    }
}
