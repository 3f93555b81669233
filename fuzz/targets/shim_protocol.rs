//! Calls, as the shims send them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shim_core::protocol::Call;

fuzz_target!(|body: &[u8]| {
    if let Ok(call) = Call::from_body(body) {
        let frame = call.to_frame().unwrap();
        assert!(frame.ends_with(body), "there is one way to write a call");
        assert_eq!(
            Call::from_body(&frame[frame.len() - body.len()..]).unwrap(),
            call
        );
    }
});
