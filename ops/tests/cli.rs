//! The command line against a provisioner that speaks the real API's types: what it prints, where,
//! and what it exits with.
#![allow(clippy::expect_used, reason = "helpers of tests fail as tests do")]

#[path = "cli/provisioner.rs"]
mod provisioner;

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    process::{Command, Output, Stdio},
};

use provisioner::{INVITATION, OPERATION, Part, Provisioner, write_ready};
use provisioner_api::{Operation, Site, sites::Accepted};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const CREATE: [&str; 9] = [
    "site",
    "create",
    "acme",
    "--name",
    "Acme",
    "--region",
    "id-jakarta",
    "--admin",
    "admin@acme.test",
];

/// More tries than the CLI makes.
const PATIENCE: usize = 9;

fn ta3lem() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ta3lem"));
    command.env_clear().stdin(Stdio::null());
    command
}

fn on(provisioner: &Provisioner, arguments: &[&str]) -> Command {
    let mut command = ta3lem();
    command.env("TA3LEM_DATA_DIR", provisioner.data_dir.path()).args(arguments);
    command
}

struct Said {
    code: i32,
    out: String,
    err: String,
}

fn run(mut command: Command) -> Said {
    let Output { status, stdout, stderr } = command.output().expect("it runs");
    Said {
        code: status.code().expect("it exits"),
        out: String::from_utf8(stdout).expect("UTF-8"),
        err: String::from_utf8(stderr).expect("UTF-8"),
    }
}

#[track_caller]
fn check(said: &Said, code: i32, out: &[&str], err: &[&str]) {
    let Said { code: exited, out: stdout, err: stderr } = said;
    assert_eq!(*exited, code, "stdout: {stdout}\nstderr: {stderr}");
    for part in out {
        assert!(stdout.contains(part), "no {part:?} in stdout: {stdout}");
    }
    for part in err {
        assert!(stderr.contains(part), "no {part:?} in stderr: {stderr}");
    }
    assert!(!format!("{stdout}{stderr}").contains('\x1b'), "escapes: {stdout}{stderr}");
}

#[test]
fn a_site_is_created_with_progress_and_its_links() {
    let provisioner = Provisioner::start(Part::Succeeds);
    let said = run(on(&provisioner, &CREATE));
    check(
        &said,
        0,
        &["acme is ready after 1.2 s", "https://acme.localhost:8443\n", INVITATION],
        &["done     reserve names", "again    create database", "no space left", "first password"],
    );
    let script = provisioner.script();
    let (_, site) = &script.creates[0];
    assert_eq!(
        (site.plan.as_str(), site.default_language.as_deref()),
        ("professional", Some("id"))
    );
    assert!(site.allowed_regions.is_none() && site.administrator.password.is_none());
}

#[test]
fn json_is_one_document_of_the_apis_types_and_nothing_else() {
    let provisioner = Provisioner::start(Part::Succeeds);
    let said = run(on(&provisioner, &[&CREATE[..], &["--json"]].concat()));
    check(&said, 0, &[], &[]);
    let accepted: Accepted = serde_json::from_str(&said.out).expect("an Accepted");
    assert_eq!(accepted.operation.state.as_str(), "succeeded");
    assert_eq!(accepted.site.state.as_str(), "active");
    assert_eq!((accepted.invitation_url.as_deref(), said.err.as_str()), (Some(INVITATION), ""));

    let said = run(on(&provisioner, &["site", "list", "--json"]));
    let sites: Vec<Site> = serde_json::from_str(&said.out).expect("sites");
    assert_eq!(sites[0].slug.as_str(), "acme");
    let said = run(on(&provisioner, &["operation", "show", OPERATION, "--json"]));
    let operation: Operation = serde_json::from_str(&said.out).expect("an operation");
    assert_eq!(operation.id.to_string(), OPERATION);
    for noun in ["region", "cluster", "plan"] {
        let said = run(on(&provisioner, &["--json", noun, "list"]));
        assert!(serde_json::from_str::<Value>(&said.out).expect("JSON").is_array(), "{noun}");
    }
}

#[test]
fn watching_in_json_is_a_line_for_each_event_and_one_for_the_end() {
    let provisioner = Provisioner::start(Part::Succeeds);
    let said = run(on(&provisioner, &["operation", "watch", OPERATION, "--json"]));
    check(&said, 0, &[], &[]);
    let lines: Vec<Value> =
        said.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 8);
    assert!(lines[..7].iter().all(|line| line["event"]["seq"].is_u64()));
    assert_eq!(lines[7]["operation"]["state"], "succeeded");
}

