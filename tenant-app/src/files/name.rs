//! Names of files: what people sent becomes something that is safe in a path, a header and a page.

/// In bytes.
const MAX: usize = 150;

/// The last part of the path, without anything that a file system, a header or a reader could
/// mistake; never empty, never hidden.
pub fn cleaned(sent: &str) -> String {
    let last = sent.rsplit(['/', '\\']).next().unwrap_or_default();
    let plain: String =
        last.chars()
            .filter(|letter| !letter.is_control() && !is_invisible(*letter))
            .map(|letter| {
                if matches!(letter, ':' | '*' | '?' | '"' | '<' | '>' | '|') { '_' } else { letter }
            })
            .collect();
    let plain = plain.trim().trim_start_matches('.').trim_end_matches(['.', ' ']).trim_start();
    if plain.is_empty() {
        return "file".to_owned();
    }
    shortened(plain)
}

/// Marks that change the reading direction or cannot be seen (`gpj.exe` shown as `exe.jpg`).
fn is_invisible(letter: char) -> bool {
    matches!(
        letter,
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
    )
}

/// Cuts the stem and keeps the extension.
fn shortened(name: &str) -> String {
    if name.len() <= MAX {
        return name.to_owned();
    }
    let extension = name.rsplit_once('.').map(|(_, end)| end).filter(|end| end.len() <= 10);
    let room = MAX - extension.map_or(0, |end| end.len() + 1);
    let mut cut = room;
    while !name.is_char_boundary(cut) {
        cut -= 1;
    }
    match extension {
        Some(extension) => format!("{}.{extension}", name[..cut].trim_end()),
        None => name[..cut].trim_end().to_owned(),
    }
}

/// The part after the last dot, in lower case.
pub fn extension(name: &str) -> String {
    name.rsplit_once('.').map(|(_, end)| end.to_ascii_lowercase()).unwrap_or_default()
}

/// For a path or `filename*`: all but letters, digits and `-._~` as `%XX`.
pub fn encoded(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(byte));
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tricks_become_names() {
        assert_eq!(cleaned("../../etc/passwd"), "passwd");
        assert_eq!(cleaned("C:\\Users\\a\\x.pdf"), "x.pdf");
        assert_eq!(cleaned(".htaccess"), "htaccess");
        assert_eq!(cleaned(".."), "file");
        assert_eq!(cleaned(""), "file");
        assert_eq!(cleaned("a/"), "file");
        assert_eq!(cleaned("a\r\nSet-Cookie: b.png"), "aSet-Cookie_ b.png");
        assert_eq!(cleaned("invoice\u{202e}gpj.exe"), "invoicegpj.exe");
        assert_eq!(cleaned("Modul 1 – Pengantar.pdf"), "Modul 1 – Pengantar.pdf");
        assert_eq!(extension("A.TAR.GZ"), "gz");
        assert_eq!(encoded("a b/é"), "a%20b%2F%C3%A9");
    }

    proptest! {
        #[test]
        fn always_a_plain_name(sent in any::<String>()) {
            let name = cleaned(&sent);
            prop_assert!(!name.is_empty() && name.len() <= MAX);
            prop_assert!(!name.starts_with('.') && !name.contains(['/', '\\', '"']));
            prop_assert!(!name.chars().any(char::is_control));
            prop_assert_eq!(cleaned(&name), name);
        }
    }
}
