//! What the reports of keepers mean: whether the backups of a cluster are as they should be, and which
//! moments a site can be put back to. Decided here without looking anywhere.

use std::time::Duration;

use provisioner_api::backups::{ClusterBackups, RestoreWindow};
use time::OffsetDateTime;

use crate::{
    control_db::{
        cluster_backups::{Known, Reach},
        placement_terms::Term,
    },
    durations::{roughly, second},
};

/// How long a keeper may be silent. It reports every five seconds.
const SILENCE: Duration = Duration::from_secs(60);
/// How old a write may be that is not in the object store: a segment of the log is closed after at most
/// 30 s and then takes its way. What is promised is 60 s.
const AT_RISK: Duration = Duration::from_secs(60);
/// How old the newest base backup may be: there is one every day.
const NEWEST_BACKUP: Duration = Duration::from_secs(26 * 3600);
/// How many days of backups a cluster without sites keeps.
const FEWEST_DAYS: u32 = 7;
const SECS_PER_DAY: u32 = 86_400;

/// How many days back every moment must stay restorable, when the longest window of the cluster's sites
/// is `longest` seconds.
pub fn retention_days(longest: Option<i32>) -> u32 {
    let longest = longest.and_then(|secs| u32::try_from(secs).ok()).unwrap_or_default();
    longest.div_ceil(SECS_PER_DAY).max(FEWEST_DAYS)
}

/// How the backups of a cluster are at `now`.
pub fn shown(known: Known, now: OffsetDateTime) -> ClusterBackups {
    ClusterBackups {
        at_risk_secs: at_risk(&known, now).map(|risk| risk.as_secs()),
        problem: problem(&known, now),
        cluster: known.cluster,
        region: known.region,
        object_store: known.object_store,
        reported_at: known.report.as_ref().map(|(at, _)| *at),
        report: known.report.map(|(_, report)| report),
    }
}

/// The age of the oldest write that may not be in the object store. The keeper's clock is only compared
/// with itself.
fn at_risk(known: &Known, now: OffsetDateTime) -> Option<Duration> {
    let (reported_at, report) = known.report.as_ref()?;
    let behind = since(report.recoverable_until?, report.at);
    Some(behind + since(*reported_at, now))
}

/// What is wrong, in words.
fn problem(known: &Known, now: OffsetDateTime) -> Option<String> {
    if known.object_store.is_none() {
        return Some("nobody makes backups of it: run a keeper beside it".to_owned());
    }
    let Some((reported_at, report)) = &known.report else {
        let error = known.last_error.as_deref();
        return Some(error.unwrap_or("its keeper has not reported yet").to_owned());
    };
    let mut problems = Vec::new();
    let silent = since(*reported_at, now);
    if silent > SILENCE {
        problems.push(format!("its keeper has said nothing for {}", roughly(silent)));
    }
    problems.extend(report.problems.iter().cloned());
    let newest = report.backups.iter().map(|backup| backup.finished_at).max();
    match newest.map(|newest| since(newest, now)) {
        None => problems.push("there is no base backup yet".to_owned()),
        Some(age) if age > NEWEST_BACKUP => {
            problems.push(format!("its newest base backup is {} old", roughly(age)));
        }
        Some(_) => {}
    }
    if let Some(risk) = at_risk(known, now).filter(|risk| *risk > AT_RISK) {
        problems.push(format!("what was written in the last {} is in no backup", roughly(risk)));
    }
    if let Some(first) = known.unproved.first() {
        let all = known.unproved.len();
        problems.push(format!("no proof that sites can be put back: {all}, among them {first}"));
    }
    (!problems.is_empty()).then(|| problems.join("; "))
}

