//! Realisations, in both forms: a signature covers what is printed, so that is parsed back to the
//! same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use store_types::{BuildTraceEntry, Realisation};

fuzz_target!(|data: &[u8]| {
    if let Ok(entry) = BuildTraceEntry::from_json(data) {
        let printed = entry.to_json();
        assert_eq!(
            BuildTraceEntry::from_json(printed.as_bytes()).unwrap(),
            entry
        );
        let value = entry.value_to_json();
        let again = BuildTraceEntry::from_value_json(entry.key.clone(), value.as_bytes());
        assert_eq!(again.unwrap(), entry);
        let unsigned = BuildTraceEntry::from_json(entry.fingerprint().as_bytes()).unwrap();
        assert!(unsigned.signatures.is_empty());
    }
    if let Ok(realisation) = Realisation::from_json(data) {
        let printed = realisation.to_json();
        let again = Realisation::from_json(printed.as_bytes()).unwrap();
        assert_eq!(again, realisation);
        assert_eq!(again.to_json(), printed);
        let unsigned = Realisation::from_json(realisation.fingerprint().as_bytes()).unwrap();
        assert_eq!(unsigned.out_path, realisation.out_path);
        assert!(unsigned.signatures.is_empty());
    }
});
