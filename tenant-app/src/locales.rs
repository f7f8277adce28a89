//! Languages: which one to answer in, and the texts. Every text that people read is in `locales/`,
//! one file per language, embedded and parsed when first needed.

use std::{borrow::Cow, collections::HashMap};

use axum::http::{HeaderMap, header};
use fluent_templates::{Loader as _, fluent_bundle::FluentValue, langid};
use serde::{Deserialize, Serialize};

use crate::visit::cookie;

/// Where a visitor's choice is kept.
pub const COOKIE: &str = "__Host-language";

fluent_templates::static_loader! {
    static LOCALES = {
        locales: "./locales",
        fallback_language: "en",
        // Isolation marks would show up in attributes and titles.
        customise: |bundle| bundle.set_use_isolating(false),
    };
}

/// A language that the interface speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[sqlx(type_name = "text")]
pub enum Language {
    /// Bahasa Indonesia.
    #[serde(rename = "id")]
    #[sqlx(rename = "id")]
    Indonesian,
    /// English.
    #[serde(rename = "en")]
    #[sqlx(rename = "en")]
    English,
}

impl Language {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Indonesian, Self::English];

    /// For `lang` attributes, cookies and columns.
    pub fn code(self) -> &'static str {
        match self {
            Self::Indonesian => "id",
            Self::English => "en",
        }
    }

    /// The language of a code.
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|language| language.code() == code)
    }

    /// The language to answer in: the visitor's choice, the person's profile, what the browser
    /// asks for, the site's default.
    pub fn of(headers: &HeaderMap, own: Option<Self>, default: Self) -> Self {
        let chosen = cookie(headers, COOKIE).and_then(Self::from_code);
        let accepted = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
        chosen.or(own).or_else(|| Self::accepted(accepted.unwrap_or_default())).unwrap_or(default)
    }

    fn accepted(header: &str) -> Option<Self> {
        let mut ranges: Vec<(Self, f32)> = header
            .split(',')
            .filter_map(|range| {
                let mut parts = range.split(';');
                let tag = parts.next()?.trim().split('-').next()?.to_ascii_lowercase();
                let weight = parts.find_map(|part| part.trim().strip_prefix("q="));
                let weight = weight.map_or(Some(1.0), |q| q.parse().ok())?;
                Some((Self::from_code(&tag)?, weight))
            })
            .filter(|(_, weight)| *weight > 0.0)
            .collect();
        // Stable: of equals the first asked for wins.
        ranges.sort_by(|a, b| b.1.total_cmp(&a.1));
        ranges.first().map(|(language, _)| *language)
    }
}

/// A text of the interface. An unknown key gives the key itself, which a test keeps from happening.
pub fn text(language: Language, key: &str, arguments: &[(&str, FluentValue<'static>)]) -> String {
    let locale = match language {
        Language::Indonesian => langid!("id"),
        Language::English => langid!("en"),
    };
    let arguments: HashMap<Cow<'static, str>, FluentValue<'_>> = arguments
        .iter()
        .map(|(name, value)| (Cow::Owned((*name).to_owned()), value.clone()))
        .collect();
    LOCALES
        .try_lookup_complete(&locale, key, (!arguments.is_empty()).then_some(&arguments))
        .unwrap_or_else(|| key.to_owned())
}

/// A number with the language's thousands separator.
pub fn number(language: Language, number: i64) -> String {
    let separator = if language == Language::Indonesian { '.' } else { ',' };
    let digits = number.unsigned_abs().to_string();
    let mut text = if number < 0 { "-".to_owned() } else { String::new() };
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(separator);
        }
        text.push(digit);
    }
    text
}

/// A size for people: `1.4 MB`, in Indonesian `1,4 MB`.
pub fn bytes(language: Language, size: u64) -> String {
    let comma = if language == Language::Indonesian { ',' } else { '.' };
    let (unit, name) = match size {
        0..1_024 => return format!("{size} B"),
        1_024..1_048_576 => (1_024, "KB"),
        1_048_576..1_073_741_824 => (1_048_576, "MB"),
        _ => (1_073_741_824, "GB"),
    };
    let tenths = u128::from(size) * 10 / unit;
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole} {name}"),
        (whole, tenth) => format!("{whole}{comma}{tenth} {name}"),
    }
}