/// Which moments a site can be put back to, whose cluster's backups are `known`. None before there is a
/// base backup.
pub fn restore_window(known: &Known, reach: &Reach, now: OffsetDateTime) -> Option<RestoreWindow> {
    let (_, report) = known.report.as_ref()?;
    let oldest = report.backups.iter().map(|backup| backup.finished_at).min()?;
    let planned = now - time::Duration::seconds(reach.window_secs.into());
    let until = report.recoverable_until?;
    let from = oldest.max(reach.since).max(planned);
    let at_risk_secs = at_risk(known, now)?.as_secs();
    (from <= until).then_some(RestoreWindow { from, until, at_risk_secs, proof: None })
}

/// Why a moment of a site cannot be brought back, in words; `known` are the backups of the cluster where
/// the site was then.
pub fn out_of_reach(
    known: &Known,
    term: &Term,
    moment: OffsetDateTime,
    now: OffsetDateTime,
) -> Option<String> {
    if moment > now {
        return Some("that moment is yet to come".to_owned());
    }
    let planned = Duration::from_secs(term.window_secs.try_into().unwrap_or_default());
    if since(moment, now) > planned {
        return Some(format!("the site's plan reaches back {}", roughly(planned)));
    }
    if term.is_retired {
        let (cluster, region) = (&term.cluster_name, &term.region);
        return Some(format!(
            "the site was on cluster {cluster} in {region} then, and what it had there was removed"
        ));
    }
    let Some((reported_at, report)) = &known.report else { return problem(known, now) };
    let silent = since(*reported_at, now);
    if silent > SILENCE {
        return Some(format!(
            "the keeper of cluster {}, which brings sites back, has said nothing for {}",
            known.cluster,
            roughly(silent)
        ));
    }
    match report.backups.iter().map(|backup| backup.finished_at).min() {
        None => Some(format!("there is no base backup of cluster {} yet", known.cluster)),
        Some(oldest) if moment < oldest => Some(format!(
            "the first moment in the backups of cluster {} is {}",
            known.cluster,
            second(oldest)
        )),
        Some(_) => None,
    }
}

