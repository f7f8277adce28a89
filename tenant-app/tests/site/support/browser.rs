//! A browser without JavaScript: cookies, forms with their tokens, nothing followed by itself.

use std::{collections::BTreeMap, path::PathBuf};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use uuid::Uuid;

const HOST: &str = "acme.localhost:8443";
const BOUNDARY: &str = "----a-boundary-of-the-tests";

pub struct Browser {
    socket: PathBuf,
    pub site: String,
    pub generation: String,
    pub cookies: BTreeMap<String, String>,
}

pub struct Page {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Page {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The token of the first form.
    pub fn token(&self) -> String {
        let text = self.text();
        let after = text.split("name=\"csrf\" value=\"").nth(1).unwrap_or_default();
        after.split('"').next().unwrap_or_default().to_owned()
    }

    /// The first address that begins so.
    pub fn link(&self, beginning: &str) -> String {
        let text = self.text();
        let after = text.split(&format!("\"{beginning}")).nth(1).expect("a link");
        format!("{beginning}{}", after.split('"').next().unwrap_or_default())
    }
}

/// A part of a multipart form.
pub enum Part<'a> {
    Text(&'a str, &'a str),
    File(&'a str, &'a str, &'a [u8]),
}

impl Browser {
    pub fn new(socket: PathBuf, site: Uuid, generation: i64) -> Self {
        Self {
            socket,
            site: site.to_string(),
            generation: generation.to_string(),
            cookies: BTreeMap::new(),
        }
    }

    pub async fn get(&mut self, path: &str) -> Page {
        self.get_with(path, &[]).await
    }

    pub async fn get_with(&mut self, path: &str, headers: &[(&str, &str)]) -> Page {
        self.send("GET", path, headers, Bytes::new()).await
    }

    /// Sends a form with the token of the page that it is on.
    pub async fn submit(&mut self, page: &Page, path: &str, fields: &[(&str, &str)]) -> Page {
        let token = page.token();
        let mut all = vec![("csrf", token.as_str())];
        all.extend_from_slice(fields);
        self.post(path, &all, &[]).await
    }

    pub async fn post(
        &mut self,
        path: &str,
        fields: &[(&str, &str)],
        headers: &[(&str, &str)],
    ) -> Page {
        let body =
            url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let mut all = vec![("content-type", "application/x-www-form-urlencoded")];
        all.extend_from_slice(headers);
        self.send("POST", path, &all, body.into()).await
    }

    pub async fn upload(&mut self, path: &str, parts: &[Part<'_>]) -> Page {
        let mut body = Vec::new();
        for part in parts {
            let (head, bytes) = match part {
                Part::Text(name, text) => (format!("name=\"{name}\""), text.as_bytes()),
                Part::File(name, file, bytes) => {
                    (format!("name=\"{name}\"; filename=\"{file}\""), *bytes)
                }
            };
            let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; {head}\r\n\r\n");
            body.extend_from_slice(head.as_bytes());
            body.extend_from_slice(bytes);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
        let kind = format!("multipart/form-data; boundary={BOUNDARY}");
        self.send("POST", path, &[("content-type", &kind)], body.into()).await
    }

    /// Sends whatever is wanted, with the cookies of this browser.
    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Page {
        let mut request = Request::builder().method(method).uri(path).header("host", HOST);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !self.site.is_empty() {
            request = request.header("ta3lem-site", &self.site);
            request = request.header("ta3lem-generation", &self.generation);
        }
        request = request.header("x-forwarded-for", "192.0.2.1").header("x-request-id", "r-1");
        if !self.cookies.is_empty() {
            let pairs: Vec<_> = self.cookies.iter().map(|(k, v)| format!("{k}={v}")).collect();
            request = request.header("cookie", pairs.join("; "));
        }
        let request = request.body(Full::new(body)).expect("a request");
        let stream = UnixStream::connect(&self.socket).await.expect("a connection");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
        let connection = tokio::spawn(connection);
        let response = sender.send_request(request).await.expect("an answer");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        drop(sender);
        let _ = connection.await;
        self.keep_cookies(&parts.headers);
        Page { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    fn keep_cookies(&mut self, headers: &HeaderMap) {
        for cookie in headers.get_all("set-cookie") {
            let text = cookie.to_str().expect("a cookie");
            assert!(text.starts_with("__Host-") && text.contains("; Secure; HttpOnly"), "{text}");
            let (name, value) =
                text.split(';').next().and_then(|c| c.split_once('=')).expect("one");
            if text.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
    }
}
