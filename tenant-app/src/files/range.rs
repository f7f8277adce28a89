//! `Range` headers (RFC 9110): one range of bytes. Of several, or of what is no range, the whole
//! content is sent, as the standard allows.

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Everything.
    Whole,
    /// From the first to the last offset, both included.
    Part(u64, u64),
    /// Bytes that do not exist.
    Nothing,
}

/// Reads the header for a content of this length.
pub fn parse(header: &str, length: u64) -> Wanted {
    let range = header.trim().strip_prefix("bytes=").filter(|range| !range.contains(','));
    let Some((first, last)) = range.and_then(|range| range.trim().split_once('-')) else {
        return Wanted::Whole;
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // More digits than fit mean "further than any content".
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (number(first), number(last)) {
        (Some(first), Some(last)) if last < first => Wanted::Whole,
        (Some(first), _) if first >= length => Wanted::Nothing,
        (Some(first), Some(last)) => Wanted::Part(first, last.min(length - 1)),
        (Some(first), None) if last.is_empty() => Wanted::Part(first, length - 1),
        (None, Some(0)) if first.is_empty() => Wanted::Nothing,
        (None, Some(_)) if first.is_empty() && length == 0 => Wanted::Nothing,
        (None, Some(tail)) if first.is_empty() => {
            Wanted::Part(length.saturating_sub(tail), length - 1)
        }
        _ => Wanted::Whole,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(parse("bytes=0-", 10), Wanted::Part(0, 9));
        assert_eq!(parse("bytes=2-3", 10), Wanted::Part(2, 3));
        assert_eq!(parse("bytes=2-99", 10), Wanted::Part(2, 9));
        assert_eq!(parse("bytes=-3", 10), Wanted::Part(7, 9));
        assert_eq!(parse("bytes=-99", 10), Wanted::Part(0, 9));
        assert_eq!(parse("bytes=10-", 10), Wanted::Nothing);
        assert_eq!(parse("bytes=-0", 10), Wanted::Nothing);
        assert_eq!(parse("bytes=0-", 0), Wanted::Nothing);
        assert_eq!(parse("bytes=-1", 0), Wanted::Nothing);
        assert_eq!(parse("bytes=99999999999999999999-", 10), Wanted::Nothing);
        for whole in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=3-2",
            "bytes=0-1,4-5",
            "bytes=a-b",
            "items=0-1",
            "bytes=+1-2",
            "bytes=--1",
        ] {
            assert_eq!(parse(whole, 10), Wanted::Whole, "{whole:?}");
        }
    }

    proptest! {
        #[test]
        fn a_part_lies_inside(header in "bytes=[0-9]{0,3}-[0-9]{0,3}", length in 0_u64..500) {
            if let Wanted::Part(first, last) = parse(&header, length) {
                prop_assert!(first <= last && last < length);
            }
        }
    }
}
