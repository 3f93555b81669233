//! Derivations as JSON: what is read is printed to what is read again to the same, and to the
//! same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use store_types::{Derivation, DerivationJsonShape, StoreDir, StorePath};

fuzz_target!(|data: &[u8]| {
    let dir = StoreDir::default();
    let Ok((name, drv)) = Derivation::from_json(&dir, data) else {
        return;
    };
    // Its name may be one that no path has.
    let base_name = format!("{}-{name}.drv", "0".repeat(32));
    let Ok(path) = StorePath::from_base_name(&base_name) else {
        return;
    };
    let print = |drv: &Derivation, shape: DerivationJsonShape| {
        shape
            .print(&dir, [(&path, drv)], false)
            .expect("what was read from JSON is text")
    };
    let printed = print(&drv, DerivationJsonShape::Version4);
    let begin = format!("{{\"derivations\":{{\"{base_name}\":");
    let one = printed.strip_prefix(begin.as_bytes()).unwrap();
    let one = one.strip_suffix(b"},\"version\":4}").unwrap();
    let (name_again, again) = Derivation::from_json(&dir, one).unwrap();
    assert_eq!(name_again, name);
    // Structured attributes are printed in one way, whatever way they were written in.
    if !drv.env.contains_key("__json".as_bytes()) {
        assert_eq!(again, drv);
    }
    assert_eq!(print(&again, DerivationJsonShape::Version4), printed);
    let printed = print(&drv, DerivationJsonShape::FullPaths);
    let begin = format!("{{\"{}\":", dir.display(&path));
    let one = printed.strip_prefix(begin.as_bytes()).unwrap();
    let one = one.strip_suffix(b"}").unwrap();
    assert_eq!(Derivation::from_json(&dir, one).unwrap(), (name, drv.clone()));
    print(&drv, DerivationJsonShape::Nix28);
});
