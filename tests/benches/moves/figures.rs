//! Numbers as they are printed.

use std::time::Duration;

/// A hundredth are longer.
pub fn p99(values: &[Duration]) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort();
    at(&sorted, 99)
}

/// The value that `part` of a hundred do not exceed, of sorted values.
fn at(sorted: &[Duration], part: usize) -> Duration {
    let index = (sorted.len() * part).div_ceil(100).saturating_sub(1);
    sorted.get(index).copied().unwrap_or_default()
}

/// In milliseconds with one digit.
fn ms(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64() * 1000.0)
}

/// One line: how many, and how they lie.
pub fn line(what: &str, values: &[Duration]) -> String {
    let mut sorted = values.to_vec();
    sorted.sort();
    format!(
        "{what}: n {}, p50 {} ms, p95 {} ms, p99 {} ms, max {} ms",
        sorted.len(),
        ms(at(&sorted, 50)),
        ms(at(&sorted, 95)),
        ms(at(&sorted, 99)),
        ms(at(&sorted, 100))
    )
}

/// The middle one.
pub fn median(values: &[Duration]) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort();
    at(&sorted, 50)
}
