//! Follows the frames of a stream, to know how long they are before they are there. The library keeps
//! every frame but DATA until it is whole, however long it says it is; nobody may fill the memory so.
//! And it takes a DATA frame without data for the end of a body, which RFC 9114 does not: such frames
//! are left out of what it gets.

use crate::limits::MAX_HEAD_BYTES;

const DATA: u64 = 0;
const HEADERS: u64 = 1;
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
    // What has come of type and length of a frame: nobody knows yet whether it has data.
    begun: Vec<u8>,
    place: Place,
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

/// Where DATA may stand is not decided here: where it may not, the library has to see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    BeforeHead,
    Body,
    /// After trailers, or where there are no bodies.
    Elsewhere,
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
    pub const fn of_request() -> Self {
        Self::beginning(Next::Type, Place::BeforeHead)
    }

    /// Of a stream of one direction, which says first what it is.
    pub const fn of_one_direction() -> Self {
        Self::beginning(Next::Kind, Place::Elsewhere)
    }

    const fn beginning(next: Next, place: Place) -> Self {
        let number = Number { value: 0, missing: 0, begun: false };
        Self { next, number, begun: Vec::new(), place }
    }

    /// Follows what came. Gives it without empty DATA frames in a body; the beginning of a frame
    /// only when its length has come too.
    ///
    /// # Errors
    /// When a frame says that it is too long.
    pub fn pass(&mut self, mut data: &[u8]) -> Result<Vec<u8>, TooLong> {
        let mut passed = Vec::with_capacity(self.begun.len() + data.len());
        loop {
            match self.next {
                Next::Anything => {
                    passed.extend_from_slice(data);
                    return Ok(passed);
                }
                Next::Payload(left) => {
                    let most = usize::try_from(left).unwrap_or(usize::MAX);
                    let (taken, rest) = data.split_at(most.min(data.len()));
                    passed.extend_from_slice(taken);
                    data = rest;
                    let left = left - taken.len() as u64;
                    if left > 0 {
                        self.next = Next::Payload(left);
                        return Ok(passed);
                    }
                    self.next = Next::Type;
                }
                Next::Kind | Next::Type | Next::Length(_) => {
                    let Some((first, rest)) = data.split_first() else { return Ok(passed) };
                    data = rest;
                    self.begun.push(*first);
                    if let Some(value) = self.number.push(*first) {
                        self.step(value, &mut passed)?;
                    }
                }
            }
        }
    }

    /// What has come of a frame's type and length, at the end of a stream that ends inside.
    pub fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.begun)
    }

    /// A number has come.
    fn step(&mut self, number: u64, passed: &mut Vec<u8>) -> Result<(), TooLong> {
        let before = self.next;
        self.next = before.after(number)?;
        match before {
            // Its length decides.
            Next::Type => return Ok(()),
            Next::Length(DATA) if number == 0 && self.place == Place::Body => self.begun.clear(),
            Next::Length(HEADERS) => {
                self.place = match self.place {
                    Place::BeforeHead => Place::Body,
                    Place::Body | Place::Elsewhere => Place::Elsewhere,
                };
            }
            _ => {}
        }
        passed.append(&mut self.begun);
        Ok(())
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
            Frames::of_request().pass(&bytes).map(drop)
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
            Frames::of_one_direction().pass(&bytes).map(drop)
        };
        assert_eq!(long(0), Err(TooLong));
        for kind in [2, 3, 0x21] {
            assert_eq!(long(kind), Ok(()), "{kind}");
        }
    }

    #[test]
    fn data_that_is_none_is_left_out_of_a_body_and_nowhere_else() {
        // HEADERS; DATA "a"; nothing twice, once with numbers that are longer than they need to be.
        let body = [1, 1, 7, 0, 1, b'a', 0, 0, 0x40, 0, 0x80, 0, 0, 0];
        assert_eq!(Frames::of_request().pass(&body), Ok(vec![1, 1, 7, 0, 1, b'a']));
        // Trailers after it; and then DATA, which is an error that the library must see.
        let trailers = [1, 0, 0, 0, 1, 0, 0, 0];
        assert_eq!(Frames::of_request().pass(&trailers), Ok(vec![1, 0, 1, 0, 0, 0]));
        // As it is before the head, and on a control stream.
        assert_eq!(Frames::of_request().pass(&[0, 0]), Ok(vec![0, 0]));
        assert_eq!(Frames::of_one_direction().pass(&[0, 4, 0, 0, 0]), Ok(vec![0, 4, 0, 0, 0]));
        // Of a stream that ends inside a frame everything is seen.
        let mut cut = Frames::of_request();
        assert_eq!(cut.pass(&[1, 0, 0, 0x40]), Ok(vec![1, 0]));
        assert_eq!((cut.rest(), cut.rest()), (vec![0, 0x40], vec![]));
    }

    proptest! {
        /// However the bytes come in, a frame is found where it begins.
        #[test]
        fn pieces_make_no_difference(
            frames in proptest::collection::vec(
                (prop_oneof![Just(DATA), Just(HEADERS), 0_u64..100_000],
                 prop_oneof![Just(0), 0_usize..70_000]),
                0..6,
            ),
            piece in 1_usize..3_000,
        ) {
            let (mut bytes, mut wanted, mut fits, mut heads) = (Vec::new(), Vec::new(), true, 0);
            for (kind, length) in frames {
                fits &= kind == DATA || length <= MAX_HEAD_BYTES;
                frame(kind, length, &mut bytes);
                heads += u32::from(kind == HEADERS);
                if !(kind == DATA && length == 0 && heads == 1) {
                    frame(kind, length, &mut wanted);
                }
            }
            let (mut known, mut passed) = (Frames::of_request(), Vec::new());
            let outcome = bytes.chunks(piece).try_for_each(|data| {
                passed.extend(known.pass(data)?);
                Ok::<_, TooLong>(())
            });
            prop_assert_eq!(outcome.is_ok(), fits);
            prop_assert!(!fits || passed == wanted);
        }
    }
}
