//! Somebody who visits sites over HTTPS without JavaScript: keeps cookies, follows links, fills
//! forms in.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use reqwest::{
    Certificate, Client, Response,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect::Policy,
};

/// A visitor.
#[derive(Clone)]
pub struct Visitor {
    http: Client,
}

/// Sends every name to this machine, as browsers do with names below `localhost`.
struct Loopback;

impl Resolve for Loopback {
    fn resolve(&self, _: Name) -> Resolving {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Box::pin(async move { Ok(Box::new(std::iter::once(address)) as Addrs) })
    }
}

impl Visitor {
    /// A visitor who trusts the authority whose certificate lies in this file, and nobody else.
    ///
    /// # Errors
    /// When the file is no certificate.
    pub fn new(authority: &Path) -> Result<Self> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let pem = std::fs::read(authority).context("the authority's certificate")?;
        let http = Client::builder()
            .add_root_certificate(Certificate::from_pem(&pem)?)
            .dns_resolver(Arc::new(Loopback))
            .redirect(Policy::none())
            .cookie_store(true)
            .build()?;
        Ok(Self { http })
    }

    /// The client itself, for what is not ordinary.
    pub fn http(&self) -> &Client {
        &self.http
    }

    /// Opens a page; redirects are not followed.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn open(&self, url: &str) -> Result<Response> {
        self.http.get(url).header("accept", "text/html").send().await.context(url.to_owned())
    }

    /// Opens a page that must be there, and gives its text.
    ///
    /// # Errors
    /// When it is not.
    pub async fn read(&self, url: &str) -> Result<String> {
        let answer = self.open(url).await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "{url}: {status}\n{text}");
        Ok(text)
    }

    /// Sends the form of `page` whose action is `action`, with its hidden fields and these.
    ///
    /// # Errors
    /// When the page has no such form, or nobody answers.
    pub async fn submit(
        &self,
        origin: &str,
        page: &str,
        action: &str,
        fields: &[(&str, &str)],
    ) -> Result<Response> {
        let hidden = hidden_fields(page, action)?;
        let mut all: Vec<(String, String)> = hidden;
        all.extend(fields.iter().map(|(name, value)| ((*name).into(), (*value).into())));
        let url = format!("{origin}{action}");
        let request = self.http.post(&url).header("origin", origin).form(&all);
        request.send().await.context(url)
    }

    /// Signs in.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn sign_in(&self, origin: &str, email: &str, password: &str) -> Result<()> {
        let page = self.read(&format!("{origin}/sign-in")).await?;
        let fields = [("email", email), ("password", password)];
        let answer = self.submit(origin, &page, "/sign-in", &fields).await?;
        let status = answer.status();
        ensure!(status.is_redirection(), "sign-in: {status}\n{}", answer.text().await?);
        Ok(())
    }
}

/// The hidden fields of a page's form.
///
/// # Errors
/// When the page has no such form.
pub fn hidden_fields(page: &str, action: &str) -> Result<Vec<(String, String)>> {
    let mark = format!("action=\"{action}\"");
    let start = page.find(&mark).with_context(|| format!("no form for {action} in:\n{page}"))?;
    let form = &page[start..];
    let form = &form[..form.find("</form>").unwrap_or(form.len())];
    let inputs = form.split("<input").skip(1).map(|input| &input[..input.find('>').unwrap_or(0)]);
    Ok(inputs
        .filter(|input| input.contains("type=\"hidden\""))
        .filter_map(|input| Some((attribute(input, "name")?, attribute(input, "value")?)))
        .collect())
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let rest = tag.split_once(&format!("{name}=\""))?.1;
    Some(rest.split_once('"')?.0.to_owned())
}
