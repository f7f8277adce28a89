//! Asks the control database for a challenge that the table does not have yet: an authority may come
//! before the news of it. Bounded, since anybody can ask for any token: few questions at a time, a
//! short time for each, and what was not found is remembered for a moment.

use std::{fmt, sync::Arc, time::Duration};

use metrics::Counter;
use moka::future::Cache;
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::timeout;

use super::Challenge;
use crate::route_source::challenge_with_token;

/// Questions at a time.
const CONNECTIONS: u32 = 2;
/// The longest that a request waits, for its turn and for the answer.
const TIMEOUT: Duration = Duration::from_secs(1);
/// A connection that was not needed for this long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an answer is remembered. An authority that came too early comes again after more.
const REMEMBERED: Duration = Duration::from_secs(2);
/// How many answers are remembered.
const ANSWERS: u64 = 10_000;

/// The answers of the control database to the last questions.
pub struct ChallengeLookup {
    database: PgPool,
    answers: Cache<Box<str>, Option<Arc<Challenge>>>,
    errors: Counter,
}

impl ChallengeLookup {
    /// Connects when it is asked first.
    pub fn new(options: PgConnectOptions) -> Self {
        let database = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(TIMEOUT)
            .idle_timeout(IDLE_TIMEOUT)
            .connect_lazy_with(options.application_name("ta3lem-router-challenges"));
        let answers = Cache::builder().max_capacity(ANSWERS).time_to_live(REMEMBERED).build();
        let errors = metrics::counter!("router_challenge_lookup_errors_total");
        Self { database, answers, errors }
    }

    /// The open challenge with this token; none also when the control database does not answer.
    pub async fn http(&self, token: &str) -> Option<Arc<Challenge>> {
        let asking = async {
            let read = timeout(TIMEOUT, challenge_with_token(&self.database, token)).await;
            read.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map(|found| found.map(Arc::new))
        };
        match self.answers.try_get_with(token.into(), asking).await {
            Ok(answer) => answer,
            // Not remembered: the next question may be luckier. Anybody can ask, so this is no line
            // in the log; the reader of routes has said that the database does not answer.
            Err(error) => {
                self.errors.increment(1);
                tracing::debug!(%error, "cannot ask the control database for a challenge");
                None
            }
        }
    }
}

impl fmt::Debug for ChallengeLookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChallengeLookup")
    }
}
