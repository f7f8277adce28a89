//! Stands between the router and a server and sees every byte: which requests the router sends, and
//! how often the server answers. A server that reads other requests than the router wrote answers
//! another number of times.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixListener, UnixStream},
};

use super::{
    judge::Site,
    strict::{Event, Head, Reader},
};

/// Where a server listens.
#[derive(Clone, Debug)]
pub enum Place {
    Unix(PathBuf),
    Tcp(u16),
}

/// One request that the router sent.
#[derive(Debug)]
pub struct Sent {
    pub head: Head,
    pub is_whole: bool,
    /// The status that it was answered with, and whether by the program behind the server.
    pub answer: Option<(u16, bool)>,
}

/// What was seen of one site.
pub struct Journal {
    pub site: Site,
    pub sent: Vec<Sent>,
    pub differences: Vec<String>,
}

pub struct Tap(Arc<Mutex<Journal>>);

impl Tap {
    /// Listens at `path` for connections to `server`.
    pub fn open(path: &Path, server: Place, site: Site) -> Self {
        let journal = Journal { site, sent: Vec::new(), differences: Vec::new() };
        let journal = Arc::new(Mutex::new(journal));
        let listener = UnixListener::bind(path).expect("binds");
        let tap = Self(Arc::clone(&journal));
        tokio::spawn(async move {
            while let Ok((router, _)) = listener.accept().await {
                tokio::spawn(carry(router, server.clone(), Arc::clone(&journal)));
            }
        });
        tap
    }

    pub fn journal(&self) -> MutexGuard<'_, Journal> {
        self.0.lock().expect("not poisoned")
    }
}

async fn carry(router: UnixStream, server: Place, journal: Arc<Mutex<Journal>>) {
    match server {
        Place::Unix(path) => {
            if let Ok(server) = UnixStream::connect(path).await {
                both(router, server, journal).await;
            }
        }
        Place::Tcp(port) => {
            if let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await {
                both(router, server, journal).await;
            }
        }
    }
}

async fn both<S>(router: UnixStream, server: S, journal: Arc<Mutex<Journal>>)
where
    S: AsyncRead + AsyncWrite,
{
    let (mut from_router, mut to_router) = tokio::io::split(router);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let talk = Mutex::new(Talk::default());
    let up = async {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = from_router.read(&mut buffer).await {
            talk.lock().expect("not poisoned").asks(&buffer[..length], &journal);
            if to_server.write_all(&buffer[..length]).await.is_err() {
                // It may have answered before it closed.
                return std::future::pending().await;
            }
        }
    };
    let down = async {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            talk.lock().expect("not poisoned").answers(&buffer[..length], false, &journal);
            if to_router.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
        talk.lock().expect("not poisoned").answers(&[], true, &journal);
    };
    // Whichever ends first ends the connection, as it would without anything between.
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

/// What was said on one connection.
#[derive(Default)]
struct Talk {
    reader: Reader,
    is_broken: bool,
    answered: Vec<u8>,
    // Places in the journal: of the request that is being sent, and of those without an answer.
    sending: Option<usize>,
    waiting: VecDeque<usize>,
}

impl Talk {
    fn asks(&mut self, data: &[u8], journal: &Mutex<Journal>) {
        let mut journal = journal.lock().expect("not poisoned");
        if self.is_broken {
            return;
        }
        let events = match self.reader.read(data) {
            Ok(events) => events,
            Err(error) => {
                self.is_broken = true;
                journal.differences.push(format!("the router sent {error}"));
                return;
            }
        };
        for event in events {
            match event {
                Event::Head(head) => {
                    if !self.waiting.is_empty() {
                        journal.differences.push("a request before the answer".to_owned());
                    }
                    let wrong = journal.site.check(&head);
                    journal.differences.extend(wrong);
                    let place = journal.sent.len();
                    self.sending = Some(place);
                    self.waiting.push_back(place);
                    journal.sent.push(Sent { head, is_whole: false, answer: None });
                }
                Event::Trailers(fields) => {
                    let wrong = journal.site.check_trailers(&fields);
                    journal.differences.extend(wrong);
                }
                Event::End => {
                    if let Some(place) = self.sending.take() {
                        journal.sent[place].is_whole = true;
                    }
                }
            }
        }
    }

    fn answers(&mut self, data: &[u8], closed: bool, journal: &Mutex<Journal>) {
        self.answered.extend(data);
        let mut journal = journal.lock().expect("not poisoned");
        while !self.answered.is_empty() {
            let place = self.waiting.front().copied();
            let is_head = place.is_some_and(|place| journal.sent[place].head.method == "HEAD");
            let Some((status, of_program, length)) = answer(&self.answered, is_head, closed) else {
                return;
            };
            let text = String::from_utf8_lossy(&self.answered[..length]).into_owned();
            self.answered.drain(..length);
            if (100..200).contains(&status) {
                continue;
            }
            match self.waiting.pop_front() {
                Some(place) => journal.sent[place].answer = Some((status, of_program)),
                None => {
                    journal.differences.push(format!("an answer that nobody asked for: {text}"))
                }
            }
        }
    }
}

/// The whole answer that `bytes` begins with: its status, whether the program behind the server gave
/// it, its length.
fn answer(bytes: &[u8], is_head: bool, closed: bool) -> Option<(u16, bool, usize)> {
    let end = bytes.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let value = |name: &str| {
        head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
    };
    let of_program = value("x-program").is_some();
    let rest = &bytes[end..];
    let length = if is_head || matches!(status, 100..200 | 204 | 304) {
        0
    } else if value("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
        let end = rest.windows(5).position(|end| end == b"0\r\n\r\n")?;
        end + 5
    } else if let Some(length) = value("content-length").and_then(|text| text.parse().ok()) {
        length
    } else if closed {
        rest.len()
    } else {
        return None;
    };
    (rest.len() >= length).then_some((status, of_program, end + length))
}
