//! Derivations: what is printed of one means the same, and is printed again to the same bytes; and
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
    let again = Derivation::parse(&dir, &printed).unwrap();
    assert_eq!(again, derivation);
    assert_eq!(again.to_aterm(&dir), printed);
    let _ = derivation.kind();
    let _ = derivation.drv_path(&dir, "name");
});
