//! Who asks, in which language, and from which form: the extractor that nearly every handler takes.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
    response::{IntoResponse as _, Response},
};
use control_types::headers;
use minijinja::{Value, context};

use crate::{
    accounts::{Account, sessions},
    csrf,
    locales::Language,
    pages,
    preview::{self, Preview},
    rejection::Rejection,
    settings::Settings,
    site::Site,
    values,
};

/// One request, as handlers see it.
pub struct Visit {
    /// The site.
    pub site: Arc<Site>,
    /// Its settings at this moment.
    pub settings: Arc<Settings>,
    /// The language to answer in.
    pub language: Language,
    /// Who is signed in.
    pub account: Option<Account>,
    /// What the session's cookie holds, to end exactly this session.
    pub session: Option<sessions::Secret>,
    /// Where the request came from, as the router says.
    pub address: Option<IpAddr>,
    /// What the browser says that it is.
    pub user_agent: String,
    /// The path and query.
    pub path: String,
    /// The router's id of the request.
    pub request_id: String,
    /// What binds forms to this browser.
    pub csrf: csrf::Binding,
}

impl FromRequestParts<Arc<Site>> for Visit {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, site: &Arc<Site>) -> Result<Self, Rejection> {
        let settings = site.settings.current(site).await?;
        let (account, session) = who(&parts.headers, site).await?;
        let own = account.as_ref().and_then(|account| account.language);
        let text = |name: &str| {
            let value = parts.headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        Ok(Self {
            site: Arc::clone(site),
            language: Language::of(&parts.headers, own, settings.language),
            csrf: csrf::Binding::of(&parts.headers, session.as_ref()),
            settings,
            account,
            session,
            // The first is the client's; the router writes the header itself.
            address: text("x-forwarded-for")
                .split(',')
                .next()
                .and_then(|ip| ip.trim().parse().ok()),
            user_agent: text("user-agent").chars().take(300).collect(),
            path: local_path(parts.uri.path_and_query().map_or("/", |path| path.as_str())),
            request_id: text(headers::REQUEST_ID).chars().take(100).collect(),
        })
    }
}

/// Who asks, and by which session. In a preview nobody of the site: its sessions do not count there.
async fn who(
    headers: &HeaderMap,
    site: &Site,
) -> Result<(Option<Account>, Option<sessions::Secret>), Rejection> {
    if let Some(preview) = &site.preview {
        let let_in = preview.lets_in(headers).then(preview::viewer);
        return let_in.map(|viewer| (Some(viewer), None)).ok_or(Rejection::PreviewClosed);
    }
    let Some(secret) = sessions::Secret::from_cookies(headers) else { return Ok((None, None)) };
    let account = sessions::account(site.database().await?, &secret).await?;
    let session = account.as_ref().map(|_| secret);
    Ok((account, session))
}

impl Visit {
    /// The person, or a detour to the sign-in page and back here.
    ///
    /// # Errors
    /// When nobody is signed in.
    pub fn signed_in(&self) -> Result<&Account, Rejection> {
        self.account.as_ref().ok_or_else(|| Rejection::SignIn(self.path.clone()))
    }

    /// The person, who must be allowed to teach.
    ///
    /// # Errors
    /// When nobody is signed in, or a student.
    pub fn teacher(&self) -> Result<&Account, Rejection> {
        let account = self.signed_in()?;
        if account.role.teaches() { Ok(account) } else { Err(Rejection::Forbidden) }
    }

    /// A page in the site's look; `own` is what the template needs besides the frame.
    ///
    /// # Errors
    /// When the template is wrong.
    pub fn page(&self, template: &str, own: Value) -> Result<Response, Rejection> {
        let frame = values! {
            lang => self.language.code(),
            site => &*self.settings,
            account => self.account.as_ref(),
            path => &self.path,
            csrf => self.csrf.token(),
            preview => self.site.preview.as_ref().map(Preview::banner),
        };
        let html = pages::render(template, context! { ..own, ..frame })?;
        let mut response = html.into_response();
        if let Some(cookie) = self.csrf.new_cookie() {
            // Only pages with a form of a visitor who is not signed in need it.
            if template.starts_with("accounts/") {
                response.headers_mut().append(header::SET_COOKIE, cookie);
            }
        }
        Ok(response)
    }
}

/// The path if it leads to this site and nowhere else, or the home page.
pub fn local_path(path: &str) -> String {
    let safe = path.starts_with('/')
        && !path.starts_with("//")
        && !path.contains(['\\', '\r', '\n', '\t'])
        && path.len() <= 2000;
    if safe { path.to_owned() } else { "/".to_owned() }
}

/// The value of a cookie, if it was sent once.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| value);
    values.next().filter(|_| values.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_paths_are_followed() {
        assert_eq!(local_path("/courses?q=a"), "/courses?q=a");
        for bad in ["//evil.test", "https://evil.test", "/\\evil.test", "", "evil", "/a\r\nb"] {
            assert_eq!(local_path(bad), "/", "{bad:?}");
        }
    }

    #[test]
    fn broken_cookies_are_none() {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, "a=1; b; =; c=2; c=3; d=x=y".parse().expect("a header"));
        assert_eq!(cookie(&headers, "a"), Some("1"));
        assert_eq!(cookie(&headers, "b"), None);
        assert_eq!(cookie(&headers, "c"), None);
        assert_eq!(cookie(&headers, "d"), Some("x=y"));
    }
}
