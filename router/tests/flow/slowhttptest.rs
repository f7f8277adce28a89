//! What Debian's slowhttptest says of the router in its four modes. It speaks no TLS with a server name,
//! so it believes that it goes through a proxy, which is a door here that adds the TLS.

use std::{
    net::SocketAddr,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpSocket, TcpStream},
};
use tokio_rustls::TlsConnector;

use crate::{A, B, client::trusting, get, stack::Stack};

const CONNECTIONS: usize = 300;
/// How little the door takes of an answer before its own client has taken it, in bytes.
const DOOR_BUFFER: u32 = 4_096;

/// How long each connection lived.
type Lives = Arc<Mutex<Vec<Duration>>>;

async fn door(to: SocketAddr, config: ClientConfig) -> (SocketAddr, Lives) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let address = listener.local_addr().expect("has an address");
    let (lives, config) = (Lives::default(), Arc::new(config));
    let noted = Arc::clone(&lives);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (lives, config) = (Arc::clone(&noted), Arc::clone(&config));
            tokio::spawn(async move {
                let begun = Instant::now();
                let _ = carry(&mut client, to, config).await;
                lives.lock().expect("not poisoned").push(begun.elapsed());
            });
        }
    });
    (address, lives)
}

async fn carry(
    client: &mut TcpStream,
    to: SocketAddr,
    config: Arc<ClientConfig>,
) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(DOOR_BUFFER)?;
    let router = socket.connect(to).await?;
    let name = ServerName::try_from(A).expect("is a name");
    let mut router = TlsConnector::from(config).connect(name, router).await?;
    copy_bidirectional(client, &mut router).await?;
    Ok(())
}

/// By hand, since it takes five minutes and needs Debian's `slowhttptest`:
/// `cargo test -p router --test flow -- --ignored slow_clients --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs slowhttptest, and takes minutes"]
async fn slow_clients_hold_nothing_for_long() {
    let stack = Stack::start().await;
    let _a = stack.site("alpha", &[A]).await;
    let _b = stack.site("beta", &[B]).await;
    stack.arrived(A).await;
    stack.arrived(B).await;
    let doors = stack.doors();
    for (mode, path) in
        [("-H", "/who"), ("-B", "/sink"), ("-X", "/large?50000000"), ("-R", "/large?200000")]
    {
        let (door, lives) = door(doors.https, trusting(&doors.authority, true, &[])).await;
        let mut attack = Command::new("slowhttptest");
        attack.args([mode, "-c", &CONNECTIONS.to_string(), "-r", "100", "-i", "10", "-l", "60"]);
        attack.args(["-n", "5", "-z", "16", "-w", "10", "-y", "64", "-p", "5"]);
        attack.args(["-d", &door.to_string(), "-u", &format!("http://{A}{path}")]);
        let attack = attack.stdout(Stdio::null()).spawn();
        let mut attack = attack.expect("slowhttptest is installed");
        let (mut answers, mut slowest, mut most) = (0, Duration::ZERO, 0.0_f64);
        while attack.try_wait().expect("is a child").is_none() {
            let begun = Instant::now();
            let answer = stack.https(B, get(B, "/who").as_bytes()).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, "beta"), "{mode}");
            slowest = slowest.max(begun.elapsed());
            answers += 1;
            most = most.max(connections(&stack).await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let lives = lives.lock().expect("not poisoned").clone();
        let longest = lives.iter().max().copied().unwrap_or_default();
        println!(
            "{mode}: {} connections, {most} at once, the longest lived {longest:.1?}; others: \
             {answers} answers, the slowest in {slowest:.1?}",
            lives.len(),
        );
    }
}

async fn connections(stack: &Stack) -> f64 {
    let text = stack.admin("/metrics").await;
    let number = text.lines().find_map(|line| line.strip_prefix("router_connections "));
    number.and_then(|number| number.parse().ok()).unwrap_or(0.0)
}
