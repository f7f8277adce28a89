//! Times and sizes as people say them.

pub mod moment;

use std::time::Duration;

use time::{OffsetDateTime, UtcOffset, macros::format_description};

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// How far `at` is from `now`: `5 min ago`, `in 6 days`.
pub fn relative(at: OffsetDateTime, now: OffsetDateTime) -> String {
    let secs = (now - at).whole_seconds();
    let amount = match secs.unsigned_abs().cast_signed() {
        0..=4 => return "now".into(),
        secs @ 5..MINUTE => format!("{secs} s"),
        secs @ MINUTE..HOUR => format!("{} min", secs / MINUTE),
        secs @ HOUR..DAY => format!("{} h", secs / HOUR),
        secs if secs < 2 * DAY => "1 day".into(),
        secs => format!("{} days", secs / DAY),
    };
    if secs > 0 { format!("{amount} ago") } else { format!("in {amount}") }
}

/// A moment in full: `2026-11-23 14:05 UTC`.
pub fn absolute(at: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute] UTC");
    at.to_offset(UtcOffset::UTC).format(&format).unwrap_or_else(|_| at.to_string())
}

/// Both of them: `2026-11-23 14:05 UTC (in 6 days)`.
pub fn both(at: OffsetDateTime, now: OffsetDateTime) -> String {
    format!("{} ({})", absolute(at), relative(at, now))
}

/// A length of time: `0.3 s`, `4 min 12 s`, `2 h 5 min`.
pub fn took(length: Duration) -> String {
    let secs = length.as_secs();
    match secs {
        0..60 => format!("{:.1} s", length.as_secs_f64()),
        60..3600 => format!("{} min {} s", secs / 60, secs % 60),
        3600..86_400 => format!("{} h {} min", secs / 3600, secs % 3600 / 60),
        _ => format!("{} days {} h", secs / 86_400, secs % 86_400 / 3600),
    }
}

/// The time between two moments; none when the clocks disagree.
pub fn between(from: OffsetDateTime, to: OffsetDateTime) -> Duration {
    Duration::try_from(to - from).unwrap_or_default()
}

/// An amount of bytes: `512 MiB`, `1.5 GiB`.
pub fn bytes(bytes: i64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    #[allow(clippy::cast_precision_loss, reason = "shown with one digit")]
    let mut amount = bytes as f64;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(amount.fract() >= 0.05);
    format!("{amount:.digits$} {}", UNITS[unit])
}

/// Why a text is no length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LengthError {
    /// Not number and unit.
    #[error("a length of time is a number and a unit, as 7d, 12h, 30m or 0s")]
    Syntax,
    /// More than the platform can count.
    #[error("at most 10000 days")]
    TooLong,
}

/// Seconds of a length of time as `7d`, `1h30m`, `0s`.
///
/// # Errors
/// When `text` is none, or too long a one.
pub fn parse_secs(text: &str) -> Result<i32, LengthError> {
    let mut secs: i64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = rest.split_at(digits);
        if digits > 9 {
            return Err(LengthError::TooLong);
        }
        let number: i64 = number.parse().map_err(|_| LengthError::Syntax)?;
        let factor = match unit.as_bytes().first() {
            Some(b's') => 1,
            Some(b'm') => MINUTE,
            Some(b'h') => HOUR,
            Some(b'd') => DAY,
            Some(b'w') => 7 * DAY,
            _ => return Err(LengthError::Syntax),
        };
        secs += number * factor;
        if secs > 10_000 * DAY {
            return Err(LengthError::TooLong);
        }
        rest = &unit[1..];
    }
    if text.is_empty() {
        return Err(LengthError::Syntax);
    }
    i32::try_from(secs).map_err(|_| LengthError::TooLong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read() {
        for (text, secs) in [("0s", 0), ("7d", 604_800), ("1h30m", 5400), ("2w", 1_209_600)] {
            assert_eq!(parse_secs(text), Ok(secs), "{text:?}");
        }
        for bad in ["", "7", "d", "-1d", "1 d", "1y", "7d1", "+1d", "1é"] {
            assert_eq!(parse_secs(bad), Err(LengthError::Syntax), "{bad:?}");
        }
        assert_eq!(parse_secs("10001d"), Err(LengthError::TooLong));
        assert_eq!(parse_secs("99999999999999999999s"), Err(LengthError::TooLong));
    }

    #[test]
    fn times_are_said() {
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
        let say = |secs| relative(now + time::Duration::seconds(secs), now);
        assert_eq!(say(-2), "now");
        assert_eq!(say(-59), "59 s ago");
        assert_eq!(say(-3600), "1 h ago");
        assert_eq!(say(90_000), "in 1 day");
        assert_eq!(say(604_800), "in 7 days");
        assert_eq!(absolute(now), "2024-10-04 00:00 UTC");
        assert_eq!(took(Duration::from_millis(320)), "0.3 s");
        assert_eq!(took(Duration::from_secs(252)), "4 min 12 s");
        assert_eq!(bytes(10 << 30), "10 GiB");
        assert_eq!(bytes((3 << 30) / 2), "1.5 GiB");
    }
}
