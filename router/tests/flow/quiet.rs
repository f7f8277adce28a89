//! Connections that say nothing for a while: the router keeps no buffers for them, and they go on.

use crate::{
    A,
    client::{Stream, ask_for_websocket, keep},
    stack::Stack,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_connection_goes_on_whatever_comes_next() {
    let mut stack = Stack::start().await;
    let _a = stack.site("alpha", &[A]).await;
    stack.arrived(A).await;

    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = stack.connect(A).await;
        ask(&mut client).await;
        clients.push(client);
    }
    // One that never says a word.
    let mut silent = stack.connect(A).await;
    quiet(&stack, 5).await;
    let [mut slow, mut socket, mut gone, mut kept] =
        <[_; 4]>::try_from(clients).ok().expect("are four");

    // A head in two pieces, with more than a look of the router between them, twice.
    for half in ["GET /who HT", "GET /who HTTP/1.1\r\nHost: "] {
        slow.send(half.to_owned()).await;
        quiet(&stack, 4).await;
        let whole = keep(A, "/who");
        // Nobody can see that the router has looked again, so others are waited for.
        ask(&mut kept).await;
        quiet(&stack, 4).await;
        slow.send(whole.strip_prefix(half).expect("begins so").to_owned()).await;
        slow.read_until("alpha").await;
        quiet(&stack, 5).await;
    }

    socket.send(ask_for_websocket(A, "/socket")).await;
    socket.read_until("101 Switching Protocols").await;
    for word in ["hello", "again"] {
        socket.send(word.to_owned()).await;
        socket.read_until(word).await;
    }

    // Two requests in one piece.
    let request = keep(A, "/who");
    gone.send(request.repeat(2)).await;
    gone.read_until("alpha").await;
    gone.read_until("alpha").await;
    quiet(&stack, 4).await;
    drop(gone);
    quiet(&stack, 3).await;

    stack.tell_router_to_stop();
    for client in [&mut slow, &mut kept, &mut silent] {
        client.read_farewell().await;
    }
    drop(socket);
    assert!(stack.stop_router().await.0);
}

async fn ask(client: &mut Stream) {
    client.send(keep(A, "/who")).await;
    client.read_until("alpha").await;
}

/// Waits until so many connections are quiet.
async fn quiet(stack: &Stack, count: u32) {
    stack.metric_until("router_quiet_connections", |value| value == f64::from(count)).await;
}
