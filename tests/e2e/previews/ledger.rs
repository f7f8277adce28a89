//! Rows that are noted as they are acknowledged, in the site's own database.

use anyhow::{Result, ensure};
use sqlx::{Executor as _, PgConnection};
use time::OffsetDateTime;

pub struct Ledger {
    next: i32,
}

impl Ledger {
    pub async fn begin(site: &mut PgConnection) -> Result<Self> {
        // Of the owner, as every table of a site.
        site.execute(
            "do $$ begin
                 execute 'set local role ' || current_database() || '_owner';
                 create table ledger (n int primary key, at timestamptz not null);
             end $$",
        )
        .await?;
        Ok(Self { next: 0 })
    }

    /// Writes so many rows, a transaction each.
    pub async fn write(&mut self, site: &mut PgConnection, rows: i32) -> Result<()> {
        for n in self.next..self.next + rows {
            sqlx::query("insert into ledger values ($1, clock_timestamp())")
                .bind(n)
                .execute(&mut *site)
                .await?;
        }
        self.next += rows;
        Ok(())
    }

    /// Every row that was there at the moment, and no other.
    pub async fn judge(then: &mut PgConnection, moment: OffsetDateTime) -> Result<()> {
        let (rows, last, latest): (i64, Option<i32>, Option<OffsetDateTime>) =
            sqlx::query_as("select count(*), max(n), max(at) from ledger").fetch_one(then).await?;
        ensure!(rows == 40 && last == Some(39), "{rows} rows until {last:?}, not the first 40");
        ensure!(latest.is_some_and(|at| at <= moment), "{latest:?} is later than {moment}");
        Ok(())
    }
}
