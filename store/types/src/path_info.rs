//! What a store knows of a valid path.

use std::collections::BTreeSet;

use crate::json::{quote, quote_all};
use crate::{ContentAddress, Hash, References, StoreDir, StorePath};

/// What a store knows of a valid path.
///
/// Source: nix `src/libstore/path-info.hh`, `ValidPathInfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathInfo {
    /// The path.
    pub path: StorePath,
    /// The SHA-256 of the object's NAR.
    pub nar_hash: Hash,
    /// The NAR's length in bytes.
    pub nar_size: u64,
    /// The paths that the object refers to, itself included if it does.
    pub references: BTreeSet<StorePath>,
    /// The derivation that the object was made by, if known. It need not be valid.
    pub deriver: Option<StorePath>,
    /// When the path became valid, in seconds since 1970.
    pub registration_time: i64,
    /// Whether this store built the object itself.
    pub ultimate: bool,
    /// Signatures, `<key name>:<base 64>`.
    pub signatures: Vec<String>,
    /// How the path follows from the content, if it does.
    pub ca: Option<ContentAddress>,
}

impl PathInfo {
    /// The references as content addressing counts them: itself apart.
    pub fn references_apart_from_self(&self) -> References {
        let mut others = self.references.clone();
        let has_self = others.remove(&self.path);
        References { others, has_self }
    }

    /// What is signed: `1;<path>;<NAR hash>;<NAR size>;<references>`, paths in full and
    /// references separated by commas; `None` if the size is not known.
    ///
    /// Source: nix `src/libstore/path-info.cc`.
    pub fn fingerprint(&self, dir: &StoreDir) -> Option<String> {
        let references: Vec<String> = self.references.iter().map(|p| dir.display(p)).collect();
        (self.nar_size != 0).then(|| {
            format!(
                "1;{};{};{};{}",
                dir.display(&self.path),
                self.nar_hash.to_prefixed_base32(),
                self.nar_size,
                references.join(",")
            )
        })
    }
}

/// The shape of `nix path-info --json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathInfoJsonShape {
    /// A list of objects with `path`; members without a value are left out (Nix
    /// before 2.19).
    List,
    /// An object by path; members without a value are `null` (Nix 2.34,
    /// `--json-format 1`).
    Map,
}

/// One path as `nix path-info --json` shows it.
#[derive(Clone, Debug)]
pub struct PathInfoJson<'a> {
    /// The path.
    pub path: &'a StorePath,
    /// What is known of it; `None` if it is not valid.
    pub info: Option<&'a PathInfo>,
    /// The sum of the NARs of its closure, if asked for.
    pub closure_size_bytes: Option<u64>,
}

impl PathInfoJsonShape {
    /// The JSON text, sorted by path, without a line end.
    pub fn print<'a>(
        self,
        dir: &StoreDir,
        paths: impl IntoIterator<Item = PathInfoJson<'a>>,
    ) -> String {
        let mut items: Vec<_> = paths.into_iter().collect();
        items.sort_by_key(|item| item.path);
        items.dedup_by_key(|item| item.path);
        let printed = items.iter().map(|item| match self {
            Self::List => item.to_list_item(dir),
            Self::Map => item.to_map_member(dir),
        });
        let printed = printed.collect::<Vec<_>>().join(",");
        match self {
            Self::List => format!("[{printed}]"),
            Self::Map => format!("{{{printed}}}"),
        }
    }
}

