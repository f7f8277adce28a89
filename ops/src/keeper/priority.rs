//! Work in the server that nobody waits for gives way to what somebody waits for: the copy of a site
//! that moves, and its comparison, which last for minutes beside other sites' requests. Postgres has no
//! priorities, the system under it has. Who has the machine for himself is not slowed down.

use provisioner_api::backups::BACKGROUND;
use rustix::{
    io::Errno,
    process::{Pid, setpriority_process},
};
use sqlx::PgConnection;

/// How far behind the others, as `nice` counts. Not at the very end: a process that waits for a
/// processor may hold a lock in the server's memory that a request needs.
pub const NICE: i32 = 10;

/// Puts all of it behind the others. A server's process never gets its old place back, and needs none:
/// it ends with the work.
///
/// # Errors
/// When the server does not answer, or its processes are not ours.
pub async fn put_back(server: &mut PgConnection) -> anyhow::Result<()> {
    // Only system catalogs are read here, so there is no schema to check a query against. The workers
    // that copy single tables of a subscription are those with a table; they and only they are called
    // `pg_<subscription>_sync_<table>_<system>` at the publisher.
    let processes: Vec<i32> = sqlx::query_scalar(
        "select pid from pg_stat_activity
         where application_name = $1
             or backend_type = 'walsender' and application_name ~ '^pg_[0-9]+_sync_[0-9]+_'
         union
         select pid from pg_stat_subscription where relid is not null and pid is not null",
    )
    .bind(BACKGROUND)
    .fetch_all(server)
    .await?;
    for pid in processes.into_iter().filter_map(Pid::from_raw) {
        match setpriority_process(Some(pid), NICE) {
            // It has ended, or is behind by more already.
            Ok(()) | Err(Errno::SRCH | Errno::ACCESS) => {}
            Err(error) => anyhow::bail!(
                "the server's processes cannot be put behind others: {error}: run the keeper as the \
                 server's user"
            ),
        }
    }
    Ok(())
}
