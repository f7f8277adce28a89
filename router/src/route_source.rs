//! Keeps the route table like the control database: reads the feed of changes every second, sooner
//! when nudged, and everything from time to time. It only ever reads, and nothing waits for it: when
//! the database is gone the table stays as it is.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use control_types::{SiteId, seal::KeyRing};
use sqlx::{
    Connection as _, PgConnection, Postgres, Transaction,
    postgres::{PgConnectOptions, PgListener},
};
use time::OffsetDateTime;
use tokio::time::{Duration, Instant, sleep, timeout};

use crate::{
    Edge,
    route_table::{Reading, Scope, Table},
};

mod queries;

use queries::Head;
pub use queries::challenge_with_token;

/// A change is known after this at the latest, also when its notification is lost, as long as the
/// control database answers. Whoever waits for news waits for longer.
pub const NEWS_BOUND: Duration = Duration::from_secs(5);
/// How often the feed is read when nobody nudges.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Nudges that come together are one.
const NUDGE_PAUSE: Duration = Duration::from_millis(10);
/// How often everything is read.
const FULL_INTERVAL: Duration = Duration::from_secs(300);
/// The feed reaches back further than this for sure; after a longer absence everything is read.
const FEED_REACH: Duration = Duration::from_secs(30 * 60);
/// After an absence of more than this the feed's beginning is looked at.
const SHORT_ABSENCE: Duration = Duration::from_secs(60);
/// A reading that takes longer is given up, with its connection.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait after a failure, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// How often a wrong-looking reading must come before it is believed.
const STRIKES: u32 = 3;
/// How often a failure that stays is logged again.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// A listening connection that failed is tried again after this.
const LISTEN_PAUSE: Duration = Duration::from_secs(5);
const CHANNEL: &str = "route_change";

/// Where reading stands, for those who watch.
#[derive(Debug, Default)]
pub struct Freshness(Mutex<Standing>);

#[derive(Clone, Debug, Default)]
struct Standing {
    read_at: Option<OffsetDateTime>,
    problem: Option<String>,
    /// Whether the control database was asked since the start, with whatever outcome.
    asked: bool,
}

impl Freshness {
    /// The table is as it was at that moment.
    pub fn is_of(&self, moment: OffsetDateTime) {
        *self.lock() = Standing { read_at: Some(moment), problem: None, asked: true };
    }

    /// The table is of a snapshot that was taken at that moment.
    pub fn is_of_snapshot(&self, moment: OffsetDateTime) {
        self.lock().read_at = Some(moment);
    }

    /// Whether the control database was asked since the start. Before that a snapshot may lack what
    /// changed shortly before the last stop.
    pub fn was_asked(&self) -> bool {
        self.lock().asked
    }

    /// Seconds since the table was known to be right.
    pub fn age_seconds(&self) -> Option<f64> {
        let read_at = self.lock().read_at?;
        Some((OffsetDateTime::now_utc() - read_at).as_seconds_f64().max(0.0))
    }

    /// Why reading fails at the moment.
    pub fn problem(&self) -> Option<String> {
        self.lock().problem.clone()
    }

