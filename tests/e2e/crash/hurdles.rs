//! What can come in the way in the middle of the switch, which is one step: each is put there before
//! the step begins, watched until the switch stands before it, and taken away.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use control_types::{
    OperationId,
    state::{OperationKind, OperationState},
};
use futures_util::future::BoxFuture;
use provisioner::{
    control_db::placements::Placement,
    engine::{Fault, Point},
};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use tokio::sync::oneshot;

use super::{
    bench::Bench,
    homes::{Homes, Servers},
    script::Scenario,
};

/// The step.
const SWITCH: &str = "switch";
/// So long something may take to come to pass.
const PATIENCE: Duration = Duration::from_secs(60);

/// One thing in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hurdle {
    /// Somebody who cannot be ended holds a table of the source: the try is given up, and the next
    /// one fails.
    GivenUp,
    /// The same, and another worker takes the operation while the source is fenced and the first one
    /// still waits behind the barrier.
    TakenFromTheFence,
    /// The marker does not arrive, and another worker takes the operation while the first one still
    /// waits to open.
    TakenFromTheOpening,
    /// After the target was opened the control database ends the connection before anybody is sent
    /// there, and the source's server does before it has heard that it was left.
    CutAfterTheOpening,
}

/// A session that keeps something.
struct Kept(PgConnection);

impl Hurdle {
    pub const ALL: [Self; 4] = [
        Self::GivenUp,
        Self::TakenFromTheFence,
        Self::TakenFromTheOpening,
        Self::CutAfterTheOpening,
    ];

    /// How an operation of the kind ends.
    pub fn scenario(self, kind: OperationKind) -> Scenario {
        let at = |fault| (SWITCH.to_owned(), Point::BeforeForward, fault);
        let (rules, ends) = match self {
            Self::GivenUp => (vec![at(Fault::None), at(Fault::Fail)], OperationState::Failed),
            _ => (Vec::new(), OperationState::Succeeded),
        };
        Scenario { name: format!("{kind}/switch/{self:?}"), rules, ends }
    }

    /// Puts it into the operation's way. What is given back watches and takes it away again.
    pub fn put<'a>(
        self,
        bench: &'a Bench,
        servers: &'a Servers,
        id: OperationId,
        before: &Homes,
    ) -> Result<BoxFuture<'a, Result<()>>> {
        let source = before.current.clone().context("the site is nowhere")?;
        let pool = bench.world.db.pool.clone();
        let (stands, stood) = oneshot::channel();
        let (known, old) = (servers.clone(), before.following.clone());
        let (at_source, keeping) = (source.clone(), pool.clone());
        let hurdle = move || -> BoxFuture<'static, ()> {
            Box::pin(async move {
                let kept = async {
                    let target = match old {
                        Some(old) => old,
                        None => place(&keeping, id.0).await?,
                    };
                    let kept = self.keep(&known, &at_source, &target).await?;
                    anyhow::Ok((kept, target))
                };
                let _ = stands.send(kept.await);
            })
        };
        bench.script.put(id, SWITCH, Box::new(hurdle));
        Ok(Box::pin(async move {
            let stood = tokio::time::timeout(PATIENCE, stood).await;
            let (kept, target) = stood.context("the switch never began")???;
            self.watch(bench, servers, id, &source, &target, kept).await
        }))
    }

    async fn keep(self, servers: &Servers, source: &Placement, target: &Placement) -> Result<Kept> {
        let (mut session, lock) = match self {
            Self::GivenUp | Self::TakenFromTheFence => {
                let session = servers.connect(&source.region, &source.database_name).await?;
                (session, "lock table account in row share mode".to_owned())
            }
            Self::TakenFromTheOpening | Self::CutAfterTheOpening => {
                let session = servers.connect(&target.region, &target.database_name).await?;
                (session, "lock table platform.move_marker in exclusive mode".to_owned())
            }
        };
        sqlx::raw_sql("begin").execute(&mut session).await?;
        sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut session).await?;
        Ok(Kept(session))
    }

    async fn watch(
        self,
        bench: &Bench,
        servers: &Servers,
        id: OperationId,
        source: &Placement,
        target: &Placement,
        kept: Kept,
    ) -> Result<()> {
        let pool = &bench.world.db.pool;
        match self {
            Self::GivenUp => {
                waits_for_another_try(pool, id).await?;
                kept.let_go().await?;
                hurry(pool, id).await
            }
            Self::TakenFromTheFence => {
                until_state(servers, source, "fenced").await?;
                taken_over(pool, id).await?;
                kept.let_go().await
            }
            Self::TakenFromTheOpening => {
                until_barrier(servers, source).await?;
                taken_over(pool, id).await?;
                kept.let_go().await
            }
            Self::CutAfterTheOpening => {
                until_barrier(servers, source).await?;
                let mut left = servers.connect(&source.region, &source.database_name).await?;
                let authority = "begin; select from platform.site_authority for update";
                sqlx::raw_sql(authority).execute(&mut left).await?;
                let mut sent = pool.acquire().await?.detach();
                let row = "begin; select from placement where id = '{}' for no key update";
                let row = AssertSqlSafe(row.replace("{}", &source.id.to_string()));
                sqlx::raw_sql(row).execute(&mut sent).await?;
                kept.let_go().await?;
                let mut control = pool.acquire().await?.detach();
                cut_off(&mut control, "update placement set state = 'following'").await?;
                let mut there = servers.connect(&source.region, &source.database_name).await?;
                cut_off(&mut there, "update platform.site_authority set state = 'retired'").await?;
                for session in [sent, left, control, there] {
                    Kept(session).let_go().await?;
                }
                until_state(servers, target, "primary").await
            }
        }
    }
}

