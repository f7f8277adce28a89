//! A server of our own: reads strictly, notes what it reads, answers with the target.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, UnixListener},
};

use super::{
    judge::Report,
    strict::{Event, Reader},
};

#[derive(Clone, Default)]
pub struct Recorder {
    reports: Arc<Mutex<Vec<Report>>>,
}

impl Recorder {
    /// Behind another server.
    pub async fn over_tcp() -> (Self, u16) {
        let recorder = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let port = listener.local_addr().expect("has an address").port();
        let inside = recorder.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(inside.clone().serve(stream));
            }
        });
        (recorder, port)
    }

    pub fn at(path: &std::path::Path) -> Self {
        let recorder = Self::default();
        let listener = UnixListener::bind(path).expect("listens");
        let inside = recorder.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(inside.clone().serve(stream));
            }
        });
        recorder
    }

    pub fn reports(&self) -> Vec<Report> {
        self.reports.lock().expect("not poisoned").clone()
    }

    async fn serve(self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let (mut reader, mut buffer) = (Reader::default(), vec![0; 16 * 1024]);
        let (mut head, mut place) = (None, 0);
        while let Ok(length @ 1..) = stream.read(&mut buffer).await {
            let Ok(events) = reader.read(&buffer[..length]) else {
                let refusal = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
                let _ = stream.write_all(refusal).await;
                return;
            };
            for event in events {
                match event {
                    Event::Head(read) => {
                        let (id, fields) =
                            (read.one("x-request-id").to_owned(), read.fields.clone());
                        let mut reports = self.reports.lock().expect("not poisoned");
                        place = reports.len();
                        reports.push(Report { id, fields });
                        head = Some(read);
                    }
                    Event::Trailers(fields) => {
                        let mut reports = self.reports.lock().expect("not poisoned");
                        reports[place].fields.extend(fields);
                    }
                    Event::End => {
                        let Some(head) = head.take() else { continue };
                        let body = if head.method == "HEAD" { "" } else { &head.target };
                        let answer = format!(
                            "HTTP/1.1 200 OK\r\nx-program: recorder\r\ncontent-length: {}\r\n\r\n{body}",
                            head.target.len(),
                        );
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }
}
