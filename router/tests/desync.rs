//! Payloads that are odd in every way, through the real router, to a server that reads as strictly as
//! one can, to an instance, and by hand (`desync/run.sh`) to other people's servers: none of them
//! sees another request than the router sent, and the router sends nothing that it must not.

#![allow(clippy::expect_used, clippy::panic, reason = "a test ends where it is disappointed")]
#![allow(dead_code, reason = "the parts are shared, and this uses some of them")]

#[path = "edge/client.rs"]
mod client;
#[path = "edge/control_database.rs"]
mod control_database;
#[path = "edge/frames.rs"]
mod frames;
#[path = "edge/instance.rs"]
mod instance;
#[path = "edge/stack.rs"]
mod stack;
#[path = "desync/chance.rs"]
mod chance;
#[path = "desync/http1.rs"]
mod http1;
#[path = "desync/http2.rs"]
mod http2;
#[path = "desync/judge.rs"]
mod judge;
#[path = "desync/recorder.rs"]
mod recorder;
#[path = "desync/servers.rs"]
mod servers;
#[path = "desync/strict.rs"]
mod strict;
#[path = "desync/tap.rs"]
mod tap;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use chance::Chance;
use client::{Stream, trusting};
use futures_util::{StreamExt, stream};
use judge::{Outcome, Site, compare};
use rustls::ClientConfig;
use servers::Server;
use stack::Stack;
use tap::{Place, Tap};

/// Payloads in every run of the tests.
const FEW: u32 = 400;
/// Payloads by hand.
const MANY: u32 = 10_000;
const SEED: u64 = 1;
/// Who is asked by hand.
const SERVERS: [&str; 9] = [
    "nginx",
    "apache2",
    "haproxy",
    "node",
    "gunicorn",
    "tenant-app",
    "recorder",
    "waitress",
    "aiohttp",
];
/// Payloads on their way at once.
const AT_ONCE: usize = 24;
/// A client hears no more after this, and leaves.
const QUIET: Duration = Duration::from_millis(400);
const PATIENCE: Duration = Duration::from_secs(30);

