//! Which trace and which span of it: the header `traceparent` of W3C Trace Context. Pure, but for new
//! ids.

use std::cell::Cell;

use http::HeaderValue;
use uuid::Uuid;

/// The length of a header of version 0, and of the beginning of any later one.
const LENGTH: usize = 55;
/// The step of the sequence (the golden ratio in 64 bits), as in SplitMix64.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
const SAMPLED: u8 = 1;

thread_local! {
    // Not the sequence of the requests' ids, which clients see.
    static STATE: Cell<u64> = Cell::new(Uuid::new_v4().as_u64_pair().1);
}

/// A span of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The trace; not zero.
    pub trace_id: u128,
    /// The span; not zero.
    pub span_id: u64,
    /// Whether it is sent to a collector.
    pub sampled: bool,
}

impl Context {
    /// The first span of a new trace.
    pub fn new(sampled: bool) -> Self {
        let trace_id = u128::from(random()) << 64 | u128::from(random()).max(1);
        Self { trace_id, span_id: random().max(1), sampled }
    }

    /// Another span of the same trace.
    #[must_use]
    pub fn child(&self, sampled: bool) -> Self {
        Self { trace_id: self.trace_id, span_id: random().max(1), sampled }
    }

    /// The value of a header; none when it is not exactly as it should be. A later version may have
    /// more behind.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (known, more) = value.split_at_checked(LENGTH)?;
        let [v1, v2, b'-', rest @ ..] = known else { return None };
        let version = hex(&[*v1, *v2])?;
        let is_long = match more {
            [] => false,
            [b'-', ..] => true,
            _ => return None,
        };
        if version == 0xff || (version == 0 && is_long) {
            return None;
        }
        let (trace_id, rest) = rest.split_at_checked(32)?;
        let (span_id, flags) = match rest {
            [b'-', rest @ ..] => rest.split_at_checked(16)?,
            _ => return None,
        };
        let [b'-', flags @ ..] = flags else { return None };
        let context = Self {
            trace_id: hex(trace_id)?,
            span_id: u64::try_from(hex(span_id)?).ok()?,
            sampled: hex(flags)? & u128::from(SAMPLED) != 0,
        };
        (context.trace_id != 0 && context.span_id != 0).then_some(context)
    }

    /// The header that makes this the parent of what comes next.
    pub fn header(&self) -> HeaderValue {
        const DIGITS: [u8; 16] = *b"0123456789abcdef";
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        let write = |place: &mut [u8], number: u128| {
            let mut left = number;
            for digit in place.iter_mut().rev() {
                *digit = DIGITS[usize::from(left as u8 & 0xf)];
                left >>= 4;
            }
        };
        write(&mut text[3..35], self.trace_id);
        write(&mut text[36..52], u128::from(self.span_id));
        write(&mut text[53..55], u128::from(if self.sampled { SAMPLED } else { 0 }));
        HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""))
    }
}

/// Lowercase digits only.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

/// Any number, without a system call. Unlike that of anybody else, but no secret.
pub fn random() -> u64 {
    let state = STATE.with(|state| {
        let next = state.get().wrapping_add(STEP);
        state.set(next);
        next
    });
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn only_what_is_as_it_should_be_is_taken() {
        let context = Context::parse(GOOD.as_bytes()).expect("is good");
        assert_eq!(context.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!((context.span_id, context.sampled), (0xb7ad_6b71_6920_3331, true));
        assert_eq!(context.header(), GOOD);
        let later = GOOD.replacen("00", "cc", 1) + "-what-comes";
        assert_eq!(Context::parse(later.as_bytes()), Some(context));
        for other_flags in ["-00", "-fe"] {
            let text = GOOD.replace("-01", other_flags);
            assert!(!Context::parse(text.as_bytes()).expect("is good").sampled);
        }
        for bad in [
            String::new(),
            GOOD.to_uppercase(),
            GOOD.replacen("00", "ff", 1),
            format!("{GOOD}-more"),
            format!("{GOOD} "),
            GOOD.replacen("00", "cc", 1) + "more",
            GOOD.replace("0af7", "+af7"),
            GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
            GOOD.replace('-', "_"),
            GOOD[1..].to_owned(),
        ] {
            assert_eq!(Context::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn ids_differ() {
        let ids: std::collections::HashSet<_> =
            (0..10_000).map(|_| Context::new(true).trace_id).collect();
        assert_eq!(ids.len(), 10_000);
        let context = Context::new(false);
        let child = context.child(true);
        assert!(child.trace_id == context.trace_id && child.span_id != context.span_id);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trace_id in 1_u128.., span_id in 1_u64.., sampled: bool) {
            let context = Context { trace_id, span_id, sampled };
            prop_assert_eq!(Context::parse(context.header().as_bytes()), Some(context));
        }

        #[test]
        fn no_bytes_confuse_it(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some(context) = Context::parse(&bytes) {
                prop_assert!(context.trace_id != 0);
            }
        }
    }
}
