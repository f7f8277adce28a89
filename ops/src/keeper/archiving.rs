//! How far the write-ahead log is in the object store, and up to which moment everything that was
//! committed is there.

use std::collections::VecDeque;

use anyhow::Context as _;
use provisioner_api::backups::Backup;
use sqlx::PgConnection;
use time::OffsetDateTime;
use tokio::time::{Duration, timeout};

use super::{
    config::KeeperConfig,
    pgbackrest::{archive_command, config_file},
    server,
};

/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// After how many seconds a segment that waits is worth an alarm: pgBackRest has been seen to hang.
const WAITS_TOO_LONG: i64 = 180;
/// How many marks are kept while nothing is archived. Further apart from then on.
const MARKS: usize = 4096;

/// What one look at the server saw.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Look {
    /// The transactions that were under way, and the next one. Equal ones say that none has ended
    /// between them.
    snapshot: String,
    /// The place in the log behind all that had ended by then.
    place: i64,
    segment_bytes: i64,
    archive_mode: String,
    archive_command: String,
    last_archived: Option<String>,
    last_failed: Option<String>,
    /// Whether the last try failed.
    fails: bool,
    waiting: i64,
    /// How long the first of the waiting segments has waited, in seconds.
    waits_secs: Option<i64>,
}

/// Looks at the server, over the connection of the last time if it is there. The moment is before the
/// look.
///
/// # Errors
/// When the server does not answer.
pub async fn look(
    config: &KeeperConfig,
    server: &mut Option<PgConnection>,
) -> anyhow::Result<(OffsetDateTime, Look)> {
    let look = async {
        let connection = match server {
            Some(connection) => connection,
            None => server.insert(server::connect(config, "postgres").await?),
        };
        let at = OffsetDateTime::now_utc();
        // Only system catalogs are read here, so there is no schema to check a query against. The
        // snapshot is that of the statement, the place in the log is read after it.
        let look = sqlx::query_as(
            "select pg_current_snapshot()::text as snapshot,
                 (pg_current_wal_insert_lsn() - '0/0')::bigint as place,
                 pg_size_bytes(current_setting('wal_segment_size')) as segment_bytes,
                 current_setting('archive_mode') as archive_mode,
                 current_setting('archive_command') as archive_command,
                 archiver.last_archived_wal as last_archived,
                 archiver.last_failed_wal as last_failed,
                 coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false)
                     as fails,
                 waiting.n as waiting, waiting.secs as waits_secs
             from pg_stat_archiver archiver,
                 (select count(*) as n,
                         extract(epoch from now() - min(modification))::bigint as secs
                  from pg_ls_archive_statusdir() where name like '%.ready') waiting",
        )
        .fetch_one(connection)
        .await?;
        anyhow::Ok((at, look))
    };
    timeout(PATIENCE, look).await.context("no answer")?
}

impl Look {
    /// What is wrong, each as a sentence.
    pub fn problems(&self, config: &KeeperConfig) -> Vec<String> {
        let mut problems = Vec::new();
        if self.archive_mode == "off" {
            problems.push(
                "the server archives nothing: set archive_mode to 'on' and restart it".to_owned(),
            );
        }
        let file = config_file(&config.directory);
        if !self.archive_command.contains(&*file.to_string_lossy()) {
            let wanted = archive_command("pgbackrest".as_ref(), &config.directory);
            problems.push(format!(
                "the server does not archive as it must: set archive_command to {wanted}"
            ));
        }
        let waits = self.waits_secs.unwrap_or_default();
        if self.fails && self.waiting > 0 {
            let segment = self.last_failed.as_deref().unwrap_or("?");
            problems.push(format!(
                "segment {segment} of the log cannot be archived, {} wait: the server's log says why",
                self.waiting
            ));
        } else if waits > WAITS_TOO_LONG {
            problems.push(format!(
                "no segment of the log was archived for {waits} s, {} wait: see what its pgbackrest \
                 archive-push does",
                self.waiting
            ));
        }
        problems
    }
}

/// While a snapshot did not change.
#[derive(Debug)]
struct Mark {
    snapshot: String,
    /// Behind everything that had ended at the first look.
    place: u64,
    /// The last look.
    until: OffsetDateTime,
}

/// How far the log is in the object store.
#[derive(Debug, Default)]
pub struct Archive {
    marks: VecDeque<Mark>,
    /// The last segment that was in the object store when we came.
    before: Option<String>,
    /// The end of what is in the object store.
    archived: u64,
    recoverable_until: Option<OffsetDateTime>,
    waiting: i64,
    written: Option<u64>,
}

impl Archive {
    /// The last segment in the object store, as pgBackRest tells: the server forgets at a crash.
    pub fn archived_before(&mut self, segment: Option<&str>) {
        self.before = segment.map(str::to_owned).or(self.before.take());
    }

    /// A backup holds what was committed when it began, and mostly more.
    pub fn known_since(&mut self, newest: Option<&Backup>) {
        self.recoverable_until = self.recoverable_until.max(newest.map(|backup| backup.started_at));
    }

