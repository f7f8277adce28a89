//! Any bytes as a snapshot, as they are and behind a head that is right: no panic, no memory out of
//! proportion (`-malloc_limit_mb`), and what was read is written and read again the same.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use router::snapshot::{decode, encode};
use sha2::{Digest, Sha256};

const REGION: &str = "r";

fuzz_target!(|payload: &[u8]| {
    let _ = decode(Cursor::new(payload), REGION);
    let mut bytes = b"TA3LEMRT\0\0\0\x02".to_vec();
    bytes.extend((payload.len() as u64).to_be_bytes());
    bytes.extend(Sha256::digest(payload));
    bytes.extend(payload);
    let Ok(first) = decode(Cursor::new(&bytes), REGION) else { return };
    let mut written = Cursor::new(Vec::new());
    encode(&mut written, &first.table, REGION, first.taken_at).expect("is written");
    let second = decode(Cursor::new(written.get_ref()), REGION).expect("is read again");
    assert_eq!(second.table.len(), first.table.len());
    assert_eq!(second.taken_at, first.taken_at);
});
