//! A table whose copy can never end begins anew.
//!
//! A server of Postgres 15 that has copied a table drops the slot of that copy at the publisher, and only
//! then makes permanent that it is done. When its connection is lost or it dies between the two, it takes
//! the table up again, asks for a slot that is not there, and does so every few seconds for ever. Seen in
//! one of nine moves whose stream was torn while the last tables were copied.
//!
//! What was written into the table meanwhile could only be had from that slot. So the table leaves the
//! publication and the subscription, is emptied, and joins again: by Postgres' own statements, each of
//! which finds out from what is there what is left to do.

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::{SiteDatabaseError, SiteDatabaseName, SiteDatabases, replication::FOLLOWED};

/// A table that was copied but does not follow yet, without anybody who works on it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, sqlx::FromRow)]
struct Left {
    /// With its schema, quoted.
    table: String,
    /// Of its copy, at the publisher.
    slot: String,
}

impl SiteDatabases {
    /// Lets the tables of a database that follows `leader` begin anew whose copy can never end. Their
    /// names, mostly none.
    ///
    /// # Errors
    /// When one of the clusters is down or refuses, or this one's server cannot reach the leader's.
    pub async fn repair_copy(
        &self,
        name: &SiteDatabaseName,
        leader: (&Self, &SiteDatabaseName),
    ) -> Result<Vec<String>, SiteDatabaseError> {
        let mut connection = self.connect(Some(name)).await?;
        let repaired = self.repair_over(&mut connection, name, leader).await;
        let _ = connection.close().await;
        repaired
    }

    async fn repair_over(
        &self,
        connection: &mut PgConnection,
        name: &SiteDatabaseName,
        (leader, of): (&Self, &SiteDatabaseName),
    ) -> Result<Vec<String>, SiteDatabaseError> {
        let sort = |error| self.sort("mend the copy of a table", error);
        let before = left(connection).await.map_err(sort)?;
        if !before.is_empty() {
            let slots = leader.slots(of).await?;
            // A slot also goes when all is well, shortly before its table is done; but then there is a
            // worker until it is.
            let after = left(connection).await.map_err(sort)?;
            let lost = before.intersection(&after).filter(|left| !slots.contains(&left.slot));
            let lost: Vec<_> = lost.map(|left| left.table.clone()).collect();
            if !lost.is_empty() {
                leader.publish_tables(of, &lost).await?;
                refresh(connection, name).await.map_err(sort)?;
            }
        }
        let tables = not_followed(connection, name).await.map_err(sort)?;
        if !tables.is_empty() {
            empty(connection, &tables).await.map_err(sort)?;
            leader.publish_tables(of, &[]).await?;
            refresh(connection, name).await.map_err(sort)?;
        }
        Ok(tables)
    }
}

async fn left(connection: &mut PgConnection) -> Result<BTreeSet<Left>, sqlx::Error> {
    let left: Vec<Left> = sqlx::query_as(
        "select format('%I.%I', n.nspname, c.relname) as table,
                format('pg_%s_sync_%s_%s', r.srsubid, r.srrelid,
                       (select system_identifier from pg_control_system())) as slot
         from pg_subscription_rel r
         join pg_class c on c.oid = r.srrelid join pg_namespace n on n.oid = c.relnamespace
         where r.srsubstate = 'f' and not exists (
             select from pg_stat_subscription s
             where s.subid = r.srsubid and s.relid = r.srrelid and s.pid is not null)",
    )
    .persistent(false)
    .fetch_all(connection)
    .await?;
    Ok(left.into_iter().collect())
}

/// The tables that should follow and do not.
async fn not_followed(
    connection: &mut PgConnection,
    name: &SiteDatabaseName,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(AssertSqlSafe(format!(
        "select format('%I.%I', n.nspname, c.relname)
         from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where {FOLLOWED} and exists (select from pg_subscription where subname = '{stream}'
                 and subdbid = (select oid from pg_database where datname = current_database()))
             and not exists (select from pg_subscription_rel where srrelid = c.oid)
         order by 1",
        stream = name.stream()
    )))
    .persistent(false)
    .fetch_all(connection)
    .await
}

/// Lets the subscription have the tables of the publication, those that are new with a copy.
async fn refresh(
    connection: &mut PgConnection,
    name: &SiteDatabaseName,
) -> Result<(), sqlx::Error> {
    let sql = format!("alter subscription {} refresh publication", name.stream());
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop)
}

/// What refers to the tables stays: its rows come again.
async fn empty(connection: &mut PgConnection, tables: &[String]) -> Result<(), sqlx::Error> {
    let mut tx = connection.begin().await?;
    sqlx::raw_sql("set local session_replication_role = replica").execute(&mut *tx).await?;
    for table in tables {
        sqlx::raw_sql(AssertSqlSafe(format!("delete from {table}"))).execute(&mut *tx).await?;
    }
    tx.commit().await
}
