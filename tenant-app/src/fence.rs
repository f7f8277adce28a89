//! Keeps an instance to its own site and generation: requests routed elsewhere by mistake are
//! refused before anything of them is read, a database that is not this site's is never used, and
//! nothing is answered any more when the site has gone elsewhere.
//!
//! The fence of a move is in the database itself: it takes the right to write away. Here that only
//! becomes an answer that the router understands (see `rejection`). That the site has gone is read
//! from `platform.site_authority` too (see `authority`): at the first use, after every write that the
//! database refused, and once a second while requests come. So whoever still asks here, because its
//! router has not heard of the move, may read pages that are about a second old, and cannot write.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    extract::{Request, State},
    http::HeaderMap,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use control_types::{Generation, InstanceConfig, SiteId, headers as names};
use futures_util::future::join_all;
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::{sync::Mutex, time::timeout};

use crate::{
    authority::{self, Standing},
    rejection::Rejection,
    site::Site,
};

/// How long a request waits for a connection before it is told to come back.
const ACQUIRE: Duration = Duration::from_secs(5);
/// Connections that a process opens when it is asked to be ready.
const READY: u32 = 4;
/// After this long without use a connection is closed: an idle site holds none.
const IDLE: Duration = Duration::from_secs(30);
/// How old the database's word may be for a request that it did not refuse.
const FRESH: Duration = Duration::from_secs(1);
/// How old it may be for a write that it refused: many at once are one question.
const FRESH_AFTER_REFUSAL: Duration = Duration::from_millis(100);
/// How long a request waits for the database's word. Without it the request goes on: what needs the
/// database finds out for itself, and the rest is answered as before.
const PATIENCE: Duration = Duration::from_millis(500);

/// The way to the site's database.
pub struct Fence {
    site: SiteId,
    generation: Generation,
    pool: PgPool,
    begun: Instant,
    // When the database last said that it is the site's home, in milliseconds since `begun`, from 1;
    // 0 when it never did, or says otherwise now. To be read without the lock.
    home_at: AtomicU64,
    // The lock is held while the database is asked, so that many requests are one question.
    last: Mutex<Option<Heard>>,
}

/// What the database said.
struct Heard {
    standing: Standing,
    /// When it was asked.
    at: Instant,
}

impl Fence {
    /// Connects to nothing yet.
    pub fn new(config: &InstanceConfig) -> Self {
        let database = &config.database;
        let options = PgConnectOptions::new_without_pgpass()
            .host(&database.host)
            .port(database.port)
            .database(&database.database)
            .username(&database.user)
            .password(&database.password)
            .application_name("tenant-app")
            .options([
                ("statement_timeout", "20s"),
                ("idle_in_transaction_session_timeout", "20s"),
            ]);
        let pool = PgPoolOptions::new()
            .min_connections(0)
            .max_connections(config.max_database_connections)
            .idle_timeout(IDLE)
            .acquire_timeout(ACQUIRE)
            .connect_lazy_with(options);
        Self {
            site: config.site_id,
            generation: config.generation,
            pool,
            begun: Instant::now(),
            home_at: AtomicU64::new(0),
            last: Mutex::default(),
        }
    }

    /// The database, after a check that it is this site's and of this generation. How long ago that
    /// was does not matter here: [`admit`] let the request in, which may hold a connection already.
    ///
    /// # Errors
    /// When it does not answer or is not the one.
    pub async fn database(&self) -> Result<&PgPool, Rejection> {
        if self.home_at.load(Ordering::Relaxed) == 0 {
            self.standing(Duration::ZERO, ACQUIRE).await.into_result()?;
        }
        Ok(&self.pool)
    }

    /// Opens some connections at once, so that those who come first do not wait for them.
    pub async fn make_ready(&self) {
        let most = self.pool.options().get_max_connections().min(READY);
        let opening = join_all((0..most).map(|_| self.pool.acquire()));
        // Whether the database answers is told by whoever asks it.
        let _ = timeout(PATIENCE, opening).await;
    }

    /// What whoever wrote and was refused by the database is told, if it is more than that.
    pub async fn after_refusal(&self) -> Option<Rejection> {
        self.standing(FRESH_AFTER_REFUSAL, PATIENCE).await.into_gone()
    }

    /// What everybody is told when the site is not at home here any more. Mostly an atomic look.
    async fn gone(&self) -> Option<Rejection> {
        let heard_at = self.home_at.load(Ordering::Relaxed);
        let now = self.millis(Instant::now());
        if heard_at > 0 && u128::from(now.saturating_sub(heard_at)) < FRESH.as_millis() {
            return None;
        }
        self.standing(FRESH, PATIENCE).await.into_gone()
    }

    /// The database's word; it is asked when the last one is older than `fresh`.
    async fn standing(&self, fresh: Duration, patience: Duration) -> Standing {
        let called = Instant::now();
        let late = |_| Standing::Unreachable("the database was asked and is silent".to_owned());
        let mut last = match timeout(patience, self.last.lock()).await {
            Ok(last) => last,
            Err(error) => return late(error),
        };
        if let Some(heard) = &*last
            && (heard.at >= called || heard.at.elapsed() < fresh)
        {
            return heard.standing.clone();
        }
        let mut at = Instant::now();
        let reading = authority::read(&self.pool, self.site, self.generation);
        let mut standing = timeout(patience, reading).await.unwrap_or_else(late);
        let known = last.take().map(|heard| heard.standing);
        match (&standing, known) {
            (Standing::Home, _) => self.home_at.store(self.millis(at), Ordering::Relaxed),
            // A silent database is asked again a while after it was silent, and not at once.
            (Standing::Unreachable(_), known) => {
                at = Instant::now();
                // What was closed because the site had gone does not say so any more.
                if let Some(gone @ Standing::Gone(_)) = known {
                    standing = gone;
                }
            }
            (Standing::Gone(place), known) => {
                self.home_at.store(0, Ordering::Relaxed);
                if known != Some(Standing::Gone(place.clone())) {
                    tracing::info!(site.id = %self.site, generation = %self.generation, ?place,
                        "the site has gone from here, its database says");
                }
            }
            _ => self.home_at.store(0, Ordering::Relaxed),
        }
        *last = Some(Heard { standing: standing.clone(), at });
        standing
    }

    /// When that was, as [`Fence::home_at`] has it.
    fn millis(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.begun).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX).saturating_add(1)
    }
}

/// Refuses what was not routed to this site and generation, and everything when the site has gone.
pub async fn admit(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let refusal = match refusal(&site, request.headers()) {
        Some(rejection) => Some(rejection),
        None => site.fence.gone().await,
    };
    match refusal {
        Some(rejection) => rejection.into_response(),
        None => next.run(request).await,
    }
}

fn refusal(site: &Site, headers: &HeaderMap) -> Option<Rejection> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if text(names::SITE).and_then(|id| id.parse().ok()) != Some(site.id) {
        return Some(Rejection::OtherSite);
    }
    let generation = text(names::GENERATION).and_then(|number| number.parse().ok());
    (generation != Some(site.generation.0)).then_some(Rejection::OtherGeneration(site.generation))
}
