//! Store paths, content addresses, hashes, base 32, base 64, keys and signatures: what is
//! parsed is printed to something that means the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use store_types::{
    ContentAddress, ContentAddressMethod, Hash, HashAlgorithm, PublicKey, SecretKey, Signature,
    StoreDir, StorePath, base32, base64,
};

fuzz_target!(|data: &[u8]| {
    for len in [16, 20, 32, 64] {
        if let Some(bytes) = data.get(..len) {
            assert_eq!(base32::decode(&base32::encode(bytes), len).unwrap(), bytes);
        }
    }
    assert_eq!(base64::decode(&base64::encode(data)).unwrap(), data);
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let dir = StoreDir::default();
    if let Ok(path) = dir.parse(text) {
        assert_eq!(dir.display(&path), text);
    }
    if let Ok(path) = StorePath::from_base_name(text) {
        assert_eq!(path.base_name(), text);
        assert_eq!(path.hash_part().len(), 32);
    }
    if let Ok(hash) = Hash::parse_any(text) {
        for printed in [
            hash.to_prefixed_base32(),
            hash.to_prefixed_hex(),
            hash.to_sri(),
        ] {
            assert_eq!(Hash::parse_any(&printed).unwrap(), hash);
        }
    }
    for algorithm in HashAlgorithm::ALL {
        if let Ok(hash) = Hash::parse_unprefixed(algorithm, text) {
            assert_eq!(
                Hash::parse_unprefixed(algorithm, &hash.to_base32()).unwrap(),
                hash
            );
        }
        if let Some(bytes) = base32::decode(text, algorithm.digest_len()) {
            assert_eq!(base32::encode(&bytes), text);
        }
    }
    if let Ok(ca) = text.parse::<ContentAddress>() {
        assert_eq!(ca.to_string().parse(), Ok(ca));
    }
    if let Some((method, algorithm)) = ContentAddressMethod::parse_with_algorithm(text) {
        assert_eq!(method.with_algorithm(algorithm), text);
    }
    if let Ok(signature) = text.parse::<Signature>() {
        assert_eq!(signature.to_string().parse(), Ok(signature));
    }
    if let Ok(key) = text.parse::<PublicKey>() {
        assert_eq!(key.to_string().parse(), Ok(key));
    }
    if let Ok(key) = text.parse::<SecretKey>() {
        let signature = key.sign(data);
        assert!(key.public_key().verify(data, &signature));
    }
});
