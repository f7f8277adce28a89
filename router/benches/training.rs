//! What a router mostly does, for a build that counts where its time goes: `ops/dist` runs this and
//! compiles the router again by what was counted. It measures nothing. Needs nginx and h2load.
//!
//! Whatever does not happen here is taken for rare and is made small instead of fast, so it has some of
//! everything that can be much of somebody's traffic.

#![allow(clippy::expect_used, clippy::panic, reason = "run by hand")]

#[allow(dead_code, reason = "the tests use all of it")]
#[path = "../tests/edge/client.rs"]
mod client;
#[allow(dead_code, reason = "the tests use all of it")]
#[path = "../tests/http3/client.rs"]
mod http3;
#[path = "parts/programs.rs"]
mod programs;
#[path = "parts/snapshot.rs"]
mod snapshot;

use std::{path::Path, process::Command};

use http3::Http3;
use programs::{Group, HOST, backend_conf, free_port, installed, write};
use snapshot::{Makers, Named, Running, start_with, table};

/// Bytes of an upload, and of a file that is downloaded.
const LARGE: usize = 200_000;
/// Over each kind of upstream.
const HTTP3_REQUESTS: usize = 2_000;

fn main() {
    for program in ["nginx", "h2load"] {
        assert!(installed(program), "{program} is not installed");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    std::fs::create_dir(at("large")).expect("makes a directory");
    let large = write(at("large/file"), &"x".repeat(LARGE));
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
        let more = [("http3_listen", "127.0.0.1:0")];
        let running = start_with(&own, &makers, &table(&makers, &sites), &[], &more);
        train(&running, &makers, &large);
    }
}

fn train(running: &Running, makers: &Makers, large: &Path) {
    let upload = format!("--data={}", large.display());
    let at = |path: &str| format!("https://{HOST}:{}{path}", running.https.port());
    for (requests, arguments, url) in [
        // As many over each protocol as browsers make: most over HTTP/2.
        ("40000", &["--h1", "-c64"][..], at("/")),
        ("60000", &["-c16", "-m16"], at("/")),
        ("900", &["-c900", "-m1"], at("/")),
        ("900", &["--h1", "-c900"], at("/")),
        ("400", &["--h1", "-c8"], at("/large/file")),
        ("400", &["-c8", "-m4"], at("/large/file")),
        ("400", &["--h1", "-c8", &upload], at("/upload")),
        ("400", &["-c8", "-m4", &upload], at("/upload")),
    ] {
        let text = h2load(requests, arguments, &url);
        assert!(text.contains(&format!(" {requests} succeeded")), "{arguments:?}: {text}");
    }
    let nobody = h2load("200", &["--h1", "-c8", "-H", "host: nobody.localhost"], &at("/"));
    assert!(nobody.contains(" 200 4xx"), "{nobody}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("starts").block_on(over_http3(running, makers));
}

/// What it says of these requests.
fn h2load(requests: &str, arguments: &[&str], url: &str) -> String {
    let mut h2load = Command::new("h2load");
    let output = h2load.args(["-t1", "-n", requests]).args(arguments).arg(url).output();
    String::from_utf8_lossy(&output.expect("runs").stdout).into_owned()
}

async fn over_http3(running: &Running, makers: &Makers) {
    let address = running.http3.expect("was asked for");
    let authority = makers.issuer.der();
    let mut client = Http3::connect(address, HOST, authority, true).await.expect("connects");
    for _ in 0..HTTP3_REQUESTS {
        client.page(HOST, "/").await;
    }
    for _ in 0..50 {
        client.page(HOST, "/large/file").await;
        let answer = client.ask(http3::post(HOST, "/upload"), vec![b'x'; LARGE]).await;
        assert!(answer.expect("is answered").status.is_success());
    }
}
