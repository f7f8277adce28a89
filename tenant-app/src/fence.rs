//! Keeps an instance to its own site and generation: requests routed elsewhere by mistake are
//! refused before anything of them is read, and a database that is not this site's is never used.
//!
//! The fence of a move is in the database itself: it takes the right to write away. Here that only
//! becomes an answer that the router understands (see `rejection`).

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::HeaderMap,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use control_types::{Generation, InstanceConfig, SiteId, headers as names};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::sync::OnceCell;

use crate::{rejection::Rejection, site::Site};

/// How long a request waits for a connection before it is told to come back.
const ACQUIRE: Duration = Duration::from_secs(5);
/// After this long without use a connection is closed: an idle site holds none.
const IDLE: Duration = Duration::from_secs(30);

/// The way to the site's database.
pub struct Fence {
    site: SiteId,
    generation: Generation,
    pool: PgPool,
    checked: OnceCell<()>,
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
        Self { site: config.site_id, generation: config.generation, pool, checked: OnceCell::new() }
    }

    /// The database, after a check (once) that it is this site's and of this generation.
    ///
    /// # Errors
    /// When it does not answer or is not the one.
    pub async fn database(&self) -> Result<&PgPool, Rejection> {
        self.checked.get_or_try_init(|| self.check()).await?;
        Ok(&self.pool)
    }

    async fn check(&self) -> Result<(), Rejection> {
        let authority = sqlx::query!(
            r#"select site_id, generation, state::text as "state!" from platform.site_authority"#
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(authority) = authority else {
            return Err(Rejection::Internal(anyhow::anyhow!(
                "the database has no platform.site_authority row: it was made for no site"
            )));
        };
        if authority.site_id != self.site.0 {
            return Err(Rejection::Internal(anyhow::anyhow!(
                "the database is site {}'s, not site {}'s",
                authority.site_id,
                self.site
            )));
        }
        if authority.generation > self.generation.0 {
            return Err(Rejection::OtherGeneration(Generation(authority.generation)));
        }
        if authority.generation < self.generation.0
            || !matches!(authority.state.as_str(), "primary" | "fenced")
        {
            return Err(Rejection::Unavailable(anyhow::anyhow!(
                "the database is {} at generation {}, wanted primary at {}",
                authority.state,
                authority.generation,
                self.generation
            )));
        }
        Ok(())
    }
}

/// Refuses what was not routed to this site and generation.
pub async fn admit(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    match refusal(&site, request.headers()) {
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
