//! Other clients, by hand: `HTTP3_COMMAND='...' cargo test -p router --test http3 -- --ignored by_hand
//! --nocapture` runs a command against a router that speaks HTTP/3, with `$HOST`, `$PORT` (UDP),
//! `$TCP_PORT` and `$AUTHORITY` (a PEM file) for it, and shows what the router logged.

use std::process::Command;

use crate::{A, stack::Stack};

#[allow(clippy::disallowed_methods, reason = "the command is given by hand")]
fn command() -> String {
    std::env::var("HTTP3_COMMAND").expect("HTTP3_COMMAND says what to run")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a command"]
async fn by_hand() {
    let stack = Stack::start_with_http3(serde_json::json!({})).await;
    stack.site("alpha", &[A]).await;
    stack.arrived(A).await;
    let authority = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(authority.path(), stack.authority_pem()).expect("writes");
    let mut shell = Command::new("sh");
    shell.args(["-c", &command()]).env("HOST", A).env("AUTHORITY", authority.path());
    shell.env("PORT", stack.http3().port().to_string());
    shell.env("TCP_PORT", stack.https_port().to_string());
    let ended = tokio::task::spawn_blocking(move || shell.status()).await.expect("is waited for");
    println!("{}", ended.expect("runs"));
    for line in stack.log().lines().filter(|line| line.contains("\"target\":\"access\"")) {
        println!("{line}");
    }
}
