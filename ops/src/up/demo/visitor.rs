//! A person's browser, as far as the demo needs one: it signs in and imports courses over HTTPS.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Context as _, bail, ensure};
use reqwest::{Certificate, RequestBuilder, Response, StatusCode, header, redirect};

use super::content::Course;
use crate::data_dir::random_secret;

/// A course with its videos takes a moment.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Whether an import changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Imported {
    /// The course is new.
    New,
    /// There was one with this slug.
    WasThere,
}

/// Somebody at a site.
pub struct Visitor {
    http: reqwest::Client,
    url: String,
    cookies: BTreeMap<String, String>,
}

impl Visitor {
    /// At the site with this URL, trusting the local authority (PEM). The hostname need not resolve:
    /// the router is asked that listens at the URL's port.
    ///
    /// # Errors
    /// When the URL or the certificate cannot be used.
    pub fn new(url: &str, authority: &[u8], routers: &[String]) -> anyhow::Result<Self> {
        let parsed: reqwest::Url = url.parse().context("not a URL")?;
        let host = parsed.host_str().context("a URL has a host")?;
        let port = parsed.port_or_known_default().unwrap_or(443);
        let addresses = routers.iter().filter_map(|router| router.parse::<SocketAddr>().ok());
        let address = addresses.into_iter().find(|address| address.port() == port);
        let address = address.with_context(|| format!("no router listens at port {port}"))?;
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .add_root_certificate(Certificate::from_pem(authority)?)
            .resolve(host, address)
            .timeout(TIMEOUT)
            .build()?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), cookies: BTreeMap::new() })
    }

    /// Signs in.
    ///
    /// # Errors
    /// When the site does not answer as it should, or refuses.
    pub async fn sign_in(mut self, email: &str, password: &str) -> anyhow::Result<Self> {
        let csrf = self.csrf_of("/sign-in").await?;
        let form = [("csrf", csrf.as_str()), ("email", email), ("password", password)];
        let request = self.http.post(format!("{}/sign-in", self.url)).form(&form);
        let answer = self.send(request).await?;
        ensure!(answer.status().is_redirection(), "{}", in_words(answer).await);
        Ok(self)
    }

    /// Imports a course.
    ///
    /// # Errors
    /// When the site refuses it: its reasons are in the error.
    pub async fn import(&mut self, course: &Course) -> anyhow::Result<Imported> {
        let csrf = self.csrf_of("/studio").await?;
        let boundary = random_secret();
        let body = multipart(&boundary, &csrf, course);
        let request = self
            .http
            .post(format!("{}/studio/import", self.url))
            .header(header::CONTENT_TYPE, format!("multipart/form-data; boundary={boundary}"))
            .header(header::ACCEPT, "application/json")
            .body(body);
        let answer = self.send(request).await?;
        match answer.status() {
            status if status.is_redirection() || status.is_success() => Ok(Imported::New),
            StatusCode::CONFLICT => Ok(Imported::WasThere),
            _ => bail!("{}", in_words(answer).await),
        }
    }

    async fn csrf_of(&mut self, path: &str) -> anyhow::Result<String> {
        let answer = self.send(self.http.get(format!("{}{path}", self.url))).await?;
        let status = answer.status();
        ensure!(status.is_success(), "GET {path}: {}", in_words(answer).await);
        let page = answer.text().await?;
        csrf_in(&page).with_context(|| format!("the page {path} has no form"))
    }

    async fn send(&mut self, request: RequestBuilder) -> anyhow::Result<Response> {
        let cookies: Vec<_> =
            self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let answer = request.header(header::COOKIE, cookies.join("; ")).send().await?;
        for cookie in answer.headers().get_all(header::SET_COOKIE) {
            let cookie = cookie.to_str().unwrap_or_default();
            let pair = cookie.split(';').next().and_then(|pair| pair.split_once('='));
            if let Some((name, value)) = pair {
                self.cookies.insert(name.trim().to_owned(), value.trim().to_owned());
            }
        }
        Ok(answer)
    }
}

async fn in_words(answer: Response) -> String {
    let (url, status) = (answer.url().path().to_owned(), answer.status());
    let text = answer.text().await.unwrap_or_default();
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    format!("{url} answered {status}: {}", text.chars().take(600).collect::<String>())
}

/// The token in a page's first form.
fn csrf_in(page: &str) -> Option<String> {
    let inputs = page.split("<input").skip(1).filter_map(|rest| rest.split('>').next());
    let input = inputs
        .into_iter()
        .find(|input| attribute(input, "name").is_some_and(|name| name == "csrf"))?;
    attribute(input, "value").filter(|value| !value.is_empty()).map(str::to_owned)
}

fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
    rest.split('"').next()
}

fn multipart(boundary: &str, csrf: &str, course: &Course) -> Vec<u8> {
    let mut body = Vec::new();
    let mut part = |head: &str, content: &[u8]| {
        body.extend(
            format!("--{boundary}\r\ncontent-disposition: form-data; {head}\r\n\r\n").bytes(),
        );
        body.extend(content);
        body.extend(b"\r\n");
    };
    part("name=\"csrf\"", csrf.as_bytes());
    part("name=\"course\"\r\ncontent-type: application/json", course.json);
    for (path, content) in &course.files {
        let kind = media_type(path);
        part(&format!("name=\"file\"; filename=\"{path}\"\r\ncontent-type: {kind}"), content);
    }
    body.extend(format!("--{boundary}--\r\n").bytes());
    body
}

fn media_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("png") => "image/png",
        Some("webp") => "image/webp",
        Some("svg") => "image/svg+xml",
        Some("pdf") => "application/pdf",
        Some("csv") => "text/csv",
        Some("webm") => "video/webm",
        Some("mp4") => "video/mp4",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_found_in_any_order_of_attributes() {
        let page =
            r#"<form><input name="q" value="x"><input type="hidden" name="csrf" value="abc">"#;
        assert_eq!(csrf_in(page).as_deref(), Some("abc"));
        let page = r#"<input value="abc" type="hidden" name="csrf" />"#;
        assert_eq!(csrf_in(page).as_deref(), Some("abc"));
        assert_eq!(csrf_in("<p>none</p>"), None);
    }
}
