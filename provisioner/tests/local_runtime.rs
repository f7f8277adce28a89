//! The local runtime over real processes and sockets. The process is `local_runtime/double.rs`,
//! which keeps the contract of `instances` in a few lines; the tenant-app itself is run end to end
//! elsewhere.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "this is a test")]

#[path = "local_runtime/double.rs"]
mod double;
#[path = "local_runtime/rig.rs"]
mod rig;

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use control_types::{InstanceId, state::InstanceObserved};
use futures_util::future::join_all;
use provisioner::instances::{InstanceRuntime, RuntimeError};
use rig::{Rig, SECRET, is_gone};

/// Not to be run by hand: the other tests run it, with `--exact instance_process --ignored --nocapture`.
#[test]
#[ignore = "is the process that the other tests start"]
fn instance_process() {
    double::main();
}

#[tokio::test]
async fn a_connection_wakes_a_sleeping_instance() {
    let rig = Rig::new();
    let spec = rig.spec("serve");
    rig.runtime().ensure(&spec).await.expect("ensures");
    let seen = rig.seen(&spec).await.expect("is there");
    assert_eq!((seen.state, seen.process_id), (InstanceObserved::Sleeping, None));
    let answer = rig.ask(&spec).await;
    assert_eq!(answer.generation, 1);
    let seen = rig.seen(&spec).await.expect("is there");
    assert_eq!((seen.state, seen.starts), (InstanceObserved::Running, 1));
    assert_eq!(seen.process_id, Some(answer.pid));
    assert_eq!(seen.last_error, None);
    let log = fs::read_to_string(rig.log(&spec)).expect("a log");
    assert!(log.contains("serves"), "{log}");
    for ending in ["sock", "ctl", "json"] {
        let mode = fs::metadata(rig.file(&spec, ending)).expect("exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{ending}");
    }
    rig.runtime().stop_all().await;
}

#[tokio::test]
async fn no_secret_lies_open() {
    let rig = Rig::new();
    let spec = rig.spec("serve");
    rig.runtime().ensure(&spec).await.expect("ensures");
    let pid = rig.ask(&spec).await.pid;
    let environment = fs::read_to_string(format!("/proc/{pid}/environ")).expect("reads");
    let arguments = fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("reads");
    let state = fs::read_to_string(rig.file(&spec, "json")).expect("reads");
    let log = fs::read_to_string(rig.log(&spec)).expect("reads");
    for text in [&environment, &arguments, &state, &log, &format!("{spec:?}")] {
        assert!(!text.contains(SECRET), "{text}");
    }
    let names: HashSet<_> = environment
        .split('\0')
        .filter_map(|pair| pair.split_once('='))
        .map(|pair| pair.0)
        .collect();
    // `PWD` is the doing of the shell that the double is started through.
    assert!(names.is_subset(&HashSet::from(["LISTEN_FDS", "RUST_LOG", "PWD"])), "{names:?}");
    rig.runtime().stop_all().await;
}

#[tokio::test]
async fn many_connections_at_once_start_one_process() {
    let rig = Rig::new();
    let spec = rig.spec("serve");
    rig.runtime().ensure(&spec).await.expect("ensures");
    let answers = join_all((0..100).map(|_| rig.ask(&spec))).await;
    let pids: HashSet<_> = answers.iter().map(|answer| answer.pid).collect();
    assert_eq!(pids.len(), 1);
    assert_eq!(rig.seen(&spec).await.expect("is there").starts, 1);
    rig.runtime().stop_all().await;
}

#[tokio::test]
async fn no_connection_is_lost_between_idle_exit_and_the_next_start() {
    let rig = Rig::new();
    let mut spec = rig.spec("serve");
    spec.config.storage.prefix = "10".to_owned();
    rig.runtime().ensure(&spec).await.expect("ensures");
    // Pauses around the idle time, so that connections come just before, at and after the exit.
    for round in 0..150 {
        rig.ask(&spec).await;
        tokio::time::sleep(Duration::from_micros(9_000 + 20 * round)).await;
    }
    let seen = rig.await_seen(&spec, |seen| seen.state == InstanceObserved::Sleeping).await;
    assert!(seen.starts > 20, "{} starts", seen.starts);
    assert_eq!(seen.last_error, None);
    rig.runtime().stop_all().await;
}