    fn fails(&self, problem: String) {
        let mut standing = self.lock();
        standing.problem = Some(problem);
        standing.asked = true;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Standing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reader of the control database.
pub struct RouteSource {
    edge: Arc<Edge>,
    region: String,
    ring: KeyRing,
    options: PgConnectOptions,
    connection: Option<PgConnection>,
    position: Option<Position>,
    strikes: u32,
}

/// How far the feed was read.
struct Position {
    /// No transaction before this one can still commit a change.
    horizon: u64,
    /// Changes at or after the horizon that were read already.
    seen: HashSet<i64>,
    /// The database's clock at the last reading.
    read_at: OffsetDateTime,
    /// When everything was last read.
    full_at: Instant,
}

/// What one reading brought.
struct Outcome {
    reading: Option<Reading>,
    position: Position,
}

impl RouteSource {
    /// A reader for `region`, whose certificates `ring` opens.
    pub fn new(edge: Arc<Edge>, region: String, ring: KeyRing, options: PgConnectOptions) -> Self {
        let options = options.application_name("ta3lem-router").options([
            ("statement_timeout", "25s"),
            ("idle_in_transaction_session_timeout", "60s"),
        ]);
        Self { edge, region, ring, options, connection: None, position: None, strikes: 0 }
    }

    /// Reads for ever.
    pub async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        let mut logged: Option<Instant> = None;
        loop {
            self.edge.metrics.polls.increment(1);
            let outcome = timeout(READ_TIMEOUT, self.poll()).await;
            let outcome = outcome.unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut));
            match outcome {
                Ok(()) => {
                    if logged.take().is_some() {
                        tracing::info!("the control database is read again");
                    }
                    pause = FIRST_PAUSE;
                    tokio::select! {
                        () = sleep(POLL_INTERVAL) => {}
                        () = self.edge.routes.nudged() => sleep(NUDGE_PAUSE).await,
                    }
                }
                Err(error) => {
                    self.connection = None;
                    self.edge.metrics.poll_errors.increment(1);
                    self.edge.freshness.fails(format!("cannot read the control database: {error}"));
                    if logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
                        logged = Some(Instant::now());
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(error, "cannot read the control database; serving on");
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    async fn poll(&mut self) -> Result<(), sqlx::Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&self.options))
                .await
                .unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut))?,
        };
        let outcome = self.read(&mut connection).await?;
        self.connection = Some(connection);
        let moment = OffsetDateTime::now_utc();
        if let Some(reading) = outcome.reading {
            self.publish(reading);
        }
        self.position = Some(outcome.position);
        self.edge.freshness.is_of(moment);
        Ok(())
    }

    /// One reading: everything that it sees is of one moment.
    async fn read(&self, connection: &mut PgConnection) -> Result<Outcome, sqlx::Error> {
        let mut at =
            connection.begin_with("begin isolation level repeatable read, read only").await?;
        let head = queries::head(&mut at).await?;
        let outcome = match &self.position {
            Some(position) if !self.must_read_all(position, &head, &mut at).await? => {
                self.read_changes(position, &head, &mut at).await?
            }
            _ => self.read_all(&head, &mut at).await?,
        };
        at.commit().await?;
        Ok(outcome)
    }

    async fn must_read_all(
        &self,
        position: &Position,
        head: &Head,
        at: &mut Transaction<'_, Postgres>,
    ) -> Result<bool, sqlx::Error> {
        if position.full_at.elapsed() >= FULL_INTERVAL || head.horizon < position.horizon {
            return Ok(true);
        }
        let away = head.now - position.read_at;
        if away > FEED_REACH {
            return Ok(true);
        }
        if away <= SHORT_ABSENCE {
            return Ok(false);
        }
        // What the feed begins with may have had something before it that is pruned by now.
        let oldest = queries::oldest_change(at).await?;
        Ok(oldest.is_none_or(|oldest| oldest > position.read_at))
    }

    async fn read_all(
        &self,
        head: &Head,
        at: &mut Transaction<'_, Postgres>,
    ) -> Result<Outcome, sqlx::Error> {
        let table = self.edge.routes.load_full();
        let (routes, same_routes) = queries::all_routes(at, &table).await?;
        let certificates = queries::all_certificates(at, &self.region, &table, &self.ring).await?;
        let challenges = queries::challenges(at, None, true).await?;
        let edges = Some(queries::edges(at).await?);
        let scope = Scope::All;
        self.edge.metrics.full_reads.increment(1);
        Ok(Outcome {
            reading: Some(Reading { scope, routes, same_routes, certificates, challenges, edges }),
            position: Position {
                horizon: head.horizon,
                seen: HashSet::new(),
                read_at: head.now,
                full_at: Instant::now(),
            },
        })
    }

    async fn read_changes(
        &self,
        before: &Position,
        head: &Head,
        at: &mut Transaction<'_, Postgres>,
    ) -> Result<Outcome, sqlx::Error> {
        let changes = queries::changes_since(at, before.horizon).await?;
        let new = || changes.iter().filter(|change| !before.seen.contains(&change.seq));
        let sites: HashSet<SiteId> = new().filter_map(|change| change.site_id).collect();
        let platform = new().any(|change| change.site_id.is_none());
        if let Some(oldest) = new().map(|change| change.at).min() {
            let lag = (head.now - oldest).as_seconds_f64();
            self.edge.metrics.feed_lag_seconds.set(lag.max(0.0));
        }
        let reading = if sites.is_empty() && !platform {
            None
        } else {
            let table = self.edge.routes.load_full();
            let sites: Vec<SiteId> = sites.into_iter().collect();
            let routes = queries::routes_of(at, &sites).await?;
            let certificates =
                queries::certificates_of(at, &self.region, &sites, platform, &table, &self.ring)
                    .await?;
            let challenges = queries::challenges(at, Some(&sites), platform).await?;
            let edges = if platform { Some(queries::edges(at).await?) } else { None };
            let scope = Scope::Sites { sites, platform };
            let same_routes = Vec::new();
            Some(Reading { scope, routes, same_routes, certificates, challenges, edges })
        };
        let position = Position {
            horizon: head.horizon,
            seen: changes.iter().map(|change| change.seq).collect(),
            read_at: head.now,
            full_at: before.full_at,
        };
        Ok(Outcome { reading, position })
    }

    fn publish(&mut self, reading: Reading) {
        let whole = reading.scope == Scope::All;
        let trusted = whole && self.strikes + 1 >= STRIKES;
        let now = self.edge.routes.load_full();
        match now.merge(reading, trusted) {
            Ok(merged) => {
                if merged.older > 0 {
                    tracing::warn!(
                        sites = merged.older,
                        "rows older than the known ones are left alone"
                    );
                }
                if whole {
                    self.strikes = if merged.older > 0 { self.strikes + 1 } else { 0 };
                }
                self.note_size(&merged.table);
                self.edge.routes.publish(merged.table);
                self.edge.note_gone();
            }
            Err(refused) => {
                self.strikes += 1;
                self.edge.metrics.refused_tables.increment(1);
                tracing::error!(
                    %refused,
                    strike = self.strikes,
                    "the control database has far fewer routes than before; the known ones stay \
                     until {STRIKES} full readings in a row say the same"
                );
            }
        }
    }

    fn note_size(&self, table: &Table) {
        #[allow(clippy::cast_precision_loss, reason = "no table is that large")]
        let number = |length: usize| length as f64;
        self.edge.metrics.routes.set(number(table.len()));
        self.edge.metrics.certificates.set(number(table.certificates().len()));
    }
}

/// Nudges the source whenever the control database notifies, for ever. Where it cannot listen, as on
/// a replica, the source still reads every second.
pub async fn listen(edge: Arc<Edge>, url: String) {
    loop {
        if let Err(error) = listen_once(&edge, &url).await {
            tracing::debug!(%error, "cannot listen for changes of routes");
        }
        sleep(LISTEN_PAUSE).await;
    }
}

async fn listen_once(edge: &Edge, url: &str) -> Result<(), sqlx::Error> {
    let connecting = timeout(CONNECT_TIMEOUT, PgListener::connect(url));
    let mut listener = connecting.await.unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut))?;
    listener.listen(CHANNEL).await?;
    edge.routes.nudge();
    // None: the connection was lost, and notifications with it.
    while listener.try_recv().await?.is_some() {
        edge.routes.nudge();
    }
    Ok(())
}
