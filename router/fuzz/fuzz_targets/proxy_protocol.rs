//! Any bytes in the place of a PROXY header: no panic, never a byte beyond the header, and what was
//! read once is read again the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_protocol::Progress;

#[path = "../../src/proxy_protocol.rs"]
#[allow(dead_code, reason = "reading from a stream is left to the tests")]
mod proxy_protocol;

fuzz_target!(|bytes: &[u8]| {
    let mut read = 0;
    while let Ok(progress) = proxy_protocol::progress(&bytes[..read]) {
        match progress {
            Progress::Needs(more) => {
                assert!(more > 0);
                read += more;
                assert!(read <= 16 + 4_096, "bounded");
                if read > bytes.len() {
                    return;
                }
            }
            Progress::Done(header) => {
                if let Some(source) = header.source {
                    let written = proxy_protocol::header(source, source, header.relayed, header.version);
                    assert_eq!(proxy_protocol::progress(&written), Ok(Progress::Done(header)));
                }
                return;
            }
        }
    }
});
