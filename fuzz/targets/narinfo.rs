//! Narinfos: what is parsed is printed to something that means the same, and then to the same
//! bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use store_types::{NarInfo, StoreDir};

fuzz_target!(|text: &str| {
    let dir = StoreDir::default();
    if let Ok(narinfo) = NarInfo::parse(&dir, text) {
        let printed = narinfo.print(&dir);
        let again = NarInfo::parse(&dir, &printed).unwrap();
        assert_eq!(again, narinfo);
        assert_eq!(again.print(&dir), printed);
        assert!(narinfo.info.fingerprint(&dir).is_some());
    }
});
