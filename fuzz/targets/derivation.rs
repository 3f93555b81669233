//! Derivations: a hash covers their text, so what is parsed is printed to the same bytes, and
//! what can be asked of one neither panics nor goes on for ever.
#![no_main]

use libfuzzer_sys::fuzz_target;
use store_types::{Derivation, StoreDir};

fuzz_target!(|data: &[u8]| {
    let dir = StoreDir::default();
    let Ok(derivation) = Derivation::parse(&dir, data) else {
        return;
    };
    let printed = derivation.to_aterm(&dir);
    assert_eq!(printed, data);
    assert_eq!(Derivation::parse(&dir, &printed).unwrap(), derivation);
    let _ = derivation.kind();
    let _ = derivation.drv_path(&dir, "name");
});