#[allow(clippy::disallowed_methods, reason = "what is sent is said by hand")]
fn asked<T: std::str::FromStr>(name: &str, usual: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

fn hostname(name: &str) -> String {
    format!("{name}.platform.test")
}

/// Clients that resume their sessions: a handshake is most of the time otherwise.
struct Clients {
    https: SocketAddr,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

impl Clients {
    fn of(stack: &Stack) -> Self {
        let doors = stack.doors();
        let speaking = |protocols| Arc::new(trusting(&doors.authority, true, protocols));
        Self { https: doors.https, http1: speaking(&[]), http2: speaking(&[b"h2"]) }
    }
}

/// Sends the payload of this number; what the client heard of another one's.
async fn send(clients: &Clients, host: &str, seed: u64, number: u32) -> Option<String> {
    let (begun, mut chance) = (Instant::now(), Chance::new(seed, number));
    let (config, payload) = if number.is_multiple_of(5) {
        (&clients.http2, http2::payload(&mut chance, host, number))
    } else {
        (&clients.http1, http1::payload(&mut chance, host, number))
    };
    // On a machine that has too much to do a handshake may take too long for the router.
    let mut stream = loop {
        match Stream::resumed(clients.https, host, config).await {
            Ok(stream) => break stream,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "no handshake: {error}"),
        }
    };
    // The router may answer and close before it has taken everything.
    let _ = stream.send_bytes(&payload).await;
    let heard = stream.read_until_quiet(QUIET, format!("/p/{number}/end").as_bytes()).await;
    let heard = String::from_utf8_lossy(&heard);
    let own = format!("{number}/");
    let strange = heard.split("/p/").skip(1).find(|rest| !rest.starts_with(&own))?;
    Some(format!("a client heard of {:?}", strange.chars().take(20).collect::<String>()))
}

/// Sends all payloads to the site and judges what came of it.
async fn run(clients: &Clients, server: &Server, tap: &Tap, seed: u64, numbers: &[u32]) -> Outcome {
    let host = hostname(server.name);
    let strange: Vec<(u32, String)> = stream::iter(numbers.iter().copied())
        .map(|number| {
            let host = &host;
            async move { Some((number, send(clients, host, seed, number).await?)) }
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(std::future::ready)
        .collect()
        .await;
    let begun = Instant::now();
    loop {
        let mut outcome = {
            let journal = tap.journal();
            compare(&journal, server.reports().as_deref())
        };
        // The last ones may be on their way still.
        if outcome.differences.is_empty() || begun.elapsed() > PATIENCE {
            let told = strange.iter().map(|(number, text)| format!("{number}: {text}"));
            outcome.differences.extend(told);
            return outcome;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A router with a site for the server.
async fn site(stack: &Stack, name: &str) -> (Site, std::path::PathBuf) {
    let (host, socket) = (hostname(name), stack.path(&format!("{name}.tap")));
    let id = stack.site_at(name, &host, &socket).await;
    stack.arrived(&host).await;
    (Site { id: id.to_string(), hostname: host }, socket)
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_behind_the_router_reads_another_request_than_it_sent() {
    let stack = Stack::start().await;
    let numbers: Vec<u32> = (0..FEW).collect();
    let recorder = Server::recorder(&stack.path(""));
    let (facts, socket) = site(&stack, recorder.name).await;
    let tap = Tap::open(&socket, recorder.place.clone(), facts);
    let clients = Clients::of(&stack);
    let outcome = run(&clients, &recorder, &tap, SEED, &numbers).await;
    assert!(outcome.differences.is_empty(), "{outcome:#?}");
    assert!(outcome.sent > numbers.len() / 4, "most are of use: {outcome:#?}");
    assert!(outcome.sent > outcome.cut && outcome.reported > Some(0), "{outcome:#?}");

    // The instance of the other stories answers as many requests as were sent.
    let (facts, socket) = site(&stack, "instance").await;
    let place = stack.path("instance.sock");
    let instance = instance::Instance::start(&place, "instance", &facts.id).await;
    let tap = Tap::open(&socket, Place::Unix(place), facts);
    let answered = AtomicUsize::new(0);
    stream::iter(numbers)
        .for_each_concurrent(AT_ONCE, |number| {
            let (clients, answered) = (&clients, &answered);
            async move {
                let strange = send(clients, &hostname("instance"), SEED, number).await;
                assert_eq!(strange, None, "{number}");
                answered.fetch_add(1, Ordering::Relaxed);
            }
        })
        .await;
    assert_eq!(answered.load(Ordering::Relaxed), FEW as usize);
    let outcome = compare(&tap.journal(), None);
    assert!(outcome.differences.is_empty(), "{outcome:#?}");
    assert!(instance.requests().len() <= outcome.sent, "{outcome:#?}");
}

/// `router/tests/desync/run.sh` installs the servers and runs this.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs other people's servers: router/tests/desync/run.sh"]
async fn ten_thousand() {
    let stack = Stack::start().await;
    let (seed, payloads) = (asked("DESYNC_SEED", SEED), asked("DESYNC_PAYLOADS", MANY));
    let only: String = asked("DESYNC_ONLY", String::new());
    let numbers: Vec<u32> = match asked("DESYNC_NUMBER", u32::MAX) {
        u32::MAX => (0..payloads).collect(),
        number => vec![number],
    };
    println!("{} payloads with seed {seed}", numbers.len());
    println!("              sent     cut  answered refused    seen  differences");
    let clients = Clients::of(&stack);
    let mut worse = 0;
    assert!(only.is_empty() || SERVERS.contains(&&*only), "{only} is none of {SERVERS:?}");
    for name in SERVERS {
        if !only.is_empty() && only != name {
            continue;
        }
        let (facts, socket) = site(&stack, name).await;
        let directory = stack.path(name);
        std::fs::create_dir(&directory).expect("makes a directory");
        let server = match name {
            "recorder" => Server::recorder(&directory),
            "nginx" | "apache2" | "haproxy" => Server::proxy(name, &directory).await,
            "tenant-app" => Server::instance(&directory, &facts).await,
            name => Server::program(name, &directory).await,
        };
        let tap = Tap::open(&socket, server.place.clone(), facts);
        let outcome = run(&clients, &server, &tap, seed, &numbers).await;
        let Outcome { sent, cut, answered, refused, reported, differences } = outcome;
        let seen = reported.map_or("-".to_owned(), |reported| reported.to_string());
        let number = differences.len();
        println!("{name:10} {sent:7} {cut:7} {answered:9} {refused:7} {seen:>7}  {number}");
        differences.iter().take(20).for_each(|difference| println!("    {difference}"));
        worse += differences.len();
    }
    // Why clients had to connect again, if they had to.
    let metrics = stack.admin("/metrics").await;
    let refused = ["router_handshake_errors_total", "router_connections_refused_total"];
    for line in metrics.lines().filter(|line| refused.iter().any(|name| line.starts_with(name))) {
        println!("{line}");
    }
    assert_eq!(worse, 0);
}
