//! The machine of an instance is gone: nothing answers there, not even that nobody listens. The site
//! starts elsewhere, and its requests go along.

use std::net::SocketAddr;

use futures_util::future::join;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::{
    A,
    client::{get, post},
    stack::{Site, Stack},
};

const CONNECT_ERRORS: &str = "router_upstream_connect_errors_total";
const FAST_FAILURES: &str = "router_upstream_fast_failures_total";

/// An address that answers no attempt to connect: its queue is full, and nobody empties it.
struct Silence {
    address: SocketAddr,
    _listener: TcpListener,
    _queued: TcpStream,
}

impl Silence {
    async fn make() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("binds");
        // One fits into a queue of none.
        let listener = socket.listen(0).expect("listens");
        let address = listener.local_addr().expect("has an address");
        let queued = TcpStream::connect(address).await.expect("connects");
        Self { address, _listener: listener, _queued: queued }
    }
}

impl Site {
    async fn starts_at(&self, stack: &Stack, address: &str) {
        sqlx::query("update instance set address = $2 where site_id = $1")
            .bind(self.id.0)
            .bind(address)
            .execute(&mut stack.database.sql().await)
            .await
            .expect("is updated");
    }
}

/// The site was on a machine that is gone now, and the router knows of nothing else.
async fn lost(stack: &Stack, site: &Site, silence: &Silence) {
    let address = format!("tcp:{}", silence.address);
    site.starts_at(stack, &address).await;
    while !stack.admin(&format!("/routes/{A}")).await.contains(&address) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_follow_a_site_whose_machine_is_gone() {
    let stack = Stack::start().await;
    let a = stack.site("alpha", &[A]).await;
    stack.arrived(A).await;
    let home = format!("unix:{}", stack.path("alpha.sock").display());
    let silence = Silence::make().await;

    // The news comes while they still try to connect: they do not try to the end.
    lost(&stack, &a, &silence).await;
    let (read, write_one) = (get(A, "/who"), post(A, "/write", "one"));
    let asking = join(stack.https(A, read.as_bytes()), stack.https(A, write_one.as_bytes()));
    let (answers, ()) = join(asking, async {
        stack.site_until(&a, |seen| seen["requests_in_flight"] == 2).await;
        a.starts_at(&stack, &home).await;
    })
    .await;
    assert_eq!((answers.0.status, &*answers.0.body), (200, "alpha"), "{}", answers.0.raw);
    assert_eq!((answers.1.status, &*answers.1.body), (200, "written"), "{}", answers.1.raw);
    assert!(stack.metric(CONNECT_ERRORS).await < 1.0, "nobody waited for an attempt to fail");

    // It comes after an attempt has failed.
    lost(&stack, &a, &silence).await;
    let write_two = post(A, "/write", "two");
    let (answer, ()) = join(stack.https(A, write_two.as_bytes()), async {
        stack.metric_above(CONNECT_ERRORS, 0.0).await;
        a.starts_at(&stack, &home).await;
    })
    .await;
    assert_eq!((answer.status, &*answer.body), (200, "written"), "{}", answer.raw);
    assert_eq!(a.instance.writes(), ["one", "two"]);
    assert!(stack.log().contains("\"start_ms\":"), "the log has the time: {}", stack.log());

    // It does not come: who waited hears that in the end, and after that everybody at once.
    lost(&stack, &a, &silence).await;
    let fast = stack.metric(FAST_FAILURES).await;
    for _ in 0..2 {
        let answer = stack.https(A, read.as_bytes()).await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("2")));
    }
    assert!(stack.metric(FAST_FAILURES).await > fast);
    assert!(stack.log().contains("an instance cannot be reached"), "{}", stack.log());
    a.starts_at(&stack, &home).await;
    stack.until(A, |answer| answer.body == "alpha", &read).await;
}
