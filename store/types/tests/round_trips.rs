//! Whatever is printed is read back, and whatever is read is printed to the same
//! bytes.

use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use store_types::{
    BuildTraceEntry, BuildTraceKey, ContentAddress, ContentAddressMethod, Derivation,
    DerivationJsonShape, DerivationOutput, DerivedPath, DrvOutput, Hash, HashAlgorithm,
    InputOutputs, NarInfo, OutputsSpec, PathInfo, PlaceholderRewrites, Realisation, References,
    Signature, SingleDerivedPath, StoreDir, StorePath, output_path_name, output_placeholder,
};

fn store_path(suffix: &'static str) -> impl Strategy<Value = StorePath> {
    (any::<[u8; 20]>(), "[a-zA-Z0-9+_?=-][a-zA-Z0-9+._?=-]{0,20}").prop_map(move |(hash, name)| {
        StorePath::from_hash_and_name(&hash, &format!("{name}{suffix}")).unwrap()
    })
}

fn algorithm() -> impl Strategy<Value = HashAlgorithm> {
    prop_oneof![
        Just(HashAlgorithm::Md5),
        Just(HashAlgorithm::Sha1),
        Just(HashAlgorithm::Sha256),
        Just(HashAlgorithm::Sha512),
        Just(HashAlgorithm::Blake3),
    ]
}

fn hash() -> impl Strategy<Value = Hash> {
    (algorithm(), any::<u64>()).prop_map(|(algorithm, n)| algorithm.digest(&n.to_le_bytes()))
}

fn method() -> impl Strategy<Value = ContentAddressMethod> {
    prop_oneof![
        Just(ContentAddressMethod::Text),
        Just(ContentAddressMethod::Flat),
        Just(ContentAddressMethod::Nar),
        Just(ContentAddressMethod::Git),
    ]
}

fn output() -> impl Strategy<Value = DerivationOutput> {
    prop_oneof![
        store_path("").prop_map(DerivationOutput::InputAddressed),
        Just(DerivationOutput::Deferred),
        (method(), hash(), store_path("")).prop_map(|(method, hash, path)| {
            DerivationOutput::Fixed {
                ca: ContentAddress { method, hash },
                path,
            }
        }),
        (method(), algorithm())
            .prop_map(|(method, algorithm)| DerivationOutput::Floating { method, algorithm }),
        (method(), algorithm())
            .prop_map(|(method, algorithm)| DerivationOutput::Impure { method, algorithm }),
    ]
}

fn output_name() -> impl Strategy<Value = String> {
    "[a-z]{1,8}"
}

fn input_outputs() -> impl Strategy<Value = InputOutputs> {
    let plain = btree_set(output_name(), 1..4).prop_map(InputOutputs::from);
    plain.prop_recursive(3, 8, 3, |child| {
        let dynamic = btree_map(output_name(), child, 1..3);
        (btree_set(output_name(), 0..3), dynamic).prop_map(|(outputs, dynamic_outputs)| {
            InputOutputs {
                outputs,
                dynamic_outputs,
            }
        })
    })
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..20),
        vec(prop::sample::select(b"\"\\\n\r\t,)]a".as_slice()), 0..20),
    ]
}

fn derivation() -> impl Strategy<Value = Derivation> {
    (
        btree_map(output_name(), output(), 0..4),
        btree_map(store_path(".drv"), input_outputs(), 0..4),
        btree_set(store_path(""), 0..4),
        (bytes(), bytes()),
        vec(bytes(), 0..5),
        btree_map(bytes(), bytes(), 0..5),
    )
        .prop_map(
            |(outputs, input_drvs, input_srcs, (system, builder), args, env)| Derivation {
                outputs,
                input_drvs,
                input_srcs,
                system: system.into(),
                builder: builder.into(),
                args: args.into_iter().map(Into::into).collect(),
                env: env.into_iter().map(|(k, v)| (k.into(), v.into())).collect(),
            },
        )
}