#[test]
fn how_an_operation_ends_decides_the_exit_code() {
    for (part, code, error) in [
        (Part::Fails, 1, "error: the creation of acme failed and was undone: no space left"),
        (Part::Sticks, 6, "shows where; what to do: ops/runbooks/stuck_operation.md"),
        (Part::Cancelled, 1, "error: the creation of acme was cancelled"),
    ] {
        let provisioner = Provisioner::start(part);
        check(&run(on(&provisioner, &["operation", "watch", OPERATION])), code, &[], &[error]);
        let said = run(on(&provisioner, &[&CREATE[..], &["--json"]].concat()));
        assert_eq!(said.code, code);
        serde_json::from_str::<Accepted>(&said.out).expect("the result all the same");
        let failure: Value = serde_json::from_str(&said.err).expect("the failure as JSON");
        assert_eq!(failure["exit_code"], code);
    }
}

#[test]
fn a_stuck_operation_is_seen_and_tried_again() {
    let provisioner = Provisioner::start(Part::Sticks);
    let said = run(on(&provisioner, &["status"]));
    let parts = ["cluster jakarta-1  connection refused", "2 unfinished operations, 1 stuck"];
    check(&said, 0, &parts, &["ta3lem operation list --live"]);
    let said = run(on(&provisioner, &["operation", "show", OPERATION]));
    check(&said, 0, &["stuck", "no space left", "runbooks"], &["ta3lem operation retry"]);
    let said = run(on(&provisioner, &["operation", "retry", OPERATION]));
    check(&said, 0, &["creation of acme: succeeded"], &["done     flip route"]);
}

#[test]
fn a_lost_answer_is_asked_for_again_with_the_same_key() {
    let provisioner = Provisioner::start(Part::Succeeds);
    provisioner.script().lose_answers = 2;
    check(&run(on(&provisioner, &CREATE)), 0, &["acme is ready"], &[]);
    let keys: Vec<String> = provisioner.script().creates.iter().map(|c| c.0.clone()).collect();
    assert_eq!(keys.len(), 3);
    assert!(keys.iter().all(|key| *key == keys[0] && key.len() == 36), "{keys:?}");

    provisioner.script().lose_answers = PATIENCE;
    let said = run(on(&provisioner, &[&CREATE[..], &["--idempotency-key", "order-7"]].concat()));
    check(&said, 5, &[], &["does not answer", "--idempotency-key order-7"]);
}

#[test]
fn a_provisioner_that_starts_again_is_waited_for() {
    let provisioner = Provisioner::start(Part::Succeeds);
    provisioner.script().lose_news = 1;
    let said = run(on(&provisioner, &["operation", "watch", OPERATION]));
    check(&said, 0, &["creation of acme: succeeded"], &["does not answer; trying again"]);
}

#[test]
fn a_proxy_of_the_environment_never_sees_the_token() {
    let provisioner = Provisioner::start(Part::Succeeds);
    let mut command = on(&provisioner, &["region", "list"]);
    command.env("HTTP_PROXY", "http://127.0.0.1:9").env("http_proxy", "http://127.0.0.1:9");
    check(&run(command), 0, &["id-jakarta"], &[]);
}

#[test]
fn refusals_say_what_to_do() {
    let provisioner = Provisioner::start(Part::Succeeds);
    let create = |slug: &str, region: &str| {
        let arguments = ["site", "create", slug, "--name", "A", "--admin", "a@b.test", "--region"];
        run(on(&provisioner, &[&arguments[..], &[region]].concat()))
    };
    let known = "hint: known regions: id-jakarta, sg-singapore";
    check(&create("acme", "mars"), 1, &[], &["error: region: there is no such region", known]);
    let hint = "hint: `ta3lem site show taken` shows who has it";
    check(&create("taken", "id-jakarta"), 4, &[], &["error: slug: the slug taken is in use", hint]);
    let said = run(on(&provisioner, &["site", "show", "nobody"]));
    check(&said, 3, &[], &["error: there is no site nobody", "hint: `ta3lem site list`"]);
    let said = run(on(&provisioner, &["site", "suspend", "beta", "--reason", "unpaid"]));
    check(&said, 4, &[], &["error: an operation is in progress", "hint: "]);
    let said = run(on(&provisioner, &["--json", "site", "show", "nobody"]));
    let failure: Value = serde_json::from_str(&said.err).expect("JSON");
    assert_eq!((said.out.as_str(), &failure["problem"]["status"]), ("", &Value::from(404)));
}

