//! Certificates from pebble, the test server of Let's Encrypt, and from a small authority of our own
//! for what pebble lacks. Routers are stood in for by a responder that reads what they read.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use control_types::state::AcmeChallengeKind;
use provisioner::acme::settings::AuthoritySettings;

#[allow(dead_code, reason = "each test file uses its own part of it")]
#[path = "../provisioner/tests/parts/postgres.rs"]
mod postgres;
#[path = "acme/authority.rs"]
mod authority;
#[path = "acme/control.rs"]
mod control;
#[path = "acme/many.rs"]
mod many;
#[path = "acme/processes.rs"]
mod processes;
#[path = "acme/responder.rs"]
mod responder;
#[path = "acme/rig.rs"]
mod rig;
#[path = "acme/tls_server.rs"]
mod tls_server;
#[path = "acme/witness.rs"]
mod witness;

use authority::MockAuthority;
use rig::{Rig, options};
use tests::pebble::{Pebble, PebbleOptions};
use witness::{Deed, Witness};

fn named(pebble: &Pebble, name: &str) -> AuthoritySettings {
    pebble.settings(name).expect("a root")
}

#[tokio::test]
async fn issued_then_renewed_while_the_old_one_serves() {
    let rig = Rig::start().await;
    let pebble = rig.pebble(PebbleOptions { bad_nonces: 40, ..Default::default() }).await;
    rig.want(&["a.example.test"]).await;
    let acme = rig.acme(&[named(&pebble, "pebble")], options("one"));
    let running = rig.run(&acme);
    let first = rig.issued("a.example.test").await;
    assert_eq!(first.issuer, "pebble");
    assert_eq!(rig.n_challenges().await, 0, "challenges go with the order");
    rig.renew("a.example.test").await;
    acme.nudge();
    let second = rig.replaced("a.example.test", &first.chain_pem).await;
    assert_ne!(first.chain_pem, second.chain_pem);
    running.stop().await;
}

