//! Which of a site's databases may be written: the protocol of a move, one statement of it each.
//! `operations/move_site` says in which order; `tests/move_protocol.rs` is its model.
//!
//! ```text
//! source   primary ──fence──> fenced ──retire──> retired        unfence: fenced ─> primary
//! target   standby ──open──> primary               abort: standby, retired ─> aborted
//! ```
//!
//! Every statement is a transaction in one database and holds only for one **attempt**, whose number is
//! drawn for the site, noted before it is used and never used again. Both rows keep the highest number
//! that they were told, also when nothing is armed any more: whoever was away too long comes with a
//! lower one and changes nothing. [`SiteDatabases::abort`] and [`Switch::open`](super::Switch::open) exclude each other by
//! one compare-and-swap in the target, and only who has won the abort may un-fence the source. So at
//! every moment at most one database of a site is `primary`.
//!
//! `platform.site_authority.moving_to` is `<generation> <region> <number>` while an attempt is armed, as
//! `8 sg-singapore 12`, and `- - <number>` when the last one was given up.
//!
//! A target that holds the site as it was at some moment follows nobody: the marker that a stream would
//! have brought is put there by hand, after what must not come back (`revocations.rs`). All else is the
//! same, so the model holds for it too: its stream is one that always has arrived.
//!
//! What stops the writes is that the login role leaves the group that may write: Postgres asks at
//! each statement, so sessions that are there write no more, and read on. What began to write before
//! may still commit: hence the barrier.

use control_types::Generation;
use sqlx::{AssertSqlSafe, Connection, Row};

use super::{SiteDatabaseError, SiteDatabaseName, SiteDatabases};

/// One try to give a site from one database to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// What the target will be.
    pub generation: Generation,
    /// Where the target is: what a source that was left tells routers.
    pub region: String,
    /// Drawn for the site.
    pub number: i64,
}

impl Attempt {
    /// What both rows say while it is armed.
    pub(super) fn armed(&self) -> String {
        format!("{} {} {}", self.generation, self.region, self.number)
    }

    /// What a row says when it was given up.
    fn given_up(&self) -> String {
        format!("- - {}", self.number)
    }
}

/// The highest number that a row was told.
const SEEN: &str = "coalesce(split_part(moving_to, ' ', 3)::bigint, 0)";

/// What an authority's row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityState {
    /// `primary`, `fenced`, `standby`, `aborted` or `retired`.
    pub state: String,
    /// Of the placement.
    pub generation: Generation,
    /// The attempt's token.
    pub moving_to: Option<String>,
    /// Of a target that was opened.
    pub open_lsn: Option<String>,
}

impl SiteDatabases {
    /// What the database says of itself.
    ///
    /// # Errors
    /// When the cluster is down or refuses, or the database was made for no site.
    pub async fn authority(
        &self,
        name: &SiteDatabaseName,
    ) -> Result<AuthorityState, SiteDatabaseError> {
        let mut connection = self.connect(Some(name)).await?;
        let row = sqlx::query(
            "select state::text, generation, moving_to, open_lsn::text
             from platform.site_authority",
        )
        .persistent(false)
        .fetch_one(&mut connection)
        .await;
        let _ = connection.close().await;
        let row = row.map_err(|error| self.sort("tell whose the database is", error))?;
        Ok(AuthorityState {
            state: row.get("state"),
            generation: Generation(row.get("generation")),
            moving_to: row.get("moving_to"),
            open_lsn: row.get("open_lsn"),
        })
    }

    /// Writes the attempt into the source, which must be primary at `generation`. Whether it holds.
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn arm(
        &self,
        name: &SiteDatabaseName,
        generation: Generation,
        attempt: &Attempt,
    ) -> Result<bool, SiteDatabaseError> {
        let (token, number) = (attempt.armed(), attempt.number);
        let sql = format!(
            "update platform.site_authority set moving_to = '{token}'
             where state = 'primary' and generation = {generation}
                 and ({SEEN} < {number} or moving_to = '{token}')"
        );
        self.changes_one(name, "prepare the fence", sql).await
    }

    /// Writes the attempt into the target. Whether it holds: the target must not be the site, nor have
    /// been it at this generation.
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn stand_by(
        &self,
        name: &SiteDatabaseName,
        attempt: &Attempt,
    ) -> Result<bool, SiteDatabaseError> {
        let Attempt { generation, number, .. } = attempt;
        let token = attempt.armed();
        let sql = format!(
            "update platform.site_authority
             set state = 'standby', generation = {generation}, moving_to = '{token}', open_lsn = null
             where (state in ('standby', 'aborted') and generation <= {generation}
                    or state = 'retired' and generation < {generation})
                 and ({SEEN} < {number} or state = 'standby' and moving_to = '{token}')"
        );
        self.changes_one(name, "let the database stand by", sql).await
    }

