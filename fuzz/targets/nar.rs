//! Archives: what is accepted is passed on to the byte; git's hash is taken of just those, and
//! no answer depends on where a stream is cut.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use store_nar::{GitHasher, copy};
use store_types::HashAlgorithm;

fn git(pieces: impl Iterator<Item = Vec<u8>>) -> Option<store_types::Hash> {
    let mut hasher = GitHasher::new(HashAlgorithm::Sha1).unwrap();
    for piece in pieces {
        hasher.write_all(&piece).ok()?;
    }
    hasher.finish().ok()
}

fuzz_target!(|data: &[u8]| {
    let (mut rest, mut copied) = (data, Vec::new());
    let Ok(len) = copy(&mut rest, &mut copied) else {
        assert_eq!(git([data.to_vec()].into_iter()), None);
        return;
    };
    let len = usize::try_from(len).unwrap();
    assert_eq!(copied, data[..len]);
    assert_eq!(rest, &data[len..]);
    let whole = git([copied.clone()].into_iter());
    assert!(whole.is_some());
    assert_eq!(whole, git(copied.chunks(5).map(<[u8]>::to_vec)));
});
