//! The router beside nginx, HAProxy and Caddy, in one run: CPU time of the proxy for one request, as
//! the median over rounds in which all take turns: the machine's own moods outlast a round. Run by
//! hand, on a machine that is otherwise quiet: `cargo bench -p router --bench proxies`, with `-- h1`
//! (or `h2`, `new`) for one kind of load only. Needs nginx, wrk and h2load (nghttp2-client); haproxy
//! and caddy are measured when they are there.
//!
//! Every proxy has one thread, pinned to core 0; the load and the instance (an nginx that answers
//! 1 KiB from memory) are on core 1. All have an ECDSA P-256 certificate and TLS 1.3. The router has
//! everything on: routes, limits, metrics, the access log into a file. The others log nothing.

#![allow(clippy::expect_used, clippy::panic, reason = "run by hand")]

#[path = "parts/programs.rs"]
mod programs;
#[path = "parts/snapshot.rs"]
mod snapshot;

use std::{
    collections::BTreeMap,
    process::Command,
    time::{Duration, Instant},
};

use programs::{Group, HOST, backend_conf, free_port, installed, others, write};
use snapshot::{Makers, Named, start, table};

const ROUNDS: usize = 15;
const SECONDS: &str = "1";

/// CPU seconds of all processes of a group.
fn cpu_seconds(group: u32) -> f64 {
    let mut ticks = 0;
    for entry in std::fs::read_dir("/proc").expect("is there").filter_map(Result::ok) {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<&str> = rest.split(' ').collect();
        if fields[2].parse() == Ok(group) {
            ticks +=
                fields[11].parse::<u64>().unwrap_or(0) + fields[12].parse::<u64>().unwrap_or(0);
        }
    }
    #[allow(clippy::cast_precision_loss, reason = "few ticks")]
    let ticks = ticks as f64;
    ticks / 100.0
}

struct Proxy {
    name: &'static str,
    group: u32,
    port: u16,
}

fn main() {
    for program in ["nginx", "wrk", "h2load", "taskset"] {
        assert!(installed(program), "{program} is not installed");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    let makers = Makers::new();
    let (chain, key) = makers.certify(HOST);
    write(at("cert.pem"), &chain);
    write(at("key.pem"), &key);
    write(at("both.pem"), &format!("{chain}{key}"));
    let (backend_port, socket) = (free_port(), at("backend.sock"));
    let backend = write(at("backend.conf"), &backend_conf(backend_port, &socket, directory.path()));
    let _backend = Group::start("1", "nginx", &["-c", &backend.display().to_string()]);

    let mut kept = Vec::new();
    let mut proxies = Vec::new();
    for (name, upstream) in [
        ("router", format!("tcp:127.0.0.1:{backend_port}")),
        ("router, unix", format!("unix:{}", socket.display())),
    ] {
        let own = at(name);
        std::fs::create_dir(&own).expect("makes a directory");
        let sites = [Named { hostname: HOST.to_owned(), upstream }];
        let before = ["setsid", "taskset", "-c", "0"];
        let running = start(&own, &makers, &table(&makers, &sites), &before);
        proxies.push(Proxy { name, group: running.child.id(), port: running.https.port() });
        kept.push(running);
    }
    let mut groups = Vec::new();
    for (name, program, config) in others(directory.path(), backend_port) {
        if !installed(program) {
            println!("{name}: not installed");
            continue;
        }
        let port = free_port();
        let file = write(at(&format!("{name}.conf")), &config.replace("PORT", &port.to_string()));
        let file = file.display().to_string();
        let arguments: &[&str] = match program {
            "nginx" => &["-c", &file],
            "haproxy" => &["-db", "-f", &file],
            _ => &["run", "--adapter", "caddyfile", "--config", &file],
        };
        let group = Group::start("0", program, arguments);
        proxies.push(Proxy { name, group: group.id(), port });
        groups.push(group);
    }
    for proxy in &proxies {
        answers(proxy);
    }
    let loads =
        [("keep-alive h1", Load::KeepAlive), ("h2", Load::Http2), ("new connections", Load::New)];
    let wanted = std::env::args().skip(1).find(|text| !text.starts_with('-'));
    for (case, load) in loads {
        if wanted.as_ref().is_none_or(|wanted| case.contains(wanted.as_str())) {
            measure(case, load, &proxies);
        }
    }
}

#[derive(Clone, Copy)]
enum Load {
    KeepAlive,
    Http2,
    New,
}

fn measure(case: &str, load: Load, proxies: &[Proxy]) {
    let mut all: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for round in 0..ROUNDS {
        // Each comes first as often as the others.
        for number in 0..proxies.len() {
            let proxy = &proxies[(round + number) % proxies.len()];
            let before = cpu_seconds(proxy.group);
            let requests = run(load, proxy.port);
            let micros = (cpu_seconds(proxy.group) - before) * 1e6 / requests;
            all.entry(proxy.name).or_default().push(micros);
        }
    }
    println!("{case}:");
    let nginx = all.get("nginx").cloned().unwrap_or_default();
    for (name, micros) in &all {
        let ratios = micros.iter().zip(&nginx).map(|(micros, nginx)| micros / nginx).collect();
        let [low, ratio, high] = quartiles(ratios);
        let [_, micros, _] = quartiles(micros.clone());
        println!(
            "  {name:14} {micros:7.2} us of CPU for a request, {ratio:.2} x nginx \
             (half of the rounds {low:.2} to {high:.2})"
        );
    }
}

fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values.get(values.len() * quarter / 4).copied().unwrap_or(f64::NAN))
}

/// How many requests were answered.
fn run(load: Load, port: u16) -> f64 {
    let url = format!("https://{HOST}:{port}/");
    let arguments: Vec<&str> = match load {
        Load::KeepAlive => vec!["wrk", "-t1", "-c64", "-d", SECONDS, &url],
        Load::New => vec!["wrk", "-t1", "-c64", "-d", SECONDS, "-H", "Connection: close", &url],
        Load::Http2 => vec!["h2load", "-t1", "-c16", "-m16", "-D", SECONDS, &url],
    };
    let output = Command::new("taskset").args(["-c", "1"]).args(&arguments).output();
    let text = String::from_utf8_lossy(&output.expect("runs").stdout).into_owned();
    assert!(!text.contains("Non-2xx"), "{text}");
    let found = text.lines().find_map(|line| {
        if let Some((number, _)) = line.split_once(" requests in ") {
            return number.trim().parse().ok();
        }
        let (_, after) = line.split_once("requests: ")?;
        let done = after.split(", ").find_map(|part| part.strip_suffix(" succeeded"))?;
        done.trim().parse().ok()
    });
    found.unwrap_or_else(|| panic!("{arguments:?} said {text}"))
}

fn answers(proxy: &Proxy) {
    let begun = Instant::now();
    let url = format!("https://{HOST}:{}/", proxy.port);
    loop {
        let said = Command::new("curl")
            .args(["-sk", "-o", "/dev/null", "-w", "%{http_code}", &url])
            .output();
        if said.expect("curl runs").stdout == b"200" {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{} does not answer", proxy.name);
        std::thread::sleep(Duration::from_millis(50));
    }
}