/// One that JSON can hold.
fn derivation_of_text() -> impl Strategy<Value = Derivation> {
    let text = || "[ -~\n\tü\u{1}]{0,12}";
    let attributes = vec(("[a-z]{1,4}", any::<i32>()), 0..3).prop_map(|members| {
        let members = members.into_iter().map(|(name, n)| (name, n.into()));
        serde_json::Value::Object(members.collect()).to_string()
    });
    let env = btree_map("[a-zA-Z]{0,5}", text(), 0..5);
    (
        derivation(),
        vec(text(), 0..4),
        env,
        proptest::option::of(attributes),
    )
        .prop_map(|(drv, args, mut env, attributes)| {
            if let Some(attributes) = attributes {
                env.insert("__json".to_owned(), attributes);
            }
            Derivation {
                system: "x86_64-linux".into(),
                builder: "/bin/sh".into(),
                args: args.into_iter().map(Into::into).collect(),
                env: env.into_iter().map(|(k, v)| (k.into(), v.into())).collect(),
                ..drv
            }
        })
}

proptest! {
    #[test]
    fn a_printed_derivation_is_read_back(drv in derivation()) {
        let dir = StoreDir::default();
        prop_assert_eq!(Derivation::parse(&dir, &drv.to_aterm(&dir)), Ok(drv));
    }

    #[test]
    fn a_damaged_derivation_is_refused_or_means_what_is_printed_of_it(
        drv in derivation(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let dir = StoreDir::default();
        let mut damaged = drv.to_aterm(&dir);
        let at = at.index(damaged.len());
        damaged[at] = byte;
        if let Ok(other) = Derivation::parse(&dir, &damaged) {
            prop_assert_eq!(Derivation::parse(&dir, &other.to_aterm(&dir)), Ok(other));
        }
    }

    #[test]
    fn the_json_of_a_derivation_is_read_back(mut drv in derivation_of_text()) {
        let dir = StoreDir::default();
        // Paths of fixed outputs are not in it.
        for (name, output) in &mut drv.outputs {
            let DerivationOutput::Fixed { ca, path } = output else { continue };
            if !ca.method.allows(ca.hash.algorithm()) {
                *output = DerivationOutput::Deferred;
                continue;
            }
            let path_name = output_path_name("x", name);
            *path = dir
                .content_addressed_path(&path_name, ca, &References::default())
                .unwrap();
        }
        let path = drv.drv_path(&dir, "x").unwrap();
        for is_pretty in [false, true] {
            let printed = DerivationJsonShape::Version4
                .print(&dir, [(&path, &drv)], is_pretty)
                .unwrap();
            let whole: serde_json::Value = serde_json::from_slice(&printed).unwrap();
            let one = whole["derivations"][path.base_name()].to_string();
            let (name, read) = Derivation::from_json(&dir, one.as_bytes()).unwrap();
            prop_assert_eq!(&name, "x");
            prop_assert_eq!(&read, &drv);
            let printed = DerivationJsonShape::FullPaths
                .print(&dir, [(&path, &drv)], is_pretty)
                .unwrap();
            let whole: serde_json::Value = serde_json::from_slice(&printed).unwrap();
            let one = whole[dir.display(&path)].to_string();
            let (name, read) = Derivation::from_json(&dir, one.as_bytes()).unwrap();
            prop_assert_eq!(&name, "x");
            prop_assert_eq!(&read, &drv);
        }
    }

    #[test]
    fn content_addresses_are_read_back(method in method(), hash in hash()) {
        let ca = ContentAddress { method, hash };
        prop_assert_eq!(ca.to_string().parse(), Ok(ca));
        let printed = method.with_algorithm(hash.algorithm());
        prop_assert_eq!(
            ContentAddressMethod::parse_with_algorithm(&printed),
            Some((method, hash.algorithm()))
        );
    }

    #[test]
    fn deriving_paths_are_read_back(
        base in store_path(".drv"),
        nested in vec(output_name(), 0..4),
        names in btree_set(output_name(), 0..4),
    ) {
        let dir = StoreDir::default();
        let outputs = match names.is_empty() {
            true => OutputsSpec::All,
            false => OutputsSpec::Names(names),
        };
        let drv = SingleDerivedPath { base, outputs: nested };
        let path = DerivedPath::Built { drv, outputs };
        prop_assert_eq!(DerivedPath::parse_wire(&dir, &path.to_wire(&dir)), Ok(path.clone()));
        prop_assert_eq!(DerivedPath::parse(&dir, &path.display(&dir)), Ok(path));
    }

    #[test]
    fn realisations_are_read_back(
        drv_hash in hash(),
        output_name in output_name(),
        out_path in store_path(""),
        signatures in vec("[ -~]{0,20}", 0..3),
    ) {
        let id = DrvOutput { drv_hash, output_name };
        let realisation = Realisation {
            dependent_realisations: [(id.clone(), out_path.clone())].into(),
            id,
            out_path,
            signatures,
        };
        let read = Realisation::from_json(realisation.to_json().as_bytes()).unwrap();
        prop_assert_eq!(read, realisation);
    }

    #[test]
    fn build_trace_entries_are_read_back(
        drv_path in store_path(".drv"),
        output_name in output_name(),
        out_path in store_path(""),
        signatures in btree_set(signature(), 0..3),
    ) {
        let key = BuildTraceKey { drv_path, output_name };
        let entry = BuildTraceEntry { key: key.clone(), out_path, signatures };
        let read = BuildTraceEntry::from_json(entry.to_json().as_bytes()).unwrap();
        prop_assert_eq!(&read, &entry);
        let text = entry.value_to_json();
        let read = BuildTraceEntry::from_value_json(key, text.as_bytes()).unwrap();
        prop_assert_eq!(read, entry);
    }

    #[test]
    fn replacing_placeholders_leaves_everything_else(parts in vec("[ab/]{0,60}", 1..5)) {
        let mut rewrites = PlaceholderRewrites::new();
        rewrites.insert(output_placeholder("out"), "<out>");
        let replaced = rewrites.apply(parts.join(&output_placeholder("out")).as_bytes());
        prop_assert_eq!(replaced, parts.join("<out>"));
    }
}

fn signature() -> impl Strategy<Value = Signature> {
    ("[a-z.0-9-]{1,12}", vec(any::<u8>(), 1..70))
        .prop_map(|(key_name, bytes)| Signature { key_name, bytes })
}

fn narinfo() -> impl Strategy<Value = NarInfo> {
    (
        (
            store_path(""),
            any::<[u8; 32]>(),
            1..u64::MAX,
            btree_set(store_path(""), 0..4),
        ),
        (
            proptest::option::of(store_path(".drv")),
            btree_set(signature(), 0..3),
        ),
        proptest::option::of(
            (method(), hash()).prop_map(|(method, hash)| ContentAddress { method, hash }),
        ),
        (
            "[!-~]{1,20}",
            "[a-z0-9]{1,5}",
            proptest::option::of(1..u64::MAX),
        ),
    )
        .prop_map(
            |((path, bytes, nar_size, references), (deriver, signatures), ca, file)| {
                let nar_hash = Hash::new(HashAlgorithm::Sha256, &bytes).unwrap();
                let (url, compression, file_size) = file;
                NarInfo {
                    info: PathInfo {
                        path,
                        nar_hash,
                        nar_size,
                        references,
                        deriver,
                        registration_time: 0,
                        ultimate: false,
                        signatures: signatures.iter().map(Signature::to_string).collect(),
                        ca,
                    },
                    url,
                    compression,
                    file_hash: file_size.map(|_| nar_hash),
                    file_size,
                }
            },
        )
}

proptest! {
    #[test]
    fn narinfos_are_printed_and_parsed_back(narinfo in narinfo()) {
        let dir = StoreDir::default();
        let text = narinfo.print(&dir);
        prop_assert_eq!(NarInfo::parse(&dir, &text).unwrap(), narinfo);
    }

    #[test]
    fn signatures_are_printed_and_parsed_back(signature in signature()) {
        prop_assert_eq!(signature.to_string().parse(), Ok(signature));
    }
}