/// Waits until the marker of the try that fences the source is there: then nothing of the try is under
/// way at the source any more.
async fn until_barrier(servers: &Servers, source: &Placement) -> Result<()> {
    let mut database = servers.connect(&source.region, &source.database_name).await?;
    until(
        &mut database,
        "select exists (select from platform.site_authority
             join platform.move_marker
                 on move_marker.generation = split_part(moving_to, ' ', 3)::bigint
             where state = 'fenced')",
    )
    .await?;
    Ok(database.close().await?)
}

/// Ends the session of the database that waits with a statement which begins like this.
async fn cut_off(admin: &mut PgConnection, statement: &str) -> Result<()> {
    let sql = format!(
        "select coalesce(bool_or(pg_terminate_backend(pid)), false) from pg_stat_activity
         where datname = current_database() and wait_event_type = 'Lock'
             and starts_with(query, '{}')",
        statement.replace('\'', "''")
    );
    until(admin, &sql).await
}

impl Kept {
    async fn let_go(self) -> Result<()> {
        Ok(self.0.close().await?)
    }
}

async fn place(control: &PgPool, id: uuid::Uuid) -> Result<Placement> {
    let mut connection = control.acquire().await?;
    let place = provisioner::control_db::placements::get(&mut connection, id).await?;
    place.context("the place was not made")
}

async fn until_state(servers: &Servers, place: &Placement, state: &str) -> Result<()> {
    let mut database = servers.connect(&place.region, &place.database_name).await?;
    let sql =
        format!("select exists (select from platform.site_authority where state = '{state}')");
    until(&mut database, &sql).await?;
    Ok(database.close().await?)
}

/// Waits until a query says that it is so: what goes on in a database tells nobody.
async fn until(connection: &mut PgConnection, sql: &str) -> Result<()> {
    let asked = async {
        loop {
            let query = sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).persistent(false);
            if query.fetch_one(&mut *connection).await? {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(asked) => asked,
        Err(_) => bail!("it is never so: {sql}"),
    }
}

/// Another worker drives the operation, and the first one has not been told.
async fn taken_over(pool: &PgPool, id: OperationId) -> Result<()> {
    let token: i64 = sqlx::query_scalar("select claim_token from operation where id = $1")
        .bind(id.0)
        .fetch_one(pool)
        .await?;
    let mut connection = pool.acquire().await?;
    // The first one may prolong its claim meanwhile.
    let sql = format!(
        "with expired as (
             update operation set claim_expires_at = now() - interval '1 second'
             where id = '{id}' and claim_token = {token})
         select claim_token > {token} from operation where id = '{id}'"
    );
    until(&mut connection, &sql).await
}

async fn waits_for_another_try(pool: &PgPool, id: OperationId) -> Result<()> {
    let mut connection = pool.acquire().await?;
    let sql = format!(
        "select exists (select from operation_event where operation_id = '{id}'
             and step = '{SWITCH}' and event = 'waiting')"
    );
    until(&mut connection, &sql).await
}

/// Nobody wants to wait for the next try.
async fn hurry(pool: &PgPool, id: OperationId) -> Result<()> {
    sqlx::query("update operation set wake_at = now() where id = $1")
        .bind(id.0)
        .execute(pool)
        .await?;
    Ok(())
}
