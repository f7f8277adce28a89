//! HTTP/2, frame by frame: no library would send what attackers send.

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RESET: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).expect("is short").to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A literal header that goes into the table of the connection, or does not.
pub fn literal(indexed: bool, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    let mut block = vec![if indexed { 0x40 } else { 0 }];
    for text in [name.as_ref(), value.as_ref()] {
        assert!(text.len() < 127 + 128, "has a length of one or two bytes");
        if text.len() < 127 {
            block.push(u8::try_from(text.len()).expect("is short"));
        } else {
            block.extend([127, u8::try_from(text.len() - 127).expect("is short")]);
        }
        block.extend(text);
    }
    block
}
