//! A router with very many sites: memory, start, lookup, change. Run by hand:
//! `cargo bench -p router --bench many_sites [-- SITES]` (default 100,000).

#![allow(clippy::expect_used, clippy::panic, reason = "run by hand")]

#[path = "parts/client.rs"]
mod client;
#[path = "parts/snapshot.rs"]
mod snapshot;

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use client::{Client, instance};
use control_types::SiteId;
use router::route_table::{Reading, Scope, Table};
use snapshot::{Makers, Named, resident_kib, start, table};

const LOOKUPS: usize = 2_000_000;
const CHANGES: usize = 50;
/// Sites that are asked for something at the end: more than there are open keys.
const ASKED: usize = 20_000;

fn named(count: usize, upstream: &str) -> Vec<Named> {
    let all = (0..count).map(|number| Named {
        hostname: format!("site-{number}.localhost"),
        upstream: upstream.to_owned(),
    });
    all.collect()
}

fn main() {
    let count = std::env::args().skip(1).find_map(|text| text.parse().ok()).unwrap_or(100_000);
    let makers = Makers::new();
    let begun = Instant::now();
    let upstream = instance();
    let (few, many) =
        (table(&makers, &named(10, &upstream)), table(&makers, &named(count, &upstream)));
    println!("{count} sites with certificates made in {:?}", begun.elapsed());
    lookups(&few, &many, count);
    changes(&many);

    let directory = tempfile::tempdir().expect("a directory");
    let begun = Instant::now();
    let running = start(directory.path(), &makers, &many, &[]);
    let listening = begun.elapsed();
    let client = Client::new(running.https, makers.issuer.der());
    drop(client.ask("site-1.localhost"));
    let first = begun.elapsed();
    let size = std::fs::metadata(directory.path().join("routes.snapshot")).expect("is there").len();
    println!("snapshot of {} MiB", size >> 20);
    println!("from the start to listening {listening:?}, to the first answer {first:?}");
    let process = running.child.id();
    println!("resident: {} MB", megabytes(process));
    let asked = ASKED.min(count);
    for number in 0..asked {
        drop(client.ask(&format!("site-{number}.localhost")));
    }
    println!("resident after each of {asked} sites was asked once: {} MB", megabytes(process));
}

/// The time of one lookup in a small table and in a large one, by turns.
fn lookups(few: &Table, many: &Table, count: usize) {
    let names_of = |count: usize| -> Vec<String> {
        // A walk that visits names far from each other.
        (0..4096).map(|step| format!("site-{}.localhost", step * 7919 % count)).collect()
    };
    let (few_names, many_names) = (names_of(10), names_of(count));
    let time = |table: &Table, names: &[String]| {
        let begun = Instant::now();
        for step in 0..LOOKUPS {
            black_box(table.route(black_box(&names[step % names.len()])));
        }
        begun.elapsed() / u32::try_from(LOOKUPS).expect("fits")
    };
    let (mut small, mut large) = (Duration::MAX, Duration::MAX);
    for _ in 0..3 {
        small = small.min(time(few, &few_names));
        large = large.min(time(many, &many_names));
    }
    println!("one lookup: {small:?} among 10, {large:?} among {count}");
}

fn changes(many: &Table) {
    let mut times = Vec::new();
    for number in 0..CHANGES {
        let site = SiteId::generate();
        let new = Named {
            hostname: format!("new-{number}.localhost"),
            upstream: "unix:/run/ta3lem/new.sock".to_owned(),
        };
        let reading = Reading {
            scope: Scope::Sites { sites: vec![site], platform: false },
            routes: vec![snapshot::row(site, &new, 1)],
            ..Reading::default()
        };
        let begun = Instant::now();
        let merged = many.merge(reading, false).expect("merges");
        times.push(begun.elapsed());
        drop(black_box(merged));
    }
    times.sort();
    println!("one change: p50 {:?}, max {:?}", times[CHANGES / 2], times[CHANGES - 1]);
}

fn megabytes(process: u32) -> u64 {
    resident_kib(process) * 1024 / 1_000_000
}
