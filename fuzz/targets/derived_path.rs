//! Deriving paths, of the wire and of the command line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use store_types::{DerivedPath, DrvOutput, StoreDir};

fuzz_target!(|text: &str| {
    let dir = StoreDir::default();
    if let Ok(path) = DerivedPath::parse_wire(&dir, text) {
        let printed = path.to_wire(&dir);
        assert_eq!(DerivedPath::parse_wire(&dir, &printed).unwrap(), path);
    }
    if let Ok(path) = DerivedPath::parse(&dir, text) {
        let printed = path.display(&dir);
        assert_eq!(DerivedPath::parse(&dir, &printed).unwrap(), path);
    }
    if let Ok(output) = text.parse::<DrvOutput>() {
        assert_eq!(output.to_string().parse::<DrvOutput>().unwrap(), output);
    }
});
