//! Follows the frames of a stream, to know how long they are before they are there. The library keeps
//! every frame but DATA until it is whole, however long it says it is; nobody may fill the memory so.

use crate::limits::MAX_HEAD_BYTES;

const DATA: u64 = 0;
const CONTROL: u64 = 0;

/// A frame that nobody needs so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame is longer than any that is needed")]
pub struct TooLong;

/// Where a stream is among its frames.
#[derive(Debug)]
pub struct Frames {
    next: Next,
    number: Number,
}

#[derive(Clone, Copy, Debug)]
enum Next {
    /// What a stream of one direction is for.
    Kind,
    Type,
    Length(u64),
    Payload(u64),
    /// No frames, or none that are kept.
    Anything,
}

/// An integer of QUIC (RFC 9000 section 16) of which a part has come.
#[derive(Clone, Copy, Debug, Default)]
struct Number {
    value: u64,
    missing: u8,
    begun: bool,
}

impl Frames {
    /// Of a stream of both directions: a request.
    pub fn of_request() -> Self {
        Self { next: Next::Type, number: Number::default() }
    }

    /// Of a stream of one direction, which says first what it is.
    pub fn of_one_direction() -> Self {
        Self { next: Next::Kind, number: Number::default() }
    }

    /// Follows what came.
    ///
    /// # Errors
    /// When a frame says that it is too long.
    pub fn pass(&mut self, mut data: &[u8]) -> Result<(), TooLong> {
        loop {
            match self.next {
                Next::Anything => return Ok(()),
                Next::Payload(left) => {
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(data.len());
                    data = data.get(taken..).unwrap_or_default();
                    let left = left - taken as u64;
                    if left > 0 {
                        self.next = Next::Payload(left);
                        return Ok(());
                    }
                    self.next = Next::Type;
                }
                Next::Kind | Next::Type | Next::Length(_) => {
                    let Some((first, rest)) = data.split_first() else { return Ok(()) };
                    data = rest;
                    if let Some(value) = self.number.push(*first) {
                        self.next = self.next.after(value)?;
                    }
                }
            }
        }
    }
}

impl Next {
    fn after(self, number: u64) -> Result<Self, TooLong> {
        Ok(match self {
            Self::Kind if number == CONTROL => Self::Type,
            Self::Type => Self::Length(number),
            Self::Length(kind) if kind != DATA && number > MAX_HEAD_BYTES as u64 => {
                return Err(TooLong);
            }
            Self::Length(_) => Self::Payload(number),
            Self::Kind | Self::Payload(_) | Self::Anything => Self::Anything,
        })
    }
}

impl Number {
    /// The integer, once its last byte has come.
    fn push(&mut self, byte: u8) -> Option<u64> {
        if self.begun {
            self.value = self.value << 8 | u64::from(byte);
            self.missing -= 1;
        } else {
            // The two highest bits say how long it is: 1, 2, 4 or 8 bytes.
            self.missing = (1 << (byte >> 6)) - 1;
            self.value = u64::from(byte & 0x3f);
            self.begun = true;
        }
        if self.missing > 0 {
            return None;
        }
        let value = self.value;
        *self = Self::default();
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(value: u64, bytes: &mut Vec<u8>) {
        match value {
            0..64 => bytes.push(value as u8),
            64..16_384 => bytes.extend((value as u16 | 0x4000).to_be_bytes()),
            16_384..1_073_741_824 => bytes.extend((value as u32 | 0x8000_0000).to_be_bytes()),
            _ => bytes.extend((value | 0xc000_0000_0000_0000).to_be_bytes()),
        }
    }

    fn frame(kind: u64, payload: usize, bytes: &mut Vec<u8>) {
        number(kind, bytes);
        number(payload as u64, bytes);
        bytes.extend(vec![0xff; payload]);
    }

    #[test]
    fn only_data_may_be_long() {
        let begins = |kind: u64, length: u64| {
            let mut bytes = Vec::new();
            number(kind, &mut bytes);
            number(length, &mut bytes);
            Frames::of_request().pass(&bytes)
        };
        assert_eq!(begins(0, u64::MAX >> 2), Ok(()));
        for kind in [1, 4, 7, 0x21, 0x0f_07_00] {
            assert_eq!(begins(kind, MAX_HEAD_BYTES as u64), Ok(()), "{kind}");
            assert_eq!(begins(kind, MAX_HEAD_BYTES as u64 + 1), Err(TooLong), "{kind}");
        }
    }

    #[test]
    fn of_streams_of_one_direction_only_the_control_stream_has_frames() {
        let long = |kind: u64| {
            let mut bytes = Vec::new();
            number(kind, &mut bytes);
            number(4, &mut bytes);
            number(1 << 40, &mut bytes);
            Frames::of_one_direction().pass(&bytes)
        };
        assert_eq!(long(0), Err(TooLong));
        for kind in [2, 3, 0x21] {
            assert_eq!(long(kind), Ok(()), "{kind}");
        }
    }

    proptest! {
        /// However the bytes come in, a frame is found where it begins.
        #[test]
        fn pieces_make_no_difference(
            frames in proptest::collection::vec((0_u64..100_000, 0_usize..70_000), 0..5),
            piece in 1_usize..3_000,
        ) {
            let (mut bytes, mut fits) = (Vec::new(), true);
            for (kind, length) in frames {
                fits &= kind == DATA || length <= MAX_HEAD_BYTES;
                frame(kind, length, &mut bytes);
            }
            let mut known = Frames::of_request();
            let passed = bytes.chunks(piece).try_for_each(|data| known.pass(data));
            prop_assert_eq!(passed.is_ok(), fits);
        }
    }
}