#[tokio::test]
async fn two_workers_never_order_twice() {
    let rig = Rig::start().await;
    let pebble = rig.pebble(PebbleOptions { reuse: 0, ..Default::default() }).await;
    let names: Vec<_> = (0..12).map(|n| format!("n{n}.example.test")).collect();
    rig.want(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let one = rig.acme(&[named(&pebble, "pebble")], options("one"));
    let two = rig.acme(&[named(&pebble, "pebble")], options("two"));
    let (first, second) = (rig.run(&one), rig.run(&two));
    for name in &names {
        rig.issued(name).await;
    }
    first.stop().await;
    second.stop().await;
    assert_eq!(pebble.orders().expect("a log"), names.len(), "one order for each name");
    assert_eq!(rig.n_accounts().await, 1, "one account for both");
}

#[tokio::test]
async fn a_killed_workers_order_is_resumed() {
    let rig = Rig::start().await;
    let pebble = rig.pebble(PebbleOptions { sleep: 4, reuse: 0, ..Default::default() }).await;
    rig.want(&["a.example.test"]).await;
    let first = rig.run_doomed(named(&pebble, "pebble"), options("one"));
    let url = rig.ordered("a.example.test").await;
    first.kill();
    let two = rig.acme(&[named(&pebble, "pebble")], options("two"));
    let second = rig.run(&two);
    rig.issued("a.example.test").await;
    second.stop().await;
    assert_eq!(pebble.orders().expect("a log"), 1, "the order {url} was taken up");
}

#[tokio::test]
async fn a_second_order_is_counted_when_nobody_heard_of_the_first() {
    let rig = Rig::start().await;
    let pebble = rig.pebble(PebbleOptions { reuse: 0, ..Default::default() }).await;
    let witness = Witness::start(&pebble).await;
    witness.hold_orders(true);
    rig.want(&["a.example.test"]).await;
    let first = rig.run_doomed(witness.settings(), options("one"));
    witness.until(Deed::TookOrder, 1).await;
    first.kill();
    witness.hold_orders(false);
    let two = rig.acme(&[witness.settings()], options("two"));
    let second = rig.run(&two);
    rig.issued("a.example.test").await;
    second.stop().await;
    let used: Vec<_> = witness.orders().iter().map(|order| order.is_used).collect();
    assert_eq!(used, [false, true], "the first one is lost");
    assert_eq!(witness.n(Deed::Issues), 1);
    assert_eq!(rig.n_unsure().await, 1);
}

#[tokio::test]
async fn who_is_told_to_stop_notes_the_order_before() {
    let rig = Rig::start().await;
    let pebble = rig.pebble(PebbleOptions { reuse: 0, ..Default::default() }).await;
    let witness = Witness::start(&pebble).await;
    witness.hold_orders(true);
    rig.want(&["a.example.test"]).await;
    let one = rig.acme(&[witness.settings()], options("one"));
    let first = rig.run(&one);
    witness.until(Deed::TookOrder, 1).await;
    let stopping = tokio::spawn(first.stop());
    tokio::task::yield_now().await;
    witness.hold_orders(false);
    stopping.await.expect("no panic");
    rig.ordered("a.example.test").await;
    let two = rig.acme(&[witness.settings()], options("two"));
    let second = rig.run(&two);
    rig.issued("a.example.test").await;
    second.stop().await;
    assert_eq!(witness.orders().len(), 1);
    assert_eq!(rig.n_unsure().await, 0);
}

/// `ACME_NAMES=1000 ACME_KILLS=40` makes it long.
#[tokio::test(flavor = "multi_thread")]
async fn many_names_are_issued_once_while_provisioners_are_killed() {
    let size = |name, short| match std::env::var_os(name) {
        Some(size) => size.to_str().and_then(|size| size.parse().ok()).expect("a number"),
        None => short,
    };
    let told = many::all_are_issued_once(size("ACME_NAMES", 40), size("ACME_KILLS", 4)).await;
    println!("{}", told.unwrap_or_else(|error| panic!("{error:?}")));
}

#[tokio::test]
async fn a_failing_name_holds_up_nobody_and_says_why() {
    let rig = Rig::start().await;
    let pebble = rig.pebble(PebbleOptions::default()).await;
    rig.control.dns.fail("silent.example.test").await.expect("is told");
    // The responder answers nothing for names that begin with `unreachable`.
    let bad = ["silent.example.test", "unreachable.example.test"];
    let good: Vec<_> = (0..9).map(|n| format!("n{n}.example.test")).collect();
    rig.want(&bad).await;
    rig.want(&good.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut narrow = options("one");
    narrow.parallel = 2;
    let acme = rig.acme(&[named(&pebble, "pebble")], narrow);
    let running = rig.run(&acme);
    for name in &good {
        rig.issued(name).await;
    }
    assert!(rig.failed("silent.example.test").await.contains("the DNS does not say"));
    let said = rig.failed("unreachable.example.test").await;
    assert!(said.contains("could not see that the name leads here"), "{said}");
    assert!(rig.n_challenges().await == 0);
    running.stop().await;
}

#[tokio::test]
async fn a_name_that_http_cannot_prove_is_proven_by_a_handshake() {
    let rig = Rig::start().await;
    let pebble = rig.pebble(PebbleOptions { reuse: 0, ..Default::default() }).await;
    // The responder answers such names over TLS only.
    rig.want(&["tlsonly.example.test"]).await;
    let acme = rig.acme(&[named(&pebble, "pebble")], options("one"));
    let running = rig.run(&acme);
    rig.issued("tlsonly.example.test").await;
    assert_eq!(rig.challenge("tlsonly.example.test").await, Some(AcmeChallengeKind::TlsAlpn01));
    running.stop().await;
}

#[tokio::test]
async fn the_second_authority_takes_over_and_wants_its_contract() {
    let rig = Rig::start().await;
    let binding = Some("kid-1".to_owned());
    let pebble = rig.pebble(PebbleOptions { binding, ..Default::default() }).await;
    let mut down = named(&pebble, "down");
    down.directory_url = "https://localhost:9/dir".to_owned();
    down.external_account = None;
    rig.want(&["a.example.test"]).await;
    let acme = rig.acme(&[down, named(&pebble, "second")], options("one"));
    let running = rig.run(&acme);
    assert_eq!(rig.issued("a.example.test").await.issuer, "second");
    running.stop().await;

    let mut bare = named(&pebble, "bare");
    bare.external_account = None;
    rig.forget_accounts().await;
    rig.want(&["b.example.test"]).await;
    let acme = rig.acme(&[bare], options("one"));
    let running = rig.run(&acme);
    assert!(rig.failed("b.example.test").await.contains("external_account"));
    running.stop().await;
}

#[tokio::test]
async fn the_authority_says_when_to_renew_and_hears_what_is_replaced() {
    let rig = Rig::start().await;
    let mock = MockAuthority::start().await;
    mock.suggest(Duration::from_secs(30 * 86_400));
    rig.want(&["a.example.test"]).await;
    let acme = rig.acme(&[mock.settings("mock")], options("one"));
    let running = rig.run(&acme);
    let first = rig.issued("a.example.test").await;
    let id = rig.window_of("a.example.test").await;
    assert!(mock.was_asked_for(&id), "asked about {id}");
    assert_eq!(mock.replaced(), Vec::<String>::new());
    // A window in the past means now.
    mock.suggest_past();
    rig.ask_now("a.example.test").await;
    acme.nudge();
    rig.replaced("a.example.test", &first.chain_pem).await;
    assert_eq!(mock.replaced(), vec![id]);
    running.stop().await;
}