impl PathInfoJson<'_> {
    fn to_list_item(&self, dir: &StoreDir) -> String {
        let path = quote(&dir.display(self.path));
        let Some(info) = self.info else {
            return format!(r#"{{"path":{path},"valid":false}}"#);
        };
        let mut members = vec![
            format!(r#""path":{path}"#),
            format!(r#""narHash":{}"#, quote(&info.nar_hash.to_sri())),
            format!(r#""narSize":{}"#, info.nar_size),
            format!(r#""references":{}"#, info.references_to_json(dir)),
        ];
        if let Some(ca) = &info.ca {
            members.push(format!(r#""ca":{}"#, quote(&ca.to_string())));
        }
        if let Some(size) = self.closure_size_bytes {
            members.push(format!(r#""closureSize":{size}"#));
        }
        if let Some(deriver) = &info.deriver {
            members.push(format!(r#""deriver":{}"#, quote(&dir.display(deriver))));
        }
        if info.registration_time != 0 {
            members.push(format!(r#""registrationTime":{}"#, info.registration_time));
        }
        if info.ultimate {
            members.push(r#""ultimate":true"#.to_owned());
        }
        if !info.signatures.is_empty() {
            members.push(format!(r#""signatures":{}"#, quote_all(&info.signatures)));
        }
        format!("{{{}}}", members.join(","))
    }

    fn to_map_member(&self, dir: &StoreDir) -> String {
        let path = quote(&dir.display(self.path));
        let Some(info) = self.info else {
            return format!("{path}:null");
        };
        let or_null = |text: Option<String>| text.map_or("null".to_owned(), |text| quote(&text));
        let mut members = vec![format!(
            r#""ca":{}"#,
            or_null(info.ca.map(|ca| ca.to_string()))
        )];
        if let Some(size) = self.closure_size_bytes {
            members.push(format!(r#""closureSize":{size}"#));
        }
        let time = match info.registration_time {
            0 => "null".to_owned(),
            time => time.to_string(),
        };
        members.extend([
            format!(
                r#""deriver":{}"#,
                or_null(info.deriver.as_ref().map(|path| dir.display(path)))
            ),
            format!(r#""narHash":{}"#, quote(&info.nar_hash.to_sri())),
            format!(r#""narSize":{}"#, info.nar_size),
            format!(r#""references":{}"#, info.references_to_json(dir)),
            format!(r#""registrationTime":{time}"#),
            format!(r#""signatures":{}"#, quote_all(&info.signatures)),
            format!(r#""storeDir":{}"#, quote(dir.as_str())),
            format!(r#""ultimate":{}"#, info.ultimate),
            r#""version":1"#.to_owned(),
        ]);
        format!("{path}:{{{}}}", members.join(","))
    }
}

impl PathInfo {
    fn references_to_json(&self, dir: &StoreDir) -> String {
        quote_all(self.references.iter().map(|path| dir.display(path)))
    }

    /// An item of a graph of `exportReferencesGraph` with structured attributes.
    ///
    /// Source: nix 2.34 `src/libstore/parsed-derivations.cc`.
    pub fn to_graph_json(&self, dir: &StoreDir, closure_size_bytes: u64) -> serde_json::Value {
        let references: Vec<String> = self.references.iter().map(|p| dir.display(p)).collect();
        let mut item = serde_json::json!({
            "closureSize": closure_size_bytes,
            "narHash": self.nar_hash.to_prefixed_base32(),
            "narSize": self.nar_size,
            "path": dir.display(&self.path),
            "references": references,
            "valid": true,
        });
        if let Some(ca) = &self.ca {
            item["ca"] = ca.to_string().into();
        }
        item
    }
}

/// A graph of `exportReferencesGraph` without structured attributes: for each
/// path a line with it, an empty one where its deriver would be, one with the
/// number of its references, and those.
///
/// `infos` must be sorted by path. Source: nix 2.34 `src/libstore/store-api.cc`,
/// `makeValidityRegistration`.
pub fn print_references_graph<'a>(
    dir: &StoreDir,
    infos: impl IntoIterator<Item = &'a PathInfo>,
) -> String {
    let mut text = String::new();
    for info in infos {
        let path = dir.display(&info.path);
        text.push_str(&format!("{path}\n\n{}\n", info.references.len()));
        for reference in &info.references {
            text.push_str(&dir.display(reference));
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sha256;

    fn sample() -> PathInfo {
        let path = |name| {
            StorePath::from_base_name(&format!("0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-{name}")).unwrap()
        };
        PathInfo {
            path: path("a"),
            nar_hash: sha256(b"hello\n"),
            nar_size: 6,
            references: [path("a"), path("b")].into(),
            deriver: Some(path("a.drv")),
            registration_time: 7,
            ultimate: true,
            signatures: vec!["k:AA==".to_owned()],
            ca: None,
        }
    }

    const HASH: &str = "sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=";
    const A: &str = "/nix/store/0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-a";
    const B: &str = "/nix/store/0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-b";

    #[test]
    fn path_info_is_printed_in_the_shapes_of_both_nixes() {
        let dir = StoreDir::default();
        let info = sample();
        let other = StorePath::from_base_name("0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-b").unwrap();
        let items = [
            PathInfoJson {
                path: &other,
                info: None,
                closure_size_bytes: None,
            },
            PathInfoJson {
                path: &info.path,
                info: Some(&info),
                closure_size_bytes: Some(9),
            },
        ];
        assert_eq!(
            PathInfoJsonShape::List.print(&dir, items.clone()),
            format!(
                r#"[{{"path":"{A}","narHash":"{HASH}","narSize":6,"references":["{A}","{B}"],"closureSize":9,"deriver":"{A}.drv","registrationTime":7,"ultimate":true,"signatures":["k:AA=="]}},{{"path":"{B}","valid":false}}]"#
            )
        );
        assert_eq!(
            PathInfoJsonShape::Map.print(&dir, items),
            format!(
                r#"{{"{A}":{{"ca":null,"closureSize":9,"deriver":"{A}.drv","narHash":"{HASH}","narSize":6,"references":["{A}","{B}"],"registrationTime":7,"signatures":["k:AA=="],"storeDir":"/nix/store","ultimate":true,"version":1}},"{B}":null}}"#
            )
        );
    }

    #[test]
    fn a_references_graph_names_no_deriver() {
        assert_eq!(
            print_references_graph(&StoreDir::default(), [&sample()]),
            format!("{A}\n\n2\n{A}\n{B}\n")
        );
    }
}