    /// Gives the attempt up in the target, with every one before it, whether or not it came so far: an old
    /// home may not have heard yet that it was to stand by. True when that holds, so that the source may
    /// be un-fenced; false when the target is the site, or somebody has a higher number.
    ///
    /// # Errors
    /// When the cluster is down or refuses: then nothing is known.
    pub async fn abort(
        &self,
        name: &SiteDatabaseName,
        attempt: &Attempt,
    ) -> Result<bool, SiteDatabaseError> {
        let sql = format!(
            "update platform.site_authority
             set state = 'aborted', moving_to = '{given_up}',
                 generation = greatest(generation, {generation})
             where (state in ('standby', 'aborted') or state = 'retired' and generation < {generation})
                 and {SEEN} <= {number}",
            given_up = attempt.given_up(),
            generation = attempt.generation,
            number = attempt.number
        );
        self.changes_one(name, "give the attempt up", sql).await
    }

    /// Lets the source be written again, if it is not fenced by a later attempt. Only for who has won
    /// [`SiteDatabases::abort`].
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn unfence(
        &self,
        name: &SiteDatabaseName,
        generation: Generation,
        attempt: &Attempt,
    ) -> Result<(), SiteDatabaseError> {
        let sql = format!(
            "do $unfence$ begin
                 update platform.site_authority set state = 'primary', moving_to = '{}'
                 where state in ('fenced', 'primary') and generation = {generation}
                     and {SEEN} <= {};
                 if found then
                     {}
                 end if;
             end $unfence$",
            attempt.given_up(),
            attempt.number,
            let_write(name)
        );
        self.in_database(name, "let the site be written again", sql).await
    }

    /// Marks the source as what was left: its instance says where the site went.
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn retire(
        &self,
        name: &SiteDatabaseName,
        attempt: &Attempt,
    ) -> Result<(), SiteDatabaseError> {
        self.in_database(name, "mark the database as left", retire_sql(attempt)).await
    }

    /// Ends the site's sessions that are in a transaction, for those that hold a move up. How many.
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn end_transactions(
        &self,
        name: &SiteDatabaseName,
    ) -> Result<i64, SiteDatabaseError> {
        let ended = sqlx::query_scalar(
            "select count(pg_terminate_backend(pid, 500)) from pg_stat_activity
             where datname = $1 and usename = $1 and xact_start is not null",
        )
        .bind(name.as_str())
        .fetch_one(&self.0.pool)
        .await;
        match ended {
            Ok(ended) => Ok(ended),
            Err(error) => Err(self.explain("end long transactions", error).await),
        }
    }

    async fn changes_one(
        &self,
        name: &SiteDatabaseName,
        action: &'static str,
        sql: String,
    ) -> Result<bool, SiteDatabaseError> {
        let mut connection = self.connect(Some(name)).await?;
        let outcome = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await;
        let _ = connection.close().await;
        Ok(outcome.map_err(|error| self.sort(action, error))?.rows_affected() == 1)
    }

    pub(super) async fn in_database(
        &self,
        name: &SiteDatabaseName,
        action: &'static str,
        sql: String,
    ) -> Result<(), SiteDatabaseError> {
        let mut connection = self.connect(Some(name)).await?;
        let outcome = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await;
        let _ = connection.close().await;
        outcome.map(|_| ()).map_err(|error| self.sort(action, error))
    }
}

pub(super) fn retire_sql(attempt: &Attempt) -> String {
    format!(
        "update platform.site_authority set state = 'retired'
         where state = 'fenced' and moving_to = '{}'",
        attempt.armed()
    )
}

pub(super) fn no_write(name: &SiteDatabaseName) -> String {
    let (login, rw, ro) = (name.login(), name.rw(), name.ro());
    format!(
        "if pg_has_role('{login}', '{rw}', 'member') then revoke {rw} from {login}; end if;
         if not pg_has_role('{login}', '{ro}', 'member') then grant {ro} to {login}; end if;"
    )
}

pub(super) fn let_write(name: &SiteDatabaseName) -> String {
    let (login, rw, ro) = (name.login(), name.rw(), name.ro());
    format!(
        "if not pg_has_role('{login}', '{rw}', 'member') then grant {rw} to {login}; end if;
         if pg_has_role('{login}', '{ro}', 'member') then revoke {ro} from {login}; end if;"
    )
}
