//! Why the store on disk did not do what it was asked for.

use std::io;
use std::path::PathBuf;

use crate::add::DRV_LEN_MAX;
use store_nar::NarError;
use store_types::{ContentAddressedPathError, Hash, OutputPathError, StorePath};

/// Why the store on disk did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The file system refused something.
    #[error("cannot {operation} `{path}`", path = path.display())]
    Io {
        /// What was tried, like `open`.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The store cannot be used as it is.
    #[error("cannot use the store in `{root}`: {reason}; {advice}", root = root.display())]
    Unusable {
        /// The directory that the store lies in.
        root: PathBuf,
        /// What is wrong, naming the file.
        reason: String,
        /// What to do about it.
        advice: &'static str,
        /// The database's answer, if it gave one.
        source: Option<Box<rusqlite::Error>>,
    },
    /// Something was to be changed in a store that is read-only.
    #[error("cannot {operation}: the store in `{place}` is read-only", place = place.display())]
    ReadOnly {
        /// What was to be done, like `register paths`.
        operation: &'static str,
        /// The store.
        place: PathBuf,
    },
    /// The paths in the database begin with another directory.
    #[error(
        "cannot use the store in `{place}` as one of `{dir}`: it has `{found}`; `store=…` in its name, or `NIX_STORE_DIR`, says which directory its paths begin with",
        place = place.display()
    )]
    OtherStoreDir {
        /// The store.
        place: PathBuf,
        /// The directory that its paths should begin with.
        dir: String,
        /// A path of it.
        found: String,
    },
    /// The database failed.
    #[error("cannot {operation} in the database `{path}`", path = path.display())]
    Database {
        /// What was tried, like `register paths`.
        operation: &'static str,
        /// The database.
        path: PathBuf,
        /// Its answer.
        source: rusqlite::Error,
    },
    /// The database holds what it cannot hold.
    #[error("the database has `{value}` as the {column} of `{row}`")]
    MalformedRow {
        /// The store path or id that the row is about.
        row: String,
        /// What should have been there.
        column: &'static str,
        /// What is there.
        value: String,
    },
    /// A tree could not be read or written.
    #[error("cannot {operation} `{object}`")]
    Tree {
        /// What was tried, like `add`.
        operation: &'static str,
        /// The store path, or the name it was to have.
        object: String,
        /// The cause, which names the file.
        source: NarError,
    },
    /// A path that must be valid is not.
    #[error("path `{path}` is not valid")]
    NotValid {
        /// The path.
        path: StorePath,
    },
    /// A derivation was wanted, and the path's name is not one's. In Nix's words.
    #[error("store path `{path}` is not a valid derivation path")]
    NoDerivation {
        /// The path.
        path: StorePath,
    },
    /// A derivation is too long.
    #[error("derivation `{path}` is longer than {DRV_LEN_MAX} bytes")]
    LongDerivation {
        /// The path.
        path: StorePath,
    },
    /// A path that was to be borrowed is not where it is borrowed from.
    #[error("path `{path}` is not in the store that it is to be borrowed from")]
    NotLent {
        /// The path.
        path: StorePath,
    },
    /// A path that must not be valid yet is.
    #[error("path `{path}` is valid already")]
    AlreadyValid {
        /// The path.
        path: StorePath,
    },
    /// A path refers to one that is not valid.
    #[error("path `{path}` refers to `{reference}`, which is not valid")]
    ReferenceNotValid {
        /// The path.
        path: StorePath,
        /// What it refers to.
        reference: StorePath,
    },
    /// Paths that refer to one another in a circle.
    #[error("path `{path}` refers to itself by way of `{reference}`")]
    ReferenceCycle {
        /// The path.
        path: StorePath,
        /// A path that it refers to, and that leads back to it.
        reference: StorePath,
    },
    /// A path is valid already, with other content.
    #[error(
        "path `{path}` is valid with the hash {present}, and cannot be registered with {wanted}",
        present = present.to_sri(),
        wanted = wanted.to_sri()
    )]
    OtherContent {
        /// The path.
        path: StorePath,
        /// The NAR hash of the valid object.
        present: Box<Hash>,
        /// The NAR hash that was to be registered.
        wanted: Box<Hash>,
    },
    /// A path cannot be made invalid, because another refers to it.
    #[error("path `{path}` is still referred to by `{referrer}`")]
    StillReferenced {
        /// The path.
        path: StorePath,
        /// What refers to it.
        referrer: StorePath,
    },
    /// The object that came is not the one announced.
    #[error("hash mismatch of `{path}`: specified {wanted}, got {found}", wanted = wanted.to_sri(), found = found.to_sri())]
    HashMismatch {
        /// The path.
        path: StorePath,
        /// The hash that was announced.
        wanted: Box<Hash>,
        /// The hash of what came.
        found: Box<Hash>,
    },
    /// The content that came is not the one that its path is made of. In Nix's words.
    #[error(
        "ca hash mismatch importing path '{path}';\n  specified: {wanted}\n  got:       {found}",
        wanted = wanted.to_prefixed_base32(),
        found = found.to_prefixed_base32()
    )]
    ContentAddressMismatch {
        /// The path, with the store's directory.
        path: String,
        /// The hash in its content address.
        wanted: Box<Hash>,
        /// The hash of what came.
        found: Box<Hash>,
    },
    /// A text that is to be kept as a signature is none. In Nix's words.
    #[error("signature is corrupt")]
    Signature,
    /// A path would have more signatures than are kept.
    #[error("path `{path}` has too many signatures")]
    ManySignatures {
        /// The path.
        path: StorePath,
    },
    /// The object that came is not as long as announced.
    #[error("size mismatch of `{path}`: specified {wanted} bytes, got {found}")]
    SizeMismatch {
        /// The path.
        path: StorePath,
        /// The length of the NAR that was announced, in bytes.
        wanted: u64,
        /// The length of the NAR that came, in bytes.
        found: u64,
    },
    /// A path does not follow from the content address that comes with it.
    #[error("path `{path}` does not follow from its content, which gives `{computed}`")]
    WrongContentAddress {
        /// The path.
        path: StorePath,
        /// The path that does follow.
        computed: StorePath,
    },
    /// No path follows from a name, content and references.
    #[error("cannot address `{name}` by its content")]
    ContentAddress {
        /// The name.
        name: String,
        /// Why not.
        source: ContentAddressedPathError,
    },
    /// A `.drv` that is not a derivation.
    #[error("`{path}` is not a derivation")]
    Derivation {
        /// The path.
        path: StorePath,
        /// Why not.
        source: store_types::DerivationParseError,
    },
    /// A derivation with output paths that do not follow from it.
    #[error("derivation `{path}` is wrong")]
    DerivationOutputs {
        /// The path.
        path: StorePath,
        /// Why not.
        source: Box<OutputPathError<LocalError>>,
    },
    /// An object is to be addressed by the bytes of one file, and is no such file.
    #[error("`{name}` must be a regular file that is not executable, for its hash is to be flat")]
    NotFlat {
        /// The object's name.
        name: String,
    },
    /// An object that is to be addressed by the bytes of one file is none.
    #[error("`{name}` is no regular file, and its hash is to be of one's bytes")]
    NoFile {
        /// The object's name.
        name: String,
    },
    /// A file in an output that the builder does not own.
    #[error("`{path}` is owned by user {uid}, not by the builder", path = path.display())]
    Ownership {
        /// The file, relative to where the tree is.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// An output that others may write to.
    #[error("suspicious ownership or permission on `{path}`: it may be written by its group or by everybody", path = path.display())]
    WritableByOthers {
        /// The output.
        path: PathBuf,
    },
    /// An output was realised before, by another path.
    #[error("`{id}` is `{present}` already, and cannot be `{wanted}`")]
    OtherRealisation {
        /// The output, `sha256:<hash>!<name>`.
        id: String,
        /// The path it has.
        present: StorePath,
        /// The path it was to have.
        wanted: StorePath,
    },
    /// A realisation depends on one that is not known.
    #[error("the realisation of `{id}` depends on that of `{dependency}`, which is not known")]
    UnknownRealisation {
        /// The output.
        id: String,
        /// The one it depends on.
        dependency: String,
    },
    /// A path cannot be deleted, because it is needed.
    #[error("path `{path}` cannot be deleted: {}", match keeper {
        Some(keeper) => format!("it is needed by `{keeper}`"),
        None => "it is still alive, as `droste store roots` and `nix-store --query --roots` show".to_owned(),
    })]
    StillAlive {
        /// The path.
        path: StorePath,
        /// What needs it, unless that is a root.
        keeper: Option<StorePath>,
    },
    /// A link cannot be a root.
    #[error("`{link}` cannot be a root: {reason}", link = link.display())]
    RootRefused {
        /// The link.
        link: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// The garbage collector holds its lock, but does not answer.
    #[error("the garbage collector holds `{path}`, but does not answer", path = path.display())]
    CollectorSilent {
        /// The lock.
        path: PathBuf,
    },
}

impl LocalError {
    /// An [`Io`](Self::Io) error, for `map_err`.
    pub(crate) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            operation,
            path: path.into(),
            source,
        }
    }

    /// A [`Tree`](Self::Tree) error, for `map_err`.
    pub(crate) fn tree(
        operation: &'static str,
        object: impl ToString,
    ) -> impl FnOnce(NarError) -> Self {
        move |source| Self::Tree {
            operation,
            object: object.to_string(),
            source,
        }
    }
}
