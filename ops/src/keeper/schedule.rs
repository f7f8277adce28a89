//! When a base backup is due.

use std::time::Duration;

use provisioner_api::backups::{Backup, BackupKind};
use time::OffsetDateTime;

/// A full one is made this often.
const FULL: time::Duration = time::Duration::days(7);
/// A differential one is made this often.
const DIFFERENTIAL: time::Duration = time::Duration::days(1);
/// An incremental one is made this often, if there is something to gain.
const INCREMENTAL: time::Duration = time::Duration::minutes(10);
/// How much log a restore may have to replay before an incremental backup gains more than it costs, in
/// bytes. A server replays about 185 MB a second.
const REPLAY: u64 = 256 * 1024 * 1024;
/// The first pause after a failure; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// The longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// A base backup that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// How much it holds.
    pub kind: BackupKind,
    /// Whether it is the first one: nothing can be restored before there is one.
    pub is_first: bool,
}

/// What is due at `now`, with the backups that there are (the oldest first), the place in the log where
/// the last one ended, and the place where the log is now, as far as they are known.
pub fn due(
    backups: &[Backup],
    last_stop: Option<u64>,
    written: Option<u64>,
    now: OffsetDateTime,
) -> Option<Due> {
    let is_first = backups.is_empty();
    let age = |kinds: &[BackupKind]| {
        let of_kind = backups.iter().filter(|backup| kinds.contains(&backup.kind));
        of_kind.map(|backup| now - backup.finished_at).min()
    };
    let is_older = |age: Option<time::Duration>, than| age.is_none_or(|age| age >= than);
    let replay = written.zip(last_stop).map(|(now, then)| now.saturating_sub(then));
    let kind = if is_older(age(&[BackupKind::Full]), FULL) {
        BackupKind::Full
    } else if is_older(age(&[BackupKind::Full, BackupKind::Differential]), DIFFERENTIAL) {
        BackupKind::Differential
    } else {
        let all = [BackupKind::Full, BackupKind::Differential, BackupKind::Incremental];
        let pays = replay.is_some_and(|bytes| bytes >= REPLAY);
        (pays && is_older(age(&all), INCREMENTAL)).then_some(BackupKind::Incremental)?
    };
    Some(Due { kind, is_first })
}

/// Pauses that grow with every failure.
pub struct Pause(Duration);

impl Pause {
    /// Nothing has failed yet.
    pub fn new() -> Self {
        Self(FIRST_PAUSE)
    }

    /// How long to wait after one more failure.
    pub fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-30 12:00 UTC);

    fn backup(kind: BackupKind, hours: i64) -> Backup {
        let finished_at = NOW - time::Duration::hours(hours);
        Backup {
            label: String::new(),
            kind,
            started_at: finished_at,
            finished_at,
            bytes: 0,
            stored_bytes: 0,
        }
    }

    #[test]
    fn each_kind_has_its_time() {
        use BackupKind::{Differential, Full, Incremental};
        let much = Some(10 * REPLAY);
        let cases: &[(&[Backup], Option<u64>, Option<BackupKind>)] = &[
            (&[], Some(0), Some(Full)),
            (&[backup(Full, 1)], Some(REPLAY - 1), None),
            (&[backup(Full, 1)], much, Some(Incremental)),
            (&[backup(Full, 0)], much, None),
            (&[backup(Full, 24)], Some(0), Some(Differential)),
            (
                &[backup(Full, 48), backup(Differential, 23), backup(Incremental, 2)],
                much,
                Some(Incremental),
            ),
            (
                &[backup(Full, 48), backup(Differential, 24), backup(Incremental, 0)],
                much,
                Some(Differential),
            ),
            (&[backup(Full, 168), backup(Differential, 1)], Some(0), Some(Full)),
            (&[backup(Full, 2)], None, None),
        ];
        for (backups, written, wanted) in cases {
            let due = due(backups, Some(0), *written, NOW);
            assert_eq!(due.map(|due| due.kind), *wanted, "{backups:?}");
            assert_eq!(due.is_some_and(|due| due.is_first), backups.is_empty());
        }
    }

    #[test]
    fn pauses_grow_and_end_growing() {
        let mut pause = Pause::new();
        let pauses: Vec<_> = std::iter::repeat_with(|| pause.next().as_secs()).take(10).collect();
        assert_eq!(pauses, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }
}
