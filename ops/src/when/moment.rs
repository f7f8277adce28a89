//! A moment in the past as people say it, in the zone of who says it.

use jiff::{Span, Timestamp, Zoned, civil, tz::TimeZone};
use time::OffsetDateTime;

/// Reads `2026-11-22 10:42`, `yesterday 10:42`, `10:42`, `15 minutes ago`, or a moment with its zone
/// (RFC 3339).
///
/// # Errors
/// What can be said instead.
pub fn parse(text: &str) -> Result<OffsetDateTime, String> {
    parse_at(text.trim(), &Zoned::now())
}

/// The moment in the zone of this machine and in UTC: so that who typed it sees what it was taken for.
pub fn both_zones(at: OffsetDateTime) -> String {
    let Ok(timestamp) = Timestamp::from_nanosecond(at.unix_timestamp_nanos()) else {
        return at.to_string();
    };
    let zone = TimeZone::system();
    let local = timestamp.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S %Z").to_string();
    let utc = timestamp.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    if local == utc { utc } else { format!("{local} ({utc})") }
}

fn parse_at(text: &str, now: &Zoned) -> Result<OffsetDateTime, String> {
    let found = with_zone(text).or_else(|| ago(text, now)).or_else(|| local(text, now));
    let moment = found.ok_or_else(|| {
        "say '2026-11-22 10:42', 'yesterday 10:42', '15 minutes ago', or with a zone \
         2026-11-22T10:42:00+07:00"
            .to_owned()
    })?;
    if moment > now.timestamp() {
        return Err("that moment is yet to come".to_owned());
    }
    OffsetDateTime::from_unix_timestamp_nanos(moment.as_nanosecond())
        .map_err(|_| "that moment is too far away".to_owned())
}

fn with_zone(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

fn ago(text: &str, now: &Zoned) -> Option<Timestamp> {
    let span: Span = text.ends_with("ago").then(|| text.parse().ok()).flatten()?;
    now.checked_add(span).ok().map(|then| then.timestamp())
}

/// Of the zone of `now`. A moment that the clocks showed twice is the earlier one.
fn local(text: &str, now: &Zoned) -> Option<Timestamp> {
    let zoned = |day: civil::Date, time: civil::Time| {
        let zoned = day.to_datetime(time).to_zoned(now.time_zone().clone()).ok()?;
        Some(zoned.timestamp())
    };
    if let Ok(moment) = text.parse::<civil::DateTime>() {
        // A day alone says no moment.
        return text.contains(':').then(|| zoned(moment.date(), moment.time())).flatten();
    }
    let (day, time) = match text.rsplit_once(' ') {
        Some(("today", time)) => (now.date(), time),
        Some(("yesterday", time)) => (now.date().yesterday().ok()?, time),
        Some(_) => return None,
        None => (now.date(), text),
    };
    zoned(day, time.contains(':').then(|| time.parse().ok()).flatten()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        let now: Zoned = "2026-11-30T17:00:00[Asia/Jakarta]".parse().expect("a moment");
        parse_at(text, &now).map(|at| {
            let at = Timestamp::from_nanosecond(at.unix_timestamp_nanos()).expect("a moment");
            at.to_string()
        })
    }

    #[test]
    fn moments_are_those_of_who_says_them() {
        let cases = [
            ("2026-11-22 10:42", "2026-11-22T03:42:00Z"),
            ("2026-11-22 10:42:05.5", "2026-11-22T03:42:05.5Z"),
            ("2026-11-22T10:42", "2026-11-22T03:42:00Z"),
            ("2026-11-22T10:42:00Z", "2026-11-22T10:42:00Z"),
            ("2026-11-22 10:42:00+08:00", "2026-11-22T02:42:00Z"),
            ("yesterday 10:42", "2026-11-29T03:42:00Z"),
            ("today 10:42", "2026-11-30T03:42:00Z"),
            ("10:42", "2026-11-30T03:42:00Z"),
            ("15 minutes ago", "2026-11-30T09:45:00Z"),
            ("1h 30m ago", "2026-11-30T08:30:00Z"),
            ("2 days ago", "2026-11-28T10:00:00Z"),
        ];
        for (text, moment) in cases {
            assert_eq!(read(text).as_deref(), Ok(moment), "{text}");
        }
        for bad in
            ["", "yesterday", "2026-11-22", "10", "25:00", "15 minutes", "soon", "2026-13-01 10:00"]
        {
            assert!(read(bad).expect_err(bad).contains("say '2026"), "{bad}");
        }
        assert!(read("17:01").expect_err("future").contains("yet to come"));
    }
}
