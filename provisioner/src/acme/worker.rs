//! The loop: claim names that have their time, work on each in a task of its own, put them back.

use std::sync::Arc;

use time::OffsetDateTime;
use tokio::{sync::Semaphore, time::sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, info, info_span, warn};

use crate::{
    acme::{
        Acme,
        critical_section::CriticalSection,
        failure::{Failure, Fault},
        http::remembering,
        placing::Failed,
        renewal::validity,
        schedule::{Facts, Next, Standing, Todo, after_failure, decide},
    },
    control_db::{
        certificate_orders::{self, ClaimError, Claimed, PutBack, Rest},
        certificates::{self, Held},
    },
    engine::worker::chain,
};

impl Acme {
    /// Works until `shutdown`; then lets go of what it works on, so that another provisioner, or the
    /// next one, goes on at once.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let permits = Arc::new(Semaphore::new(self.options.parallel));
        let tasks = TaskTracker::new();
        loop {
            let first = tokio::select! {
                permit = Arc::clone(&permits).acquire_owned() => permit,
                () = shutdown.cancelled() => break,
            };
            let Ok(first) = first else { break };
            let mut pause = self.options.poll;
            let n = permits.available_permits() + 1;
            let (worker, lease) = (&self.options.worker, self.options.lease);
            let mut free = Some(first);
            match certificate_orders::claim(self.pool(), worker, lease, n).await {
                Ok(claimed) => {
                    let is_full = claimed.len() == n;
                    for claimed in claimed {
                        let permit = match free.take() {
                            Some(permit) => Some(permit),
                            // Nobody else takes permits, so there is one for each.
                            None => Arc::clone(&permits).try_acquire_owned().ok(),
                        };
                        let (acme, shutdown) = (Arc::clone(&self), shutdown.clone());
                        tasks.spawn(async move {
                            acme.hold_and_work(claimed, shutdown).await;
                            drop(permit);
                            // It may have its next time at once.
                            acme.nudge();
                        });
                    }
                    if is_full {
                        continue;
                    }
                    let due = certificate_orders::next_due(self.pool()).await.ok().flatten();
                    let moment = std::time::Duration::from_millis(10);
                    pause = due.map_or(pause, |due| pause.min(due + moment));
                }
                Err(error) => warn!(error = %chain(&error), "cannot look for certificates"),
            }
            drop(free);
            tokio::select! {
                () = self.work.notified() => {}
                () = sleep(pause) => {}
                () = shutdown.cancelled() => break,
            }
        }
        tasks.close();
        tasks.wait().await;
    }

    async fn hold_and_work(&self, claimed: Claimed, shutdown: CancellationToken) {
        let span = info_span!("certificate", hostname = claimed.hostname, region = claimed.region);
        let section = CriticalSection::default();
        let work = async {
            tokio::select! {
                done = remembering(self.work_on(&claimed, &section)) => done,
                lost = section.outside(self.hold(&claimed)) => Err(lost),
                () = section.outside(shutdown.cancelled()) => Ok(()),
            }
        };
        match work.instrument(span.clone()).await {
            // What was put back is not ours any more; this is for what was not.
            Ok(()) => {}
            Err(ClaimError::Lost) => info!(parent: &span, "somebody else changed the name"),
            // The name rests until the claim ends: nothing may be tried again at once whose end
            // cannot be noted.
            Err(ClaimError::Database(error)) => {
                warn!(parent: &span, error = %chain(&error), "cannot note what was done");
                return;
            }
        }
        if let Err(error) = claimed.claim().release(self.pool()).await {
            warn!(parent: &span, error = %chain(&error), "cannot release a name");
        }
    }

    /// Holds on to the claim; returns when it is lost.
    async fn hold(&self, claimed: &Claimed) -> ClaimError {
        let mut beats_missed = 0;
        loop {
            sleep(self.options.lease / 3).await;
            match claimed.claim().extend(self.pool(), self.options.lease).await {
                Ok(()) => beats_missed = 0,
                Err(ClaimError::Database(_)) if beats_missed < 2 => beats_missed += 1,
                Err(error) => return error,
            }
        }
    }

    async fn work_on(
        &self,
        claimed: &Claimed,
        section: &CriticalSection,
    ) -> Result<(), ClaimError> {
        let held = certificates::get(self.pool(), &claimed.hostname, &claimed.region).await?;
        let facts = Facts {
            certificate: held.as_ref().map(|held| (validity(held), held.source)),
            renew_at: claimed.renew_at,
            ask_at: claimed.window_check_at,
            requested: claimed.renew_requested,
            is_ordered: claimed.order_url.is_some(),
        };
        let rest = match (decide(OffsetDateTime::now_utc(), &facts), &held) {
            (Todo::Order, held) => return self.attempt(claimed, held.as_ref(), section).await,
            (Todo::Ask, Some(held)) => self.ask(claimed, held).await,
            (Todo::Ask, None) => return Ok(()),
            (Todo::Rest(next_at), _) => Rest {
                window: claimed.window(),
                renew_at: claimed.renew_at,
                ask_at: claimed.window_check_at,
                next_at,
            },
        };
        let _whole = section.enter().await;
        claimed.claim().rest(self.pool(), &rest).await
    }

    async fn attempt(
        &self,
        claimed: &Claimed,
        held: Option<&Held>,
        section: &CriticalSection,
    ) -> Result<(), ClaimError> {
        let attempt = tokio::select! {
            done = self.order(claimed, held, section) => Some(done),
            () = section.outside(sleep(self.options.attempt)) => None,
        };
        let failed = match attempt {
            Some(Ok(())) => return Ok(()),
            Some(Err(failed)) => failed,
            None => {
                let secs = self.options.attempt.as_secs();
                let message =
                    format!("the authority was not done within {secs} s; it goes on later");
                let failure =
                    Failure { keeps_order: true, ..Failure::new(Fault::Unfinished, message) };
                Failed { failure, authority: claimed.authority.clone() }
            }
        };
        let _whole = section.enter().await;
        self.put_back(claimed, &failed).await
    }

    async fn put_back(&self, claimed: &Claimed, failed: &Failed) -> Result<(), ClaimError> {
        let failure = &failed.failure;
        let name = failed.authority.as_ref().or(claimed.authority.as_ref());
        let index = |name: &String| self.authorities.iter().position(|a| a.name() == name);
        let present = name.and_then(index).unwrap_or(0);
        let challenge = |kind| self.challenges.iter().position(|known| *known == kind);
        let standing = Standing {
            authority: present,
            // Failures of another authority are not this one's.
            authority_failures: match &claimed.authority {
                Some(before) if name == Some(before) => claimed.authority_failures,
                _ => 0,
            },
            challenge: claimed.challenge.and_then(challenge).unwrap_or(0),
            failures: u32::try_from(claimed.failures).unwrap_or(0),
        };
        let Next { standing: next, pause } = after_failure(
            standing,
            failure.fault,
            (self.authorities.len(), self.challenges.len()),
            failure.wait.and_then(|wait| wait.try_into().ok()),
            rand::random(),
        );
        warn!(
            fault = ?failure.fault,
            failures = next.failures,
            next_in_secs = pause.whole_seconds(),
            "no certificate: {}", failure.message
        );
        metrics::counter!("provisioner_certificate_failures_total",
            "fault" => failure.fault.as_str())
        .increment(1);
        let back = PutBack {
            keeps_order: failure.keeps_order && next.authority == standing.authority,
            authority: self.authorities.get(next.authority).map(|authority| authority.name()),
            authority_failures: next.authority_failures,
            challenge: self.challenges.get(next.challenge).copied(),
            failures: i32::try_from(next.failures).unwrap_or(i32::MAX),
            error: (&failure.message, failure.fault),
            next_at: OffsetDateTime::now_utc() + pause,
        };
        claimed.claim().put_back(self.pool(), &back).await
    }
}
