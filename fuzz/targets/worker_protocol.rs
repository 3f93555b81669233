//! The worker protocol: a request, what is said meanwhile, and the answer to it. The first byte
//! tells the version.
#![no_main]

use libfuzzer_sys::fuzz_target;
use store_types::StoreDir;
use store_wire::{Reader, Request, Response, Session, StderrFrame, Version, Writer};

fuzz_target!(|data: &[u8]| {
    let Some((version, data)) = data.split_first() else {
        return;
    };
    let (first, last) = (Version::MINIMUM.minor, Version::LATEST.minor);
    let minor = first + version % (last - first + 1);
    let session = Session::new(Version::new(minor), StoreDir::default());
    if let Ok(frame) = StderrFrame::read(&session, &mut Reader::new(data)) {
        let mut writer = Writer::new();
        frame.write(&session, &mut writer);
        let bytes = writer.into_bytes();
        let again = StderrFrame::read(&session, &mut Reader::new(&bytes[..]));
        assert_eq!(again.unwrap(), frame);
    }
    let mut reader = Reader::new(data);
    let Ok(Some(request)) = Request::read(&session, &mut reader) else {
        return;
    };
    let mut writer = Writer::new();
    request.write(&session, &mut writer);
    let bytes = writer.into_bytes();
    let again = Request::read(&session, &mut Reader::new(&bytes[..]));
    assert_eq!(again.unwrap().as_ref(), Some(&request));
    // What is left is the answer.
    if let Ok(response) = Response::read(&request, &session, &mut reader) {
        let mut writer = Writer::new();
        response.write(&session, &mut writer);
        let bytes = writer.into_bytes();
        let again = Response::read(&request, &session, &mut Reader::new(&bytes[..]));
        assert_eq!(again.unwrap(), response);
    }
});
