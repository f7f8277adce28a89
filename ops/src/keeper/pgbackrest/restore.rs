//! Files of a backup, brought elsewhere: those of one database, as it was before a moment. A server that
//! is started on them goes on to the moment by the log.

use std::path::Path;

use provisioner_api::backups::Backup;
use time::{OffsetDateTime, UtcOffset, macros::format_description};

use super::{Pgbackrest, STANZA, config_file, info, quoted};

/// How much of the log is fetched ahead.
const QUEUE: &str = "256MB";
/// Databases that every backup brings back: pgBackRest takes no wish about them.
const SYSTEM: &[&str] = &["postgres", "template0", "template1"];

/// What is to be brought, and where.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The database; others become files without content.
    pub database: &'a str,
    /// As it was then, once the log was replayed.
    pub moment: OffsetDateTime,
    /// Becomes the data directory. Not there yet, or empty.
    pub data: &'a Path,
    /// For pgBackRest's locks: backups go on meanwhile.
    pub locks: &'a Path,
    /// Where tablespaces go, which would lie where those of the cluster are.
    pub tablespaces: &'a Path,
}

/// No backup reaches back to the moment. That does not pass.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoBackup(String);

impl Pgbackrest {
    /// Brings the files, and writes down how the log is replayed up to the moment.
    ///
    /// # Errors
    /// [`NoBackup`] when none was complete before the moment; what pgBackRest says.
    pub async fn restore(&self, wanted: &Wanted<'_>) -> anyhow::Result<()> {
        // Chosen here: where it finds no backup, pgBackRest takes the newest one.
        let known = self.info().await?;
        let backup = newest_before(&known.backups, wanted.moment)?;
        let set = format!("--set={}", backup.label);
        let told = self.run(&[&set, "--output=json", "info"]).await?;
        let mut arguments = vec![
            set,
            format!("--pg1-path={}", wanted.data.display()),
            format!("--lock-path={}", wanted.locks.display()),
            format!("--tablespace-map-all={}", wanted.tablespaces.display()),
            "--type=time".to_owned(),
            format!("--target={}", target(wanted.moment)?),
            "--target-action=promote".to_owned(),
            "--archive-mode=off".to_owned(),
        ];
        arguments.extend(choice(&info::databases(&told)?, wanted.database));
        arguments.push("restore".to_owned());
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.run(&arguments).await.map(drop)
    }
}

impl Pgbackrest {
    /// How the server that is started on the files gets the log (its `restore_command`): some segments
    /// ahead of the one that it asks for, over connections that stay. One by one each would cost three
    /// questions to the object store over a new connection.
    pub fn fetch_command(&self, data: &Path, locks: &Path, ahead: &Path) -> String {
        format!(
            "{program} --config={config} --stanza={STANZA} --pg1-path={data} --lock-path={locks} \
             --spool-path={ahead} --archive-async --archive-get-queue-max={QUEUE} --process-max=2 \
             archive-get %f \"%p\"",
            program = quoted(&self.program),
            config = quoted(&config_file(&self.directory)),
            data = quoted(data),
            locks = quoted(locks),
            ahead = quoted(ahead),
        )
    }
}

/// The newest backup that the moment is behind.
fn newest_before(backups: &[Backup], moment: OffsetDateTime) -> Result<&Backup, NoBackup> {
    let ends_before = |backup: &&Backup| backup.finished_at <= moment;
    let found = backups.iter().filter(ends_before).max_by_key(|backup| backup.finished_at);
    let why = || match backups.iter().map(|backup| backup.finished_at).min() {
        Some(first) => {
            format!(
                "there is no backup from before {moment}: the first one was complete at {first}"
            )
        }
        None => "there are no backups".to_owned(),
    };
    found.ok_or_else(|| NoBackup(why()))
}

/// Which databases get their content. One that was made after the backup is not in it: then all others
/// are left out, since pgBackRest refuses to include what it does not know.
fn choice(databases: &[String], wanted: &str) -> Vec<String> {
    if databases.iter().any(|database| database == wanted) {
        return vec![format!("--db-include={wanted}")];
    }
    let others = databases.iter().filter(|name| !SYSTEM.contains(&name.as_str()));
    others.map(|name| format!("--db-exclude={name}")).collect()
}

/// A moment as pgBackRest and Postgres read it. Postgres' clock knows no less than microseconds.
fn target(moment: OffsetDateTime) -> anyhow::Result<String> {
    let format = format_description!(
        "[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:6]+00"
    );
    Ok(moment.to_offset(UtcOffset::UTC).format(format)?)
}

#[cfg(test)]
mod tests {
    use provisioner_api::backups::BackupKind;
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_moment_is_told_in_utc_and_not_rounded_up() {
        let moment = datetime!(2026-11-30 17:42:05.123456789 +7);
        assert_eq!(target(moment).expect("a text"), "2026-11-30 10:42:05.123456+00");
        let whole = datetime!(2026-01-02 03:04:05 UTC);
        assert_eq!(target(whole).expect("a text"), "2026-01-02 03:04:05.000000+00");
    }

    #[test]
    fn the_backup_is_the_newest_that_was_complete_before() {
        let backup = |label: &str, finished_at| Backup {
            label: label.to_owned(),
            kind: BackupKind::Full,
            started_at: finished_at,
            finished_at,
            bytes: 0,
            stored_bytes: 0,
        };
        let backups = [
            backup("a", datetime!(2026-11-30 10:00:00 UTC)),
            backup("b", datetime!(2026-11-30 11:00:00 UTC)),
        ];
        let label = |moment| newest_before(&backups, moment).map(|backup| backup.label.clone());
        assert_eq!(label(datetime!(2026-11-30 12:00 UTC)).expect("one"), "b");
        assert_eq!(label(datetime!(2026-11-30 10:59:59.9 UTC)).expect("one"), "a");
        assert_eq!(label(datetime!(2026-11-30 11:00:00 UTC)).expect("one"), "b");
        let error = label(datetime!(2026-11-30 09:59:59 UTC)).expect_err("too early").to_string();
        assert!(error.contains("complete at 2026-11-30 10:00:00"), "{error}");
        assert!(newest_before(&[], datetime!(2026-11-30 12:00 UTC)).is_err());
    }

    #[test]
    fn a_database_that_is_younger_than_the_backup_comes_by_the_log() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let databases = names(&["a", "b", "postgres", "template1"]);
        assert_eq!(choice(&databases, "b"), ["--db-include=b"]);
        assert_eq!(choice(&databases, "c"), ["--db-exclude=a", "--db-exclude=b"]);
        assert!(choice(&names(&["postgres"]), "c").is_empty());
    }
}
