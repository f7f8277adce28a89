//! Instructions of the router for one request, outside the kernel, as callgrind counts them: the same
//! in every run, also on a busy machine, so a change of a percent can be seen; nginx for comparison.
//! Run by hand:
//! `cargo bench -p router --bench instructions`, with `-- 5000` for more requests than usual, and with
//! `KEEP=directory` to keep what `callgrind_annotate` reads. Needs valgrind, nginx and h2load.

#![allow(clippy::expect_used, clippy::panic, reason = "run by hand")]

#[path = "parts/programs.rs"]
mod programs;
#[path = "parts/snapshot.rs"]
mod snapshot;

use std::{
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use programs::{Group, HOST, backend_conf, free_port, installed, others, write};
use snapshot::{Makers, Named, start, table};

const REQUESTS: u64 = 4_000;
const PATIENCE: Duration = Duration::from_secs(60);
/// Requests over a connection of their own: as many connections at once.
const CONNECTIONS: u64 = 200;

fn main() {
    for program in ["nginx", "h2load", "valgrind", "callgrind_control"] {
        assert!(installed(program), "{program} is not installed");
    }
    let requests = std::env::args().find_map(|text| text.parse().ok()).unwrap_or(REQUESTS);
    let directory = tempfile::tempdir().expect("a directory");
    let kept = std::env::var_os("KEEP").map(PathBuf::from);
    let at = |name: &str| directory.path().join(name);
    let (port, socket) = (free_port(), at("backend.sock"));
    let backend = write(at("backend.conf"), &backend_conf(port, &socket, directory.path()));
    let _backend = Group::start("1", "nginx", &["-c", &backend.display().to_string()]);
    let makers = Makers::new();
    for (name, upstream) in
        [("tcp", format!("tcp:127.0.0.1:{port}")), ("unix", format!("unix:{}", socket.display()))]
    {
        let own = at(name);
        std::fs::create_dir(&own).expect("makes a directory");
        let sites = [Named { hostname: HOST.to_owned(), upstream }];
        let out = format!("--callgrind-out-file={}", own.join("callgrind").display());
        let before = ["valgrind", "--tool=callgrind", "-q", &out];
        let running = start(&own, &makers, &table(&makers, &sites), &before);
        measure(name, running.child.id(), running.https.port(), &own, requests, kept.as_deref());
    }
    // What its kind takes, for comparison.
    let (_, nginx, config) = others(directory.path(), port).swap_remove(0);
    let (own, port) = (at(nginx), free_port());
    std::fs::create_dir(&own).expect("makes a directory");
    let (chain, key) = makers.certify(HOST);
    write(at("cert.pem"), &chain);
    write(at("key.pem"), &key);
    let config = config.replace("PORT", &port.to_string());
    let file =
        write(at("nginx.conf"), &config.replace("daemon off;", "daemon off; master_process off;"));
    let out = format!("--callgrind-out-file={}", own.join("callgrind").display());
    let file = file.display().to_string();
    let running =
        Group::start("0", "valgrind", &["--tool=callgrind", "-q", &out, nginx, "-c", &file]);
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(begun.elapsed() < PATIENCE, "nginx does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    measure(nginx, running.id(), port, &own, requests, kept.as_deref());
}

fn measure(name: &str, pid: u32, port: u16, own: &Path, requests: u64, kept: Option<&Path>) {
    for (case, count, arguments) in [
        ("keep-alive h1", requests, &["--h1", "-c16"][..]),
        ("h2", requests, &["-c4", "-m16"]),
        ("new connections", CONNECTIONS, &["--h1", "-c200"]),
    ] {
        load(count, port, arguments);
        control(&["-z"], pid);
        load(count, port, arguments);
        control(&["-d", case], pid);
        let dump = newest(own);
        println!("{case}, {name}: {} instructions for a request", total(&dump) / count);
        if let Some(kept) = kept {
            let file = format!("callgrind.{}.{name}", case.replace(' ', "-"));
            std::fs::copy(&dump, kept.join(file)).expect("copies");
        }
    }
}

fn load(requests: u64, port: u16, arguments: &[&str]) {
    let output = Command::new("h2load")
        .args(["-t1", "-n", &requests.to_string()])
        .args(arguments)
        .arg(format!("https://{HOST}:{port}/"))
        .output();
    let text = String::from_utf8_lossy(&output.expect("runs").stdout).into_owned();
    assert!(text.contains(&format!(" {requests} succeeded")), "{text}");
}

fn control(arguments: &[&str], pid: u32) {
    let mut command = Command::new("callgrind_control");
    let output = command.args(arguments).arg(pid.to_string()).output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The dump with the highest number.
fn newest(directory: &Path) -> PathBuf {
    let number = |path: &PathBuf| {
        path.extension().and_then(|text| text.to_str()?.parse::<u32>().ok()).unwrap_or(0)
    };
    let all = std::fs::read_dir(directory).expect("is there").filter_map(Result::ok);
    let dumps = all.map(|entry| entry.path()).filter(|path| number(path) > 0);
    dumps.max_by_key(number).expect("there is a dump")
}

fn total(dump: &Path) -> u64 {
    let text = std::fs::read_to_string(dump).expect("reads");
    let line = text.lines().find_map(|line| line.strip_prefix("summary: "));
    let line = line.or_else(|| text.lines().find_map(|line| line.strip_prefix("totals: ")));
    line.and_then(|number| number.trim().parse().ok()).expect("says how many")
}