/// A date `2026-11-23` as `23 November 2026`.
pub fn date(language: Language, iso: &str) -> String {
    const INDONESIAN: [&str; 12] = [
        "Januari",
        "Februari",
        "Maret",
        "April",
        "Mei",
        "Juni",
        "Juli",
        "Agustus",
        "September",
        "Oktober",
        "November",
        "Desember",
    ];
    const ENGLISH: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let months = if language == Language::Indonesian { INDONESIAN } else { ENGLISH };
    let mut parts = iso.splitn(3, '-').map(str::parse::<usize>);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Ok(year)), Some(Ok(month @ 1..=12)), Some(Ok(day))) => {
            format!("{day} {} {year}", months[month - 1])
        }
        _ => iso.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn keys(source: &str) -> BTreeSet<String> {
        let first = |line: &str| line.starts_with(|letter: char| letter.is_ascii_lowercase());
        let lines = source.lines().filter(|line| first(line));
        lines.filter_map(|line| line.split_once(" =")).map(|(key, _)| key.to_owned()).collect()
    }

    fn sources(directory: &str, endings: &[&str], all: &mut String) {
        for entry in std::fs::read_dir(directory).expect("the directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                sources(&path.to_string_lossy(), endings, all);
            } else if endings.iter().any(|ending| path.to_string_lossy().ends_with(ending)) {
                all.push_str(&std::fs::read_to_string(&path).expect("a source"));
            }
        }
    }

    #[test]
    fn every_key_is_in_both_languages_and_used() {
        let indonesian = keys(include_str!("../locales/id/app.ftl"));
        let english = keys(include_str!("../locales/en/app.ftl"));
        assert_eq!(indonesian, english);

        let mut all = String::new();
        sources(concat!(env!("CARGO_MANIFEST_DIR"), "/src"), &[".rs"], &mut all);
        sources(concat!(env!("CARGO_MANIFEST_DIR"), "/templates"), &[".html"], &mut all);
        let all = all.replace('\'', "\"");
        // Of a family whose members are put together (`level-` ~ level) the stem must be used.
        let families = ["level-", "state-", "kind-", "status-"];
        for key in &english {
            let stem = key.strip_suffix("-title").or_else(|| key.strip_suffix("-text"));
            let used = all.contains(&format!("\"{key}\""))
                || stem.is_some_and(|stem| all.contains(&format!("\"{stem}\"")))
                || families.iter().any(|family| {
                    key.starts_with(family) && all.contains(&format!("\"{family}\""))
                });
            assert!(used, "{key} is not used");
        }
        for piece in all.split(" t(\"").skip(1).chain(all.split("{{ t(\"").skip(1)) {
            let key = piece.split('"').next().unwrap_or_default();
            assert!(english.contains(key) || families.contains(&key), "{key} has no text");
        }
    }

    #[test]
    fn the_language_is_the_choice_then_the_profile_then_the_browsers_then_the_sites() {
        use Language::{English, Indonesian};
        let mut headers = HeaderMap::new();
        assert_eq!(Language::of(&headers, None, Indonesian), Indonesian);
        headers.insert("accept-language", "fr, en-US;q=0.8, id;q=0.2".parse().expect("a header"));
        assert_eq!(Language::of(&headers, None, Indonesian), English);
        assert_eq!(Language::of(&headers, Some(Indonesian), English), Indonesian);
        headers.insert("cookie", "__Host-language=en".parse().expect("a header"));
        assert_eq!(Language::of(&headers, Some(Indonesian), Indonesian), English);
        for broken in ["", ";;q=", "en;q=0", "id;q=x", "*"] {
            assert_eq!(Language::accepted(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn numbers_sizes_and_dates() {
        use Language::{English, Indonesian};
        assert_eq!(number(Indonesian, 1_250_000), "1.250.000");
        assert_eq!(number(English, -999), "-999");
        assert_eq!(bytes(Indonesian, 1_500_000), "1,4 MB");
        assert_eq!(bytes(English, 2_097_152), "2 MB");
        assert_eq!(bytes(English, 12), "12 B");
        assert_eq!(date(Indonesian, "2026-08-17"), "17 Agustus 2026");
        assert_eq!(date(English, "nonsense"), "nonsense");
    }
}