#[tokio::test]
async fn a_failing_instance_waits_longer_and_longer_and_its_connections_wait_too() {
    let rig = Rig::new();
    let mut spec = rig.spec("crash");
    rig.runtime().ensure(&spec).await.expect("ensures");
    let waiting = rig.connect(&spec).await;
    let seen = rig.await_seen(&spec, |seen| seen.state == InstanceObserved::Failing).await;
    let error = seen.last_error.expect("an error");
    let log = rig.log(&spec).display().to_string();
    assert!(error.contains(&log) && error.contains("exit status: 1"), "{error}");
    assert!(error.ends_with("the database is away"), "{error}");
    let begun = Instant::now();
    rig.await_seen(&spec, |seen| seen.starts == 2).await;
    assert!(begun.elapsed() > Duration::from_millis(900));
    rig.await_seen(&spec, |seen| seen.starts == 3).await;
    assert!(begun.elapsed() > Duration::from_millis(2_800));
    // Another specification is tried at once, and the connection of before is answered.
    spec.config.storage.bucket = "serve".to_owned();
    rig.runtime().ensure(&spec).await.expect("ensures");
    assert_eq!(rig::exchange(waiting, "hello").await.generation, 1);
    rig.runtime().stop_all().await;
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_named() {
    let rig = Rig::new();
    let spec = rig.spec("serve");
    rig.runtime().ensure(&spec).await.expect("ensures");
    fs::remove_file(rig.program()).expect("removes");
    let _waiting = rig.connect(&spec).await;
    let seen = rig.await_seen(&spec, |seen| seen.state == InstanceObserved::Failing).await;
    let error = seen.last_error.expect("an error");
    assert!(error.contains(&rig.program().display().to_string()), "{error}");
    rig.runtime().stop_all().await;
}

#[tokio::test]
async fn a_warm_instance_runs_without_a_connection_and_again_after_its_end() {
    let rig = Rig::new();
    let mut spec = rig.spec("serve");
    spec.keep_warm = true;
    rig.runtime().ensure(&spec).await.expect("ensures");
    let first = rig.await_seen(&spec, |seen| seen.process_id.is_some()).await;
    rig::kill(first.process_id.expect("runs"));
    let again = rig
        .await_seen(&spec, |seen| seen.starts == 2 && seen.state == InstanceObserved::Running)
        .await;
    assert_ne!(again.process_id, first.process_id);
    assert!(again.last_error.is_some_and(|error| error.contains("signal: 9")));
    rig.runtime().stop_all().await;
}

#[tokio::test]
async fn a_running_instance_outlives_its_provisioner_and_is_found_again() {
    let mut rig = Rig::new();
    let mut spec = rig.spec("serve");
    spec.config.storage.prefix = "200".to_owned();
    rig.runtime().ensure(&spec).await.expect("ensures");
    let pid = rig.ask(&spec).await.pid;
    rig.lose_runtime().await;
    let open = rig.connect(&spec).await;
    assert_eq!(rig.ask(&spec).await.pid, pid, "serves without a provisioner");
    rig.open();
    let seen = rig.seen(&spec).await.expect("is seen before it is ensured");
    assert_eq!((seen.state, seen.process_id), (InstanceObserved::Running, Some(pid)));
    rig.runtime().ensure(&spec).await.expect("ensures");
    assert_eq!(rig.ask(&spec).await.pid, pid);
    assert_eq!(rig.seen(&spec).await.expect("is there").starts, 1);
    drop(open);
    rig.await_seen(&spec, |seen| seen.state == InstanceObserved::Sleeping).await;
    assert_ne!(rig.ask(&spec).await.pid, pid, "wakes again");
    assert_eq!(rig.seen(&spec).await.expect("is there").starts, 2);
    rig.runtime().stop_all().await;
}

#[tokio::test]
async fn a_sleeping_instance_listens_again_under_a_new_provisioner() {
    let mut rig = Rig::new();
    let spec = rig.spec("serve");
    rig.runtime().ensure(&spec).await.expect("ensures");
    rig.lose_runtime().await;
    rig.open();
    rig.runtime().ensure(&spec).await.expect("ensures");
    rig.ask(&spec).await;
    rig.runtime().stop_all().await;
}

#[tokio::test]
async fn a_changed_instance_is_replaced_and_finishes_what_it_has() {
    let rig = Rig::new();
    let mut spec = rig.spec("serve");
    rig.runtime().ensure(&spec).await.expect("ensures");
    let old = rig.ask(&spec).await;
    let slow = tokio::spawn(rig::exchange(rig.connect(&spec).await, "slow"));
    rig.ask(&spec).await;
    spec.config.generation = spec.config.generation.next();
    rig.runtime().ensure(&spec).await.expect("ensures");
    rig.await_successor(&spec, old.pid).await;
    assert_eq!(slow.await.expect("is answered").pid, old.pid);
    rig::until(|| is_gone(old.pid)).await;
    let new = rig.ask(&spec).await;
    assert_eq!((new.generation, rig.seen(&spec).await.expect("is there").starts), (2, 2));
    rig.runtime().stop_all().await;
}

#[tokio::test]
async fn a_replaced_instance_answers_on_the_connections_that_it_has() {
    let mut rig = Rig::new();
    let mut spec = rig.spec("serve");
    rig.runtime().ensure(&spec).await.expect("ensures");
    let old = rig.ask(&spec).await;
    let [kept, kept_longer, left] =
        [rig.connect(&spec).await, rig.connect(&spec).await, rig.connect(&spec).await];
    // All three are accepted before another process is there to do it.
    rig.ask(&spec).await;
    spec.config.database.password = "another".to_owned();
    rig.runtime().ensure(&spec).await.expect("ensures");
    rig.await_successor(&spec, old.pid).await;
    assert_eq!(rig::exchange(kept, "hello").await.pid, old.pid);
    // A provisioner that takes over tells it the same.
    rig.lose_runtime().await;
    rig.open();
    rig.runtime().ensure(&spec).await.expect("ensures");
    assert_eq!(rig::exchange(kept_longer, "hello").await.pid, old.pid);
    assert_ne!(rig.ask(&spec).await.pid, old.pid);
    assert!(!is_gone(old.pid), "a connection is open");
    drop(left);
    rig::until(|| is_gone(old.pid)).await;
    rig.runtime().stop_all().await;
}

#[tokio::test]
async fn who_is_removed_waits_for_no_idle_connection() {
    let rig = Rig::new();
    let mut spec = rig.spec("serve");
    rig.runtime().ensure(&spec).await.expect("ensures");
    let old = rig.ask(&spec).await;
    let _kept = rig.connect(&spec).await;
    rig.ask(&spec).await;
    spec.config.database.password = "another".to_owned();
    rig.runtime().ensure(&spec).await.expect("ensures");
    rig.await_successor(&spec, old.pid).await;
    assert!(!is_gone(old.pid), "a connection is open");
    rig.runtime().remove(spec.config.instance_id).await.expect("removes");
    assert!(is_gone(old.pid));
    assert_eq!(rig.left(), ["lock"]);
}

#[tokio::test]
async fn what_changed_while_no_provisioner_was_there_is_replaced() {
    let mut rig = Rig::new();
    let mut spec = rig.spec("serve");
    rig.runtime().ensure(&spec).await.expect("ensures");
    let old = rig.ask(&spec).await;
    rig.lose_runtime().await;
    rig.open();
    spec.config.database.password = "another".to_owned();
    rig.runtime().ensure(&spec).await.expect("ensures");
    rig.await_successor(&spec, old.pid).await;
    rig::until(|| is_gone(old.pid)).await;
    rig.ask(&spec).await;
    rig.runtime().stop_all().await;
}

#[tokio::test]
async fn a_process_that_does_not_give_its_socket_back_is_replaced() {
    let mut rig = Rig::new();
    let spec = rig.spec("mute");
    rig.runtime().ensure(&spec).await.expect("ensures");
    let old = rig.ask(&spec).await;
    rig.lose_runtime().await;
    rig.open();
    rig.runtime().ensure(&spec).await.expect("ensures");
    rig.await_successor(&spec, old.pid).await;
    assert_ne!(rig.ask(&spec).await.pid, old.pid);
    rig::until(|| is_gone(old.pid)).await;
    rig.runtime().stop_all().await;
}

#[tokio::test]
async fn a_removed_instance_leaves_nothing() {
    let rig = Rig::new();
    let spec = rig.spec("serve");
    rig.runtime().ensure(&spec).await.expect("ensures");
    let pid = rig.ask(&spec).await.pid;
    let id = spec.config.instance_id;
    rig.runtime().remove(id).await.expect("removes");
    assert!(is_gone(pid));
    assert_eq!(rig.left(), ["lock"]);
    assert_eq!(rig.runtime().observe().await.expect("observes"), []);
    rig.runtime().remove(id).await.expect("removes what is removed");
    rig.runtime().remove(InstanceId::generate()).await.expect("removes what never was");
    rig.runtime().ensure(&spec).await.expect("ensures again");
    rig.ask(&spec).await;
    rig.runtime().stop_all().await;
}

#[tokio::test]
async fn ensuring_and_removing_at_once_ends_in_one_of_both() {
    let rig = Rig::new();
    let spec = rig.spec("serve");
    for _ in 0..20 {
        let (ensured, removed) = tokio::join!(
            rig.runtime().ensure(&spec),
            rig.runtime().remove(spec.config.instance_id)
        );
        ensured.expect("ensures");
        removed.expect("removes");
        rig.runtime().ensure(&spec).await.expect("ensures");
        rig.ask(&spec).await;
    }
    rig.runtime().stop_all().await;
    assert_eq!(rig.left(), ["lock"]);
}

#[tokio::test]
async fn what_a_provisioner_left_behind_is_seen_and_removed() {
    let mut rig = Rig::new();
    let (running, sleeping) = (rig.spec("serve"), rig.spec("serve"));
    rig.runtime().ensure(&running).await.expect("ensures");
    rig.runtime().ensure(&sleeping).await.expect("ensures");
    let pid = rig.ask(&running).await.pid;
    rig.lose_runtime().await;
    rig.open();
    let seen = rig.runtime().observe().await.expect("observes");
    let ids: HashSet<_> = seen.iter().map(|seen| seen.id).collect();
    assert_eq!(ids, HashSet::from([running.config.instance_id, sleeping.config.instance_id]));
    for id in ids {
        rig.runtime().remove(id).await.expect("removes");
    }
    assert!(is_gone(pid));
    assert_eq!(rig.left(), ["lock"]);
}

#[tokio::test]
async fn stopping_ends_everything_and_takes_nothing_new() {
    let mut rig = Rig::new();
    let (left_behind, ours) = (rig.spec("serve"), rig.spec("serve"));
    rig.runtime().ensure(&left_behind).await.expect("ensures");
    let pids = [rig.ask(&left_behind).await.pid];
    rig.lose_runtime().await;
    rig.open();
    rig.runtime().ensure(&ours).await.expect("ensures");
    let pids = [pids[0], rig.ask(&ours).await.pid];
    rig.runtime().stop_all().await;
    assert!(pids.into_iter().all(is_gone));
    assert_eq!(rig.left(), ["lock"]);
    let refused = rig.runtime().ensure(&ours).await;
    assert!(matches!(refused, Err(RuntimeError::Stopping)));
}

#[tokio::test]
async fn sleeping_instances_cost_no_thread_and_no_process() {
    let rig = Rig::new();
    let specs: Vec<_> = (0..200).map(|_| rig.spec("serve")).collect();
    let ensured = join_all(specs.iter().map(|spec| rig.runtime().ensure(spec))).await;
    ensured.into_iter().for_each(|outcome| outcome.expect("ensures"));
    let seen = rig.runtime().observe().await.expect("observes");
    assert_eq!(seen.len(), 200);
    assert!(seen.iter().all(|seen| seen.state == InstanceObserved::Sleeping));
    // All at once, more than may start at the same time.
    let answers = join_all(specs.iter().take(30).map(|spec| rig.ask(spec))).await;
    let pids: HashSet<_> = answers.iter().map(|answer| answer.pid).collect();
    assert_eq!(pids.len(), 30);
    rig.runtime().stop_all().await;
    assert!(pids.into_iter().all(is_gone));
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_refused() {
    let rig = Rig::new();
    let refused = rig.try_open().err().expect("is refused");
    assert!(refused.to_string().contains("another provisioner uses it"), "{refused}");
    let refused = rig.try_open_at(&"d".repeat(60)).err().expect("is refused");
    assert!(refused.to_string().contains("too long"), "{refused}");
}
