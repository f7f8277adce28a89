//! The id of a request: a UUID of version 7, as everywhere on the platform. Made without a system
//! call: it must be unique, not secret.

use std::{
    cell::Cell,
    time::{SystemTime, UNIX_EPOCH},
};

use http::HeaderValue;
use uuid::{Builder, Uuid};

/// The step of the sequence (the golden ratio in 64 bits), as in SplitMix64.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

thread_local! {
    // From the system's random numbers, once for each thread.
    static STATE: Cell<(u64, u64)> = Cell::new(Uuid::new_v4().as_u64_pair());
}

/// A new id.
pub fn next() -> HeaderValue {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let mut random = [0; 10];
    let (high, low) = STATE.with(|state| {
        let (high, low) = state.get();
        let low = low.wrapping_add(STEP);
        state.set((high, low));
        (high, low)
    });
    random[..8].copy_from_slice(&mixed(low).to_be_bytes());
    random[8..].copy_from_slice(&mixed(low ^ high).to_be_bytes()[..2]);
    let millis = u64::try_from(millis).unwrap_or(u64::MAX);
    let id = Builder::from_unix_timestamp_millis(millis, &random).into_uuid();
    let mut text = Uuid::encode_buffer();
    let mut value = HeaderValue::from_str(id.simple().encode_lower(&mut text))
        .unwrap_or(HeaderValue::from_static(""));
    // No other answer has the same: HTTP/2 must not put it into the table of what was said before,
    // where it would push out what is said again.
    value.set_sensitive(true);
    value
}

/// SplitMix64's output function: every bit of the input reaches every bit of the output.
const fn mixed(state: u64) -> u64 {
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_of_all_threads_differ_and_are_of_version_7() {
        let make = || (0..5000).map(|_| next()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(make)).collect();
        let all: HashSet<_> =
            threads.into_iter().flat_map(|thread| thread.join().expect("ends")).collect();
        assert_eq!(all.len(), 4 * 5000);
        for id in all {
            let id = Uuid::try_parse(id.to_str().expect("is text")).expect("is a UUID");
            assert_eq!(id.get_version_num(), 7);
        }
    }
}
