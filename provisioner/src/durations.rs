//! Lengths of time, and moments, for people.

use std::time::Duration;

use time::{OffsetDateTime, UtcOffset, macros::format_description};

/// As `90 s`, `5 min`, `3 h 20 min`, `3 days`.
pub fn roughly(time: Duration) -> String {
    match time.as_secs() {
        secs @ ..120 => format!("{secs} s"),
        secs @ 120..7200 => format!("{} min", secs / 60),
        secs @ 7200..172_800 => format!("{} h {} min", secs / 3600, secs % 3600 / 60),
        secs => format!("{} days", secs / 86_400),
    }
}

/// A moment to the second: `2026-11-30 10:42:05 UTC`.
pub fn second(at: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    at.to_offset(UtcOffset::UTC).format(&format).unwrap_or_else(|_| at.to_string())
}