/// Zero when `earlier` is later.
fn since(earlier: OffsetDateTime, later: OffsetDateTime) -> Duration {
    Duration::try_from(later - earlier).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use provisioner_api::backups::{Backup, BackupKind, KeeperReport};
    use time::macros::datetime;
    use uuid::Uuid;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-30 12:00 UTC);

    fn secs(secs: i64) -> time::Duration {
        time::Duration::seconds(secs)
    }

    fn backup(finished_at: OffsetDateTime) -> Backup {
        Backup {
            label: "20261130-100000F".to_owned(),
            kind: BackupKind::Full,
            started_at: finished_at - secs(5),
            finished_at,
            bytes: 1,
            stored_bytes: 1,
        }
    }

    fn known() -> Known {
        let report = KeeperReport {
            at: NOW,
            backups: vec![backup(NOW - secs(7200))],
            recoverable_until: Some(NOW - secs(20)),
            waiting_segments: 0,
            doing: None,
            problems: vec![],
        };
        Known {
            cluster: "jakarta-1".to_owned(),
            region: "id-jakarta".to_owned(),
            object_store: Some("jakarta-files".to_owned()),
            last_error: None,
            report: Some((NOW, report)),
            unproved: vec![],
        }
    }

    fn with(change: impl FnOnce(&mut OffsetDateTime, &mut KeeperReport)) -> Option<String> {
        let mut known = known();
        let (at, report) = known.report.as_mut().expect("a report");
        change(at, report);
        problem(&known, NOW)
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(problem(&known(), NOW), None);
        let nobody = Known { object_store: None, report: None, ..known() };
        assert!(problem(&nobody, NOW).expect("wrong").contains("run a keeper"));
        let silent = Known { report: None, ..known() };
        assert!(problem(&silent, NOW).expect("wrong").contains("not reported yet"));
        let unprepared = Known { last_error: Some("down".to_owned()), ..silent };
        assert_eq!(problem(&unprepared, NOW).as_deref(), Some("down"));
        let unproved =
            Known { unproved: vec!["acme: why".to_owned(), "b".to_owned()], ..self::known() };
        let said = problem(&unproved, NOW).expect("wrong");
        assert!(said.contains("put back: 2, among them acme: why"), "{said}");
        let wrong = [
            ("nothing for 10 min", with(|at, _| *at -= secs(600))),
            ("no base backup", with(|_, report| report.backups.clear())),
            ("is 3 days old", with(|_, report| report.backups = vec![backup(NOW - secs(300_000))])),
            (
                "the last 80 s is in",
                with(|_, report| report.recoverable_until = Some(NOW - secs(80))),
            ),
            ("the disk is full", with(|_, report| report.problems.push("the disk is full".into()))),
        ];
        for (words, problem) in wrong {
            let problem = problem.expect(words);
            assert!(problem.contains(words), "{problem}");
        }
    }

    #[test]
    fn clocks_of_two_machines_are_not_compared() {
        let mut known = known();
        let (_, report) = known.report.as_mut().expect("a report");
        report.at += secs(3000);
        report.recoverable_until = Some(report.at - secs(7));
        assert_eq!(at_risk(&known, NOW + secs(2)), Some(Duration::from_secs(9)));
    }

    #[test]
    fn a_window_ends_where_anything_of_it_ends() {
        let days = |days: i64| secs(days * 86_400);
        let reach = |since| Reach { cluster: Uuid::nil(), since, window_secs: 7 * 86_400 };
        let at = |known: &Known, since| restore_window(known, &reach(since), NOW).map(|w| w.from);
        let mut known = known();
        assert_eq!(at(&known, NOW - days(90)), Some(NOW - secs(7200)), "the oldest backup");
        assert_eq!(at(&known, NOW - secs(60)), Some(NOW - secs(60)), "since it is there");
        assert_eq!(at(&known, NOW - secs(5)), None, "nothing of it is in the store yet");
        known.report.as_mut().expect("a report").1.backups.insert(0, backup(NOW - days(20)));
        assert_eq!(at(&known, NOW - days(90)), Some(NOW - days(7)), "the plan");
        let window = restore_window(&known, &reach(NOW - days(90)), NOW).expect("some");
        assert_eq!((window.until, window.at_risk_secs), (NOW - secs(20), 20));
    }

    #[test]
    fn a_moment_out_of_reach_says_why() {
        let term = |is_retired| Term {
            placement: Uuid::nil(),
            region: "id-jakarta".to_owned(),
            cluster: Uuid::nil(),
            cluster_name: "jakarta-1".to_owned(),
            database: String::new(),
            object_store: Uuid::nil(),
            began_at: NOW - secs(10_000),
            is_retired,
            window_secs: 7 * 86_400,
        };
        let why =
            |known: &Known, before| out_of_reach(known, &term(false), NOW - secs(before), NOW);
        assert_eq!(why(&known(), 0), None, "now is a moment too");
        assert_eq!(why(&known(), 7200), None);
        assert!(why(&known(), 7201).expect("too early").contains("first moment"));
        assert!(why(&known(), -1).expect("future").contains("yet to come"));
        assert!(why(&known(), 8 * 86_400).expect("plan").contains("7 days"));
        let removed = out_of_reach(&known(), &term(true), NOW - secs(60), NOW);
        assert!(removed.expect("removed").contains("was removed"));
        let mut silent = known();
        silent.report.as_mut().expect("a report").0 -= secs(600);
        assert!(why(&silent, 60).expect("silent").contains("said nothing for 10 min"));
        let nobody = Known { object_store: None, report: None, ..known() };
        assert!(why(&nobody, 60).expect("nobody").contains("run a keeper"));
    }

    #[test]
    fn days_are_whole() {
        let cases = [(None, 7), (Some(86_400), 7), (Some(30 * 86_400), 30), (Some(900_000), 11)];
        for (longest, days) in cases {
            assert_eq!(retention_days(longest), days, "{longest:?}");
        }
    }
}
