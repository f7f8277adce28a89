//! Memory of idle connections over TLS, each after one request. Run by hand:
//! `cargo bench -p router --bench idle [-- CONNECTIONS]` (default 3,000).

#![allow(clippy::expect_used, clippy::panic, reason = "run by hand")]

#[path = "parts/client.rs"]
mod client;
#[path = "parts/snapshot.rs"]
mod snapshot;

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use client::{Client, instance};
use snapshot::{Makers, Named, Running, resident_kib, start, table};

const HOST: &str = "localhost";
/// So that what is made once is there before it counts.
const FIRST: usize = 50;

fn main() {
    let count = std::env::args().skip(1).find_map(|text| text.parse().ok()).unwrap_or(3_000);
    let makers = Makers::new();
    let sites = [Named { hostname: HOST.to_owned(), upstream: instance() }];
    let directory = tempfile::tempdir().expect("a directory");
    let running = start(directory.path(), &makers, &table(&makers, &sites), &[]);
    let client = Client::new(running.https, makers.issuer.der());
    let process = running.child.id();
    let mut open: Vec<_> = (0..FIRST).map(|_| client.ask(HOST)).collect();
    all_quiet(&running, FIRST);
    let before = resident_kib(process);
    open.extend((0..count).map(|_| client.ask(HOST)));
    all_quiet(&running, FIRST + count);
    // The allocator gives memory back when it is asked for some.
    for _ in 0..20 {
        drop(client.ask(HOST));
        std::thread::sleep(Duration::from_millis(50));
    }
    let after = resident_kib(process);
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    let each = after.saturating_sub(before) as f64 / count as f64;
    println!("{count} idle connections over TLS: {each:.1} KiB each");
    drop(open);
}

/// Waits until so many connections are quiet: they give back what they needed for their request.
fn all_quiet(running: &Running, count: usize) {
    let wanted = format!("router_quiet_connections {count}");
    loop {
        let mut admin = TcpStream::connect(running.admin).expect("connects");
        let request = b"GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n";
        admin.write_all(request).expect("asks");
        let mut answer = String::new();
        admin.read_to_string(&mut answer).expect("answers");
        if answer.lines().any(|line| line == wanted) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