#[test]
fn wrong_usage_is_refused_before_anybody_is_asked() {
    for (arguments, why) in [
        (&["site", "create", "Acme!"][..], "a slug consists of lower-case letters"),
        (&["site", "create", "www"], "this slug is reserved"),
        (&[&CREATE[..], &["--domain", "10.0.0.1"]].concat(), "an IP address is not a hostname"),
        (&[&CREATE[..8], &["nobody"]].concat(), "an email address has an '@'"),
        (&["site", "delete", "acme", "--grace", "soon"], "a length of time is a number and a unit"),
        (&["site", "delete", "acme", "--wait", "--no-wait"], "cannot be used with"),
        (&["site", "suspend", "acme"], "--reason <TEXT>"),
        (&["operation", "show", "xyz"], "at least its first 4 characters"),
        (&["--api", "https://lms.example", "site", "list"], "plain HTTP"),
        (&["sites", "list"], "similar subcommands exist"),
    ] {
        let mut command = ta3lem();
        command.args(arguments);
        check(&run(command), 2, &[], &["error: ", why]);
    }
    let mut command = ta3lem();
    command.args(["--json", "site", "show", "A"]);
    let failure: Value = serde_json::from_str(&run(command).err).expect("JSON");
    assert_eq!(failure["exit_code"], 2);
}

#[test]
fn the_way_to_the_provisioner_is_explained() {
    let empty = tempfile::tempdir().expect("a directory");
    let with = |arguments: &[&str]| {
        let mut command = ta3lem();
        command.env("TA3LEM_DATA_DIR", empty.path()).args(arguments).args(["site", "list"]);
        command
    };
    let error = "error: no platform runs here: ";
    check(&run(with(&[])), 5, &[], &[error, "ready.json does not exist", "`ta3lem up`"]);

    // Nobody listens there: the port was ours a moment ago.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let gone_url = format!("http://{}", gone.local_addr().expect("an address"));
    drop(gone);
    let token_file = write_ready(empty.path(), &gone_url);
    check(&run(with(&[])), 5, &[], &["does not answer", "refused", "hint: start the platform"]);

    let provisioner = Provisioner::start(Part::Succeeds);
    let api = ["--api", provisioner.url.as_str()];
    // The token of the local platform is not sent to another.
    check(&run(with(&api)), 7, &[], &["there is no token for the provisioner at"]);
    std::fs::write(&token_file, "wrong").expect("written");
    let file = token_file.to_str().expect("UTF-8");
    let said = run(with(&[&api[..], &["--token-file", file]].concat()));
    check(&said, 7, &[], &["error: the token is not known", "hint: the token came from", file]);
    assert!(!said.err.contains("wrong"));
    let mut command = with(&api);
    command.env("TA3LEM_TOKEN", provisioner::TOKEN);
    check(&run(command), 0, &["acme"], &[]);
}

#[test]
fn deleting_asks_or_is_told_and_returns_when_the_grace_period_begins() {
    let provisioner = Provisioner::start(Part::WaitsForGrace);
    let said = run(on(&provisioner, &["site", "delete", "acme"]));
    check(&said, 2, &[], &["needs a confirmation", "add --yes"]);
    assert!(provisioner.script().deletes.is_empty());
    let said = run(on(&provisioner, &["site", "delete", "acme", "--yes", "--grace", "7d"]));
    let back = "Bring it back: ta3lem site undelete acme";
    check(&said, 0, &["acme is closed; its data is dropped at 2099-01-01"], &[back]);
    assert_eq!(provisioner.script().deletes[0].grace_period_secs, Some(604_800));
    let said = run(on(&provisioner, &["operation", "cancel", "0192f0c1-2c3d"]));
    check(&said, 0, &["deletion of acme: cancelled"], &["undone"]);
}

#[test]
fn an_interrupted_watch_stops_nothing_and_keeps_the_invitation() {
    let provisioner = Provisioner::start(Part::Hangs);
    let mut child = on(&provisioner, &CREATE)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("done") {
        line.clear();
        assert!(stderr.read_line(&mut line).expect("text") > 0, "it ended early");
    }
    let process = Pid::from_child(&child);
    kill_process(process, Signal::INT).expect("sent");
    let mut err = String::new();
    stderr.read_to_string(&mut err).expect("text");
    let done = child.wait_with_output().expect("it ends");
    assert_eq!(done.status.code(), Some(130), "{err}");
    assert!(err.contains("goes on") && err.contains("ta3lem operation watch"), "{err}");
    assert!(String::from_utf8_lossy(&done.stdout).contains(INVITATION));
}

