//! The nouns of a Nix store and their formats: bytes in, values out.
//!
//! This crate opens no file and no socket. What is written here was checked
//! against real Nix (2.8 and 2.34); the facts' sources are named where they
//! are used.

pub mod base32;
pub mod base64;
mod build_trace;
mod content_address;
mod derivation;
mod derived_path;
mod hash;
mod json;
mod narinfo;
mod path_info;
mod realisation;
mod signature;
mod store_path;
mod store_reference;

pub use build_trace::{BuildTraceEntry, BuildTraceError, BuildTraceKey};
pub use content_address::{
    ContentAddress, ContentAddressMethod, ContentAddressParseError, ContentAddressedPathError,
    References,
};
pub use derivation::{
    Derivation, DerivationFromJsonError, DerivationJsonShape, DerivationKind, DerivationKindError,
    DerivationOptions, DerivationOptionsError, DerivationOutput, DerivationOutputError,
    DerivationParseError, DerivationToJsonError, HashModulo, HashModuloError, HashesModulo,
    InputOutputs, OutputChecks, OutputPathError, PlaceholderRewrites, ResolveError,
    StructuredAttrs, attribute_file_name, computed_placeholder, output_path_name,
    output_placeholder, upstream_placeholder,
};
pub use derived_path::{
    DerivedPath, DerivedPathError, NESTING_MAX, OutputsSpec, SingleDerivedPath, is_output_name,
};
pub use hash::{Hash, HashAlgorithm, HashParseError, Sha256Hasher, sha256};
pub use narinfo::{NARINFO_LEN_MAX, NarInfo, NarInfoError};
pub use path_info::{PathInfo, PathInfoJson, PathInfoJsonShape, print_references_graph};
pub use realisation::{DrvOutput, Realisation, RealisationError};
#[cfg(feature = "signatures")]
pub use signature::{KeyError, PublicKey, PublicKeys, SecretKey};
pub use signature::{Signature, SignatureParseError};
pub use store_path::{StoreDir, StorePath, StorePathError};
pub use store_reference::{
    STORE_REFERENCE_LEN_MAX, StoreKind, StoreReference, StoreReferenceError, encode_store_param,
};
