//! Restore orders: a database of the cluster, as it was at a moment, comes into a new one beside it.
//!
//! What is to be done is what the provisioner lists. An order that is listed is worked on until its
//! outcome was told; one that is not is dropped, with everything that works for it. A keeper that is
//! killed finds by its directory what it left.

mod carry;
mod course;
mod log;
mod place;
mod scratch;

use std::{collections::HashMap, pin::pin, time::Duration};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use provisioner_api::{
    client::{Client, ClientError},
    restores::{RestoreOrder, RestoreProgress},
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::{
    course::{Course, Far},
    place::Place,
};
use super::{config::KeeperConfig, pgbackrest::Pgbackrest};

/// How many orders are worked on at once: requests to the cluster come first.
const AT_ONCE: usize = 2;
/// How long the provisioner may wait for something new.
const WAIT: Duration = Duration::from_secs(20);
/// The pause after an answer that was none, or nothing new.
const AGAIN: Duration = Duration::from_secs(1);
/// How often it is said how far an order is: at most, and at least.
const SAY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(4));

/// Carries orders out.
#[derive(Clone, Copy)]
pub struct Restores<'a> {
    /// Of the keeper.
    pub config: &'a KeeperConfig,
    /// Its repository.
    pub pgbackrest: &'a Pgbackrest,
    /// Who orders.
    pub client: &'a Client,
}

/// An order that is listed.
struct Listed {
    order: RestoreOrder,
    /// What became of it.
    outcome: Option<RestoreProgress>,
    /// Whether it is to be worked on, or told of again.
    is_due: bool,
}

impl Restores<'_> {
    /// Does what is listed, for ever. When this is dropped, so is the work: see [`clear`].
    pub async fn work(&self) {
        let mut listed: Vec<Listed> = Vec::new();
        let mut working: HashMap<Uuid, CancellationToken> = HashMap::new();
        let mut running = FuturesUnordered::new();
        let mut said = String::new();
        loop {
            for entry in listed.iter_mut().filter(|entry| entry.is_due) {
                if working.len() < AT_ONCE && !working.contains_key(&entry.order.id) {
                    let stop = CancellationToken::new();
                    working.insert(entry.order.id, stop.clone());
                    entry.is_due = false;
                    running.push(self.see_to(entry.order.clone(), entry.outcome.take(), stop));
                }
            }
            let known: Vec<Uuid> = listed.iter().map(|entry| entry.order.id).collect();
            tokio::select! {
                orders = self.list(&known, &mut said) => {
                    for (id, stop) in &working {
                        if !orders.iter().any(|order| order.id == *id) {
                            stop.cancel();
                        }
                    }
                    listed = update(listed, orders, &working);
                    clear(self.config, |order| working.contains_key(order)).await;
                }
                Some((id, outcome)) = running.next() => {
                    working.remove(&id);
                    match (listed.iter_mut().find(|entry| entry.order.id == id), outcome) {
                        (Some(entry), Some(outcome)) => entry.outcome = Some(outcome),
                        // Nobody wants it. If that is not so, it is listed again.
                        _ => listed.retain(|entry| entry.order.id != id),
                    }
                }
            }
        }
    }

    /// What is to be done, as soon as it is something else than what is known.
    async fn list(&self, known: &[Uuid], said: &mut String) -> Vec<RestoreOrder> {
        loop {
            match self.client.restore_orders(known, WAIT).await {
                Ok(orders) => {
                    said.clear();
                    if orders.iter().map(|order| &order.id).eq(known) {
                        sleep(AGAIN).await;
                    }
                    return orders;
                }
                Err(error) => {
                    let error = format!("{:#}", anyhow::Error::from(error));
                    if error != *said {
                        tracing::warn!("the provisioner does not say what to restore: {error}");
                        *said = error;
                    }
                    sleep(AGAIN).await;
                }
            }
        }
    }

    /// Works on an order until its outcome was told. None when nobody wants it any more.
    async fn see_to(
        self,
        order: RestoreOrder,
        outcome: Option<RestoreProgress>,
        stop: CancellationToken,
    ) -> (Uuid, Option<RestoreProgress>) {
        let outcome = stop.run_until_cancelled(async {
            let outcome = match outcome {
                // It may have been made anew since.
                Some(done @ RestoreProgress::Done { .. }) => {
                    match carry::is_done(self.config, &order.into).await {
                        Ok(true) => done,
                        Ok(false) => self.carry_out(&order).await?,
                        // It is told when that can be seen.
                        Err(_) => return Some(done),
                    }
                }
                Some(outcome) => outcome,
                None => self.carry_out(&order).await?,
            };
            self.tell_surely(&order, &outcome).await.then_some(outcome)
        });
        let outcome = outcome.await.flatten();
        if outcome.is_none() {
            self.leave_nothing(&order).await;
        }
        (order.id, outcome)
    }

    /// None when nobody wants it any more.
    async fn carry_out(&self, order: &RestoreOrder) -> Option<RestoreProgress> {
        tracing::info!(
            "order {}: brings {} back as it was at {}",
            order.id,
            order.database,
            order.moment
        );
        let (far, how_far) = watch::channel(Far::new());
        let course = Course::new(self.config, self.pgbackrest, order, far);
        let is_over = CancellationToken::new();
        let mut saying = pin!(self.say_how_far(order, how_far, &is_over));
        let outcome = tokio::select! {
            outcome = course.run() => outcome,
            () = &mut saying => return None,
        };
        // What is being said must not be heard after the outcome.
        is_over.cancel();
        saying.await;
        Some(match outcome {
            Ok(done) => {
                tracing::info!("order {}: {}", order.id, in_words(&done));
                done
            }
            Err(error) => {
                let reason = format!("{error:#}");
                tracing::warn!("order {}: {reason}", order.id);
                self.leave_nothing(order).await;
                RestoreProgress::Failed { reason }
            }
        })
    }

    /// Until nobody wants to know, or it is over.
    async fn say_how_far(
        &self,
        order: &RestoreOrder,
        mut how_far: watch::Receiver<Far>,
        is_over: &CancellationToken,
    ) {
        let (at_most, at_least) = SAY;
        loop {
            let far = how_far.borrow_and_update().in_words();
            if self.tell(order, &RestoreProgress::Working { far }).await == Told::Unwanted {
                return;
            }
            let pause = async {
                sleep(at_most).await;
                let _ = timeout(at_least.saturating_sub(at_most), how_far.changed()).await;
            };
            if is_over.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    /// Until it was heard. Answers whether somebody wanted to know.
    async fn tell_surely(&self, order: &RestoreOrder, outcome: &RestoreProgress) -> bool {
        loop {
            match self.tell(order, outcome).await {
                Told::Heard => return true,
                Told::Unwanted => return false,
                Told::Unheard => sleep(AGAIN).await,
            }
        }
    }

    async fn tell(&self, order: &RestoreOrder, progress: &RestoreProgress) -> Told {
        match self.client.restore_progress(order.id, progress).await {
            Ok(()) => Told::Heard,
            Err(ClientError::Refused(problem)) if problem.status == 404 => Told::Unwanted,
            Err(_) => Told::Unheard,
        }
    }

    async fn leave_nothing(&self, order: &RestoreOrder) {
        let place = Place::of(self.config, order.id);
        if let Err(error) = place.clear().await {
            tracing::warn!("order {}: something is left: {error:#}", order.id);
        }
        // The database may be gone by now, and the server too.
        if let Err(error) = carry::end_sessions(self.config, &order.into).await {
            tracing::debug!("order {}: {error:#}", order.id);
        }
    }
}

/// Whether somebody heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Heard,
    Unheard,
    /// Nobody wants the order any more.
    Unwanted,
}

