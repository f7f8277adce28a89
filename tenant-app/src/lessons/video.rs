//! Videos on other hosts: links that people paste become players that set no cookie.

use serde::Serialize;
use url::Url;

/// A player to embed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Embed {
    /// The player's address; its host is in the policy of `security_headers`.
    pub src: String,
    /// The host's name for people.
    pub host: &'static str,
}

impl Embed {
    /// The player of a YouTube or Vimeo link. None for anything else.
    pub fn of(link: &str) -> Option<Self> {
        let url =
            Url::parse(link).ok().filter(|url| url.scheme() == "https" && url.port().is_none())?;
        let host = url.host_str()?;
        let parts: Vec<&str> = url.path().split('/').filter(|part| !part.is_empty()).collect();
        match host.strip_prefix("www.").or_else(|| host.strip_prefix("m.")).unwrap_or(host) {
            "youtube.com" | "youtube-nocookie.com" => match parts[..] {
                ["watch"] => {
                    let id = url.query_pairs().find(|(name, _)| name == "v")?.1.into_owned();
                    Self::youtube(&id)
                }
                ["embed" | "shorts" | "live" | "v", id] => Self::youtube(id),
                _ => None,
            },
            "youtu.be" => parts.first().and_then(|id| Self::youtube(id)),
            "vimeo.com" => parts.first().and_then(|id| Self::vimeo(id)),
            "player.vimeo.com" => match parts[..] {
                ["video", id] => Self::vimeo(id),
                _ => None,
            },
            _ => None,
        }
    }

    fn youtube(id: &str) -> Option<Self> {
        let plain = id.len() == 11
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        plain.then(|| Self {
            src: format!("https://www.youtube-nocookie.com/embed/{id}?rel=0"),
            host: "YouTube",
        })
    }

    fn vimeo(id: &str) -> Option<Self> {
        let plain = (1..=12).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| Self {
            src: format!("https://player.vimeo.com/video/{id}?dnt=1"),
            host: "Vimeo",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_the_two_hosts() {
        let youtube = Some("https://www.youtube-nocookie.com/embed/dQw4w9WgXcQ?rel=0".to_owned());
        for link in [
            "https://www.youtube.com/watch?v=dQw4w9WgXcQ&t=3",
            "https://youtu.be/dQw4w9WgXcQ?si=x",
            "https://m.youtube.com/shorts/dQw4w9WgXcQ",
            "https://www.youtube-nocookie.com/embed/dQw4w9WgXcQ",
        ] {
            assert_eq!(Embed::of(link).map(|embed| embed.src), youtube, "{link}");
        }
        let vimeo = Some("https://player.vimeo.com/video/76979871?dnt=1".to_owned());
        for link in ["https://vimeo.com/76979871", "https://player.vimeo.com/video/76979871"] {
            assert_eq!(Embed::of(link).map(|embed| embed.src), vimeo, "{link}");
        }
        for bad in [
            "http://youtu.be/dQw4w9WgXcQ",
            "https://youtube.com.evil.test/watch?v=dQw4w9WgXcQ",
            "https://evil.test/watch?v=dQw4w9WgXcQ",
            "https://www.youtube.com/watch?v=\"><script>",
            "https://www.youtube.com/watch",
            "https://vimeo.com/abc",
            "javascript:alert(1)",
            "",
        ] {
            assert_eq!(Embed::of(bad), None, "{bad}");
        }
    }
}
