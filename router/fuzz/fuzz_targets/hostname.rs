//! Any text as a hostname: no panic, one canonical form whichever way it is found, and that form stays
//! what it is.
#![no_main]

use control_types::{
    Hostname,
    hostname::{canonical, canonical_authority},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (mut scratch, mut other) = (String::new(), String::new());
    let _ = canonical_authority(text, &mut scratch);
    let name = match canonical(text, &mut scratch) {
        Ok(name) => name.to_owned(),
        Err(error) => {
            assert_eq!(text.parse::<Hostname>(), Err(error));
            return;
        }
    };
    let parsed: Hostname = text.parse().expect("is one both ways");
    assert_eq!(parsed.as_str(), name);
    // Canonical already: nothing is copied.
    other.clear();
    assert_eq!(canonical(&name, &mut other), Ok(&*name));
    assert!(name.contains("xn--") || other.is_empty());
    // By the way of upper case, and with what a client may add.
    assert_eq!(canonical(&name.to_ascii_uppercase(), &mut other), Ok(&*name));
    assert_eq!(canonical(&format!("{name}."), &mut other), Ok(&*name));
    assert_eq!(canonical_authority(&format!("{text}:443"), &mut other), Ok(&*name));
    // By the way of IDNA, which is stricter about hyphens but never finds another name.
    let dots = name.replace('.', "\u{3002}");
    if let Ok(found) = canonical(&dots, &mut other) {
        assert_eq!(found, name);
    }
    assert_eq!(parsed.to_unicode().parse().as_ref(), Ok(&parsed), "as people write it");
});