/// What is listed now, with what is known of it from before. What is not worked on is due: who lists an
/// order whose outcome was told may have forgotten it.
fn update(
    mut before: Vec<Listed>,
    orders: Vec<RestoreOrder>,
    working: &HashMap<Uuid, CancellationToken>,
) -> Vec<Listed> {
    let with_outcome = |order: RestoreOrder| {
        let known = before.iter_mut().find(|entry| entry.order == order);
        let outcome = known.and_then(|entry| entry.outcome.take());
        Listed { is_due: !working.contains_key(&order.id), order, outcome }
    };
    orders.into_iter().map(with_outcome).collect()
}

fn in_words(outcome: &RestoreProgress) -> String {
    match outcome {
        RestoreProgress::Done { parts, .. } if parts.is_empty() => "was done before".to_owned(),
        RestoreProgress::Done { parts, .. } => {
            let parts: Vec<_> = parts.iter().map(|(part, ms)| format!("{part} {ms} ms")).collect();
            format!("done: {}", parts.join(", "))
        }
        RestoreProgress::Working { far } => far.clone(),
        RestoreProgress::Failed { reason } => reason.clone(),
    }
}

/// Ends and removes everything that orders left, but not of those that are worked on.
pub async fn clear(config: &KeeperConfig, is_worked_on: impl Fn(&Uuid) -> bool) {
    let places = Place::list(config).unwrap_or_else(|error| {
        tracing::warn!("{error:#}");
        Vec::new()
    });
    for (order, place) in places.into_iter().filter(|(order, _)| !is_worked_on(order)) {
        if let Err(error) = place.clear().await {
            tracing::warn!("order {order}: something is left: {error:#}");
        }
    }
}
