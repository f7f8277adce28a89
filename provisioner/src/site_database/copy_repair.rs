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
        (leader, of): (&Self, &SiteDatabaseName),
    ) -> Result<Vec<String>, SiteDatabaseError> {
        let lost = self.lost_tables(name, (leader, of)).await?;
        if !lost.is_empty() {
            let tables: Vec<_> = lost.into_iter().map(|left| left.table).collect();
            leader.publish_tables(of, &tables).await?;
            self.refresh(name).await?;
        }
        let tables = self.not_followed(name).await?;
        if !tables.is_empty() {
            let mut connection = self.connect(Some(name)).await?;
            let emptied = empty(&mut connection, &tables).await;
            let _ = connection.close().await;
            emptied.map_err(|error| self.sort("empty tables whose copy was lost", error))?;
            leader.publish_tables(of, &[]).await?;
            self.refresh(name).await?;
        }
        Ok(tables)
    }

    /// Those whose slot is gone. A slot also goes when all is well, shortly before its table is done;
    /// but then there is a worker until it is.
    async fn lost_tables(
        &self,
        name: &SiteDatabaseName,
        (leader, of): (&Self, &SiteDatabaseName),
    ) -> Result<BTreeSet<Left>, SiteDatabaseError> {
        let before = self.left(name).await?;
        if before.is_empty() {
            return Ok(before);
        }
        let slots: BTreeSet<_> = leader.slots(of).await?.into_iter().collect();
        let after = self.left(name).await?;
        Ok(before
            .into_iter()
            .filter(|left| after.contains(left) && !slots.contains(&left.slot))
            .collect())
    }

    async fn left(&self, name: &SiteDatabaseName) -> Result<BTreeSet<Left>, SiteDatabaseError> {
        let mut connection = self.connect(Some(name)).await?;
        let left: Result<Vec<Left>, sqlx::Error> = sqlx::query_as(
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
        .fetch_all(&mut connection)
        .await;
        let _ = connection.close().await;
        let left = left.map_err(|error| self.sort("look at the copy of each table", error))?;
        Ok(left.into_iter().collect())
    }

    /// The tables that should follow and do not.
    async fn not_followed(
        &self,
        name: &SiteDatabaseName,
    ) -> Result<Vec<String>, SiteDatabaseError> {
        let mut connection = self.connect(Some(name)).await?;
        let tables = sqlx::query_scalar(AssertSqlSafe(format!(
            "select format('%I.%I', n.nspname, c.relname)
             from pg_class c join pg_namespace n on n.oid = c.relnamespace
             where {FOLLOWED} and exists (select from pg_subscription where subname = '{stream}'
                     and subdbid = (select oid from pg_database where datname = current_database()))
                 and not exists (select from pg_subscription_rel where srrelid = c.oid)
             order by 1",
            stream = name.stream()
        )))
        .persistent(false)
        .fetch_all(&mut connection)
        .await;
        let _ = connection.close().await;
        tables.map_err(|error| self.sort("look for tables that do not follow", error))
    }

    /// Lets the subscription have the tables of the publication, those that are new with a copy.
    async fn refresh(&self, name: &SiteDatabaseName) -> Result<(), SiteDatabaseError> {
        let sql = format!("alter subscription {} refresh publication", name.stream());
        let mut connection = self.connect(Some(name)).await?;
        let outcome = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await;
        let _ = connection.close().await;
        outcome.map(|_| ()).map_err(|error| self.sort("follow the tables of a publication", error))
    }
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
