//! The process itself: whose requests it takes, when it ends, how it gives its socket back.

use std::{
    io::IoSliceMut,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::net::UnixStream},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt::socket_acceptconn,
};
use uuid::Uuid;

use crate::support::{Site, Starting};

#[tokio::test]
async fn requests_of_another_site_or_generation_are_refused() {
    let site = Site::start().await;
    let mut browser = site.browser();

    browser.site = Uuid::now_v7().to_string();
    let page = browser.get("/").await;
    assert_eq!((page.status, page.header("ta3lem-refused")), (421, "site"));

    browser.site = site.id.to_string();
    browser.generation = "2".to_owned();
    let page = browser.get("/").await;
    assert_eq!((page.status, page.header("ta3lem-refused")), (421, "generation"));
    assert_eq!(page.header("ta3lem-serves-generation"), "3");

    browser.site = String::new();
    assert_eq!(browser.get("/courses").await.status, 421);
    assert_eq!(browser.get("/livez").await.status, 200);
    assert_eq!(browser.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn another_sites_database_is_never_used() {
    let stranger = Starting { authority_site: Some(Uuid::now_v7()), ..Starting::default() };
    let site = Site::start_as(stranger).await;
    let page = site.browser().get("/").await;
    assert_eq!(page.status, 500);
    assert!(!page.text().contains("Akademi"), "{}", page.text());
    assert_eq!(site.browser().get("/readyz").await.status, 503);
}

#[tokio::test]
async fn a_database_that_moved_on_says_so() {
    let site = Site::start_as(Starting { authority_generation: 4, ..Starting::default() }).await;
    let page = site.browser().get("/").await;
    assert_eq!((page.status, page.header("ta3lem-refused")), (421, "generation"));
    assert_eq!(page.header("ta3lem-serves-generation"), "4");
}

#[tokio::test]
async fn while_fenced_reading_goes_on_and_writing_is_told_apart() {
    let site = Site::start().await;
    let mut browser = site.signed_in("budi").await;
    site.sql(
        "revoke insert, update, delete on all tables in schema public from site_rw;
         update session set last_seen_at = now() - interval '2 hours';",
    )
    .await;
    let page = browser.get("/").await;
    assert_eq!(page.status, 200);
    assert!(page.text().contains("budi@acme.test"), "still signed in");
    let answer = browser.submit(&page, "/sign-out", &[]).await;
    assert_eq!((answer.status, answer.header("ta3lem-refused")), (503, "fenced"));
    assert_eq!(answer.header("retry-after"), "2");
    assert!(answer.text().contains("Akademi Acme"));
}

#[tokio::test]
async fn idle_it_ends_and_what_came_meanwhile_is_answered_by_the_next() {
    let mut site = Site::start_as(Starting { idle_exit_secs: 1, ..Starting::default() }).await;
    assert_eq!(site.browser().get("/").await.status, 200);
    assert_eq!(site.ended().await.code(), Some(0));
    // The server learns of the process's end a moment after we do, and tells nobody.
    for attempt in 0.. {
        let left = site
            .count(
                "select count(*) from pg_stat_activity where application_name = 'tenant-app'
                        and datname = current_database()",
            )
            .await;
        if left == 0 {
            break;
        }
        assert!(attempt < 500, "{left} connections are left");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let mut browser = site.browser();
    let waiting = tokio::spawn(async move { browser.get("/").await.status });
    site.wake();
    assert_eq!(waiting.await.expect("an answer"), 200);
}

#[tokio::test]
async fn told_to_end_it_finishes_and_ends() {
    let mut site = Site::start().await;
    assert_eq!(site.browser().get("/").await.status, 200);
    site.terminate();
    assert_eq!(site.ended().await.code(), Some(0));
}

#[tokio::test]
async fn wrong_configuration_ends_it_with_64() {
    let mut site = Site::start().await;
    assert_eq!(site.started_with("{\"site_id\":1}").await, Some(64));
    assert_eq!(site.started_with("").await, Some(64));
}

#[tokio::test]
async fn its_memory_cannot_be_read() {
    let site = Site::start().await;
    assert_eq!(site.browser().get("/livez").await.status, 200);
    let status = std::fs::read_to_string(format!("/proc/{}/status", site.process_id()));
    assert!(status.expect("a status").contains("NoNewPrivs:\t1"));
    let command = std::fs::read(format!("/proc/{}/cmdline", site.process_id())).expect("a command");
    assert!(!String::from_utf8_lossy(&command).contains("secret"));
}

#[tokio::test]
async fn the_listening_socket_is_handed_back() {
    let site = Site::start().await;
    assert_eq!(site.browser().get("/livez").await.status, 200);
    let control = site.control_socket();
    let listening = tokio::task::spawn_blocking(move || receive(&control)).await.expect("a socket");
    assert!(socket_acceptconn(&listening).expect("an option"));
    let address = rustix::net::getsockname(&listening).expect("an address");
    let address = rustix::net::SocketAddrUnix::try_from(address).expect("a unix address");
    let path = address.path().expect("a path").to_string_lossy().into_owned();
    assert_eq!(path, site.socket().to_string_lossy());
}

fn receive(control: &std::path::Path) -> OwnedFd {
    let stream = UnixStream::connect(control).expect("a connection");
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut buffer = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut byte)];
    let got = recvmsg(&stream, &mut slices, &mut buffer, RecvFlags::CMSG_CLOEXEC);
    assert_eq!(got.expect("a message").bytes, 1);
    let mut messages = buffer.drain();
    match messages.next() {
        Some(RecvAncillaryMessage::ScmRights(mut descriptors)) => {
            descriptors.next().expect("a descriptor")
        }
        _ => panic!("no descriptor came"),
    }
}