#[test]
fn tables_are_plain_in_a_pipe_and_short_ids_are_told_apart() {
    let provisioner = Provisioner::start(Part::Succeeds);
    let said = run(on(&provisioner, &["site", "list"]));
    check(&said, 0, &["SITE", "acme", "active", "id-jakarta", "sleeping"], &[]);
    let said = run(on(&provisioner, &["site", "show", "acme"]));
    check(&said, 0, &["s_0192 on jakarta-1", "https://acme.localhost:8443", "primary"], &[]);
    let said = run(on(&provisioner, &["operation", "list"]));
    check(&said, 0, &["0192f0c1-2c3d  ", "create site", "succeeded", "3 of 3"], &[]);
    let said = run(on(&provisioner, &["operation", "show", "0192f0c1-2c3d"]));
    check(&said, 0, &["create database", "no way back after this"], &[]);
    let said = run(on(&provisioner, &["operation", "show", "0192f0c1"]));
    check(&said, 2, &[], &["is the beginning of 2 operations"]);
    let said = run(on(&provisioner, &["operation", "show", "ffff"]));
    check(&said, 3, &[], &["none of the latest 2 operations begins with ffff"]);
    let said = run(on(&provisioner, &["cluster", "list"]));
    check(&said, 0, &["unreachable", "1 of 250", "V3"], &["connection refused"]);
    let said = run(on(&provisioner, &["plan", "list", "--quiet"]));
    check(&said, 0, &["10 GiB", "unlimited"], &[]);
    let said = run(on(&provisioner, &[&CREATE[..], &["--dry-run"]].concat()));
    check(&said, 0, &["would flip_route", "no way back", "0.8 s. Nothing was changed."], &[]);
}

/// Runs on a terminal of 60 columns, types `typed`, and returns what the terminal shows.
fn on_a_terminal(mut command: Command, typed: &str) -> (i32, String) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pty");
    grantpt(&controller).expect("granted");
    unlockpt(&controller).expect("unlocked");
    let size = rustix::termios::Winsize { ws_row: 24, ws_col: 60, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&controller, size).expect("sized");
    let name = ptsname(&controller, Vec::new()).expect("a name");
    let path = name.to_str().expect("UTF-8").to_owned();
    let end = || File::options().read(true).write(true).open(&path).expect("it opens");
    let mut child = command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("it runs");
    drop(command);
    let mut controller = File::from(controller);
    controller.write_all(typed.as_bytes()).expect("typed");
    let mut shown = Vec::new();
    // Linux answers EIO when the last holder of the other end is gone.
    let _ = controller.read_to_end(&mut shown);
    let code = child.wait().expect("it ends").code().expect("a code");
    (code, String::from_utf8_lossy(&shown).into_owned())
}

#[test]
fn a_terminal_gets_colours_a_fitting_table_and_questions() {
    let provisioner = Provisioner::start(Part::WaitsForGrace);
    let (code, shown) = on_a_terminal(on(&provisioner, &["site", "list"]), "");
    assert!(code == 0 && shown.contains("\x1b[32mactive\x1b[0m"), "{shown}");
    let mut command = on(&provisioner, &["site", "list"]);
    command.env("NO_COLOR", "1");
    let (_, shown) = on_a_terminal(command, "");
    assert!(!shown.contains('\x1b') && shown.lines().all(|line| line.len() <= 60), "{shown}");
    let (_, shown) = on_a_terminal(on(&provisioner, &["site", "list", "--no-color"]), "");
    assert!(!shown.contains('\x1b'), "{shown}");

    let (code, shown) = on_a_terminal(on(&provisioner, &["site", "delete", "acme"]), "acne\n");
    assert!(code == 2 && shown.contains("was not deleted"), "{shown}");
    assert!(provisioner.script().deletes.is_empty());
    let (code, shown) = on_a_terminal(on(&provisioner, &["site", "delete", "acme"]), "acme\n");
    assert!(code == 0 && shown.contains("Bring it back"), "{shown}");
}

#[test]
fn completions_and_help_are_there_without_a_platform() {
    for (shell, part) in
        [("bash", "_ta3lem()"), ("zsh", "#compdef ta3lem"), ("fish", "complete -c")]
    {
        let mut command = ta3lem();
        command.args(["completions", shell]);
        check(&run(command), 0, &[part], &[]);
    }
    let mut command = ta3lem();
    command.arg("--help");
    check(&run(command), 0, &["Exit codes:", "  6  the operation is stuck", "TA3LEM_API"], &[]);
}