    /// Takes a look into account that began at `at`.
    pub fn take(&mut self, at: OffsetDateTime, look: &Look) {
        let place = u64::try_from(look.place).unwrap_or_default();
        self.waiting = look.waiting;
        self.written = Some(place);
        match self.marks.back_mut() {
            Some(mark) if mark.snapshot == look.snapshot => mark.until = at,
            _ => self.marks.push_back(Mark { snapshot: look.snapshot.clone(), place, until: at }),
        }
        let segments = [&look.last_archived, &self.before];
        let ends = segments.into_iter().flatten();
        let ends = ends.filter_map(|segment| end_of(segment, look.segment_bytes));
        self.archived = ends.max().unwrap_or_default().max(self.archived);
        while self.marks.front().is_some_and(|mark| mark.place <= self.archived) {
            let Some(mark) = self.marks.pop_front() else { break };
            self.recoverable_until = self.recoverable_until.max(Some(mark.until));
            if self.marks.is_empty() {
                // The last one still lasts.
                self.marks.push_back(mark);
                break;
            }
        }
        if self.marks.len() > MARKS {
            let mut is_kept = false;
            self.marks.retain(|_| {
                is_kept = !is_kept;
                is_kept
            });
        }
    }

    /// Everything that was committed until then is in the object store.
    pub fn recoverable_until(&self) -> Option<OffsetDateTime> {
        self.recoverable_until
    }

    /// Finished segments that are not there yet.
    pub fn waiting_segments(&self) -> u32 {
        u32::try_from(self.waiting).unwrap_or_default()
    }

    /// The place in the log at the last look.
    pub fn written(&self) -> Option<u64> {
        self.written
    }
}

/// The place where a segment of the log ends, by its name: timeline, and number in two parts.
fn end_of(segment: &str, segment_bytes: i64) -> Option<u64> {
    let bytes = u64::try_from(segment_bytes).ok().filter(|bytes| *bytes > 0)?;
    // Others than segments are archived too: histories of timelines, marks of backups.
    if segment.len() != 24 || !segment.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let part = |from: usize| u64::from_str_radix(segment.get(from..from + 8)?, 16).ok();
    let number = part(8)?.checked_mul((1 << 32) / bytes)?.checked_add(part(16)?)?;
    number.checked_add(1)?.checked_mul(bytes)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const MB16: i64 = 16 * 1024 * 1024;
    const BEGIN: OffsetDateTime = datetime!(2026-11-30 12:00 UTC);

    fn take(archive: &mut Archive, secs: i64, snapshot: &str, place: i64, archived: Option<&str>) {
        let look = Look {
            snapshot: snapshot.to_owned(),
            place,
            segment_bytes: MB16,
            archive_mode: "on".to_owned(),
            archive_command: String::new(),
            last_archived: archived.map(str::to_owned),
            last_failed: None,
            fails: false,
            waiting: 0,
            waits_secs: None,
        };
        archive.take(BEGIN + time::Duration::seconds(secs), &look);
    }

    fn until(archive: &Archive) -> Option<i64> {
        archive.recoverable_until().map(|until| (until - BEGIN).whole_seconds())
    }

    #[test]
    fn segments_end_where_their_names_say() {
        assert_eq!(end_of("000000010000000000000000", MB16), Some(16 * 1024 * 1024));
        assert_eq!(end_of("0000000A00000001000000FF", MB16), Some(2 << 32));
        assert_eq!(end_of("00000001000000020000000F", 256 * 1024 * 1024), Some(3 << 32));
        for other in ["00000002.history", "000000010000000000000002.00000028.backup", "", "é"] {
            assert_eq!(end_of(other, MB16), None, "{other}");
        }
    }

    #[test]
    fn what_is_archived_is_recoverable_until_the_next_commit() {
        let mut archive = Archive::default();
        let first = "000000010000000000000000";
        take(&mut archive, 0, "10:10:", 1000, None);
        assert_eq!(until(&archive), None);
        take(&mut archive, 1, "11:11:", 2000, None);
        take(&mut archive, 2, "12:12:", MB16 + 5, None);
        take(&mut archive, 9, "12:12:", MB16 + 9, Some(first));
        assert_eq!(until(&archive), Some(1), "what came after is in the next segment");
        take(&mut archive, 10, "13:13:", MB16 + 99, Some("000000010000000000000001"));
        assert_eq!(until(&archive), Some(10));
        take(&mut archive, 300, "13:13:", 2 * MB16 + 50, Some("000000010000000000000001"));
        assert_eq!(until(&archive), Some(300), "nothing was committed meanwhile");
        take(&mut archive, 301, "14:14:", 2 * MB16 + 60, Some("000000010000000000000001"));
        take(&mut archive, 302, "14:14:", 2 * MB16 + 60, None);
        assert_eq!(until(&archive), Some(300), "a server that forgets changes nothing");
    }

    #[test]
    fn a_keeper_that_comes_later_asks_pgbackrest() {
        let mut archive = Archive::default();
        archive.archived_before(Some("000000010000000000000003"));
        take(&mut archive, 5, "10:10:", 1000, None);
        assert_eq!(until(&archive), Some(5));
    }

    #[test]
    fn marks_are_not_without_end() {
        let mut archive = Archive::default();
        for n in 0..20_000 {
            take(&mut archive, n, &n.to_string(), n * 1000, None);
        }
        assert!(archive.marks.len() <= MARKS + 1);
        take(&mut archive, 20_000, "x", 20_000_000, Some("000000010000000000000000"));
        let until = until(&archive).expect("archived");
        assert!((16_000..=16_777).contains(&until), "{until}");
    }
}
