//! Lengths of time for people.

use std::time::Duration;

/// As `90 s`, `5 min`, `3 h 20 min`, `3 days`.
pub fn roughly(time: Duration) -> String {
    match time.as_secs() {
        secs @ ..120 => format!("{secs} s"),
        secs @ 120..7200 => format!("{} min", secs / 60),
        secs @ 7200..172_800 => format!("{} h {} min", secs / 3600, secs % 3600 / 60),
        secs => format!("{} days", secs / 86_400),
    }
}
