//! Just enough of the WebSocket framing (RFC 6455) to say goodbye between two frames.

/// What a client is told when its site is held: 1012, service restart. It connects again.
pub const CLOSE_TO_CLIENT: [u8; 4] = [0x88, 0x02, 0x03, 0xf4];
/// The same to an instance: 1001, going away. Clients mask what they send; with zeros it reads as it
/// is.
pub const CLOSE_TO_INSTANCE: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9];

/// Follows one direction and knows where its frames begin.
#[derive(Debug, Default)]
pub struct Frames {
    head: [u8; 14],
    head_length: usize,
    payload: u64,
}

impl Frames {
    /// Whether the last frame that passed is whole.
    pub const fn at_boundary(&self) -> bool {
        self.head_length == 0 && self.payload == 0
    }

    /// Follows what passes.
    pub fn pass(&mut self, mut data: &[u8]) {
        while let Some(end) = self.pass_frame(data) {
            data = data.get(end..).unwrap_or_default();
        }
    }

    /// Follows what passes up to the next end of a frame; where in `data` that is. All of `data`
    /// when no frame ends in it.
    pub fn pass_frame(&mut self, data: &[u8]) -> Option<usize> {
        let mut passed = 0;
        while let Some((first, rest)) = data.get(passed..)?.split_first() {
            if self.payload > 0 {
                let left = 1 + rest.len();
                let taken = usize::try_from(self.payload).unwrap_or(usize::MAX).min(left);
                self.payload -= taken as u64;
                passed += taken;
            } else {
                if let Some(place) = self.head.get_mut(self.head_length) {
                    *place = *first;
                }
                self.head_length += 1;
                passed += 1;
                if let Some(payload) = self.payload_length() {
                    self.payload = payload;
                    self.head_length = 0;
                }
            }
            if self.at_boundary() {
                return Some(passed);
            }
        }
        None
    }

    /// The length of the payload, once the head is whole.
    fn payload_length(&self) -> Option<u64> {
        let head = self.head.get(..self.head_length)?;
        let second = *head.get(1)?;
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        let (length_bytes, short) = match second & 0x7f {
            126 => (2, 0),
            127 => (8, 0),
            short => (0, u64::from(short)),
        };
        if head.len() < 2 + length_bytes + mask {
            return None;
        }
        let long = head.get(2..2 + length_bytes)?;
        Some(long.iter().fold(short, |length, byte| length << 8 | u64::from(*byte)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(payload: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x82];
        match payload {
            0..126 => frame.push(mask | payload as u8),
            126..65_536 => {
                frame.push(mask | 126);
                frame.extend((payload as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((payload as u64).to_be_bytes());
            }
        }
        frame.extend(vec![0xff; payload + if masked { 4 } else { 0 }]);
        frame
    }

    proptest! {
        /// However the bytes come in, a boundary is where a frame ends and nowhere else.
        #[test]
        fn boundaries_are_known(
            payloads in proptest::collection::vec((0_usize..70_000, any::<bool>()), 1..6),
            piece in 1_usize..5_000,
        ) {
            let frames: Vec<_> = payloads.iter().map(|(length, mask)| frame(*length, *mask)).collect();
            let all: Vec<u8> = frames.concat();
            let mut ends = std::collections::HashSet::new();
            let mut at = 0;
            for frame in &frames {
                at += frame.len();
                ends.insert(at);
            }
            let (mut known, mut at) = (Frames::default(), 0);
            for data in all.chunks(piece) {
                known.pass(data);
                at += data.len();
                prop_assert_eq!(known.at_boundary(), ends.contains(&at));
            }
        }
    }
}
