//! Outputs whose paths follow from their content, built at a path of their own.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;

use store_nar::{
    HashModuloSink, HashModuloVariant, Hasher, RefScanner, Tee, dump, hash_part, remove_tree,
    rewrite_tree,
};
use store_types::{
    ContentAddress, ContentAddressMethod, HashAlgorithm, PathInfo, References, StorePath,
};

use crate::add::{OBJECT, feed_content, git_hash};
use crate::temp::TempDir;
use crate::{LocalError, LocalStore, canonicalise};

/// A tree that a builder made, before it has its final path.
#[derive(Clone, Debug)]
pub struct OutputTree<'a> {
    /// The directory that it is in, on the store's file system.
    pub dir: BorrowedFd<'a>,
    /// Its name there.
    pub node: &'a OsStr,
    /// The path that the builder knew it by. The final path has the same name.
    pub scratch: &'a StorePath,
    /// What of it is hashed.
    pub method: ContentAddressMethod,
    /// How.
    pub algorithm: HashAlgorithm,
    /// How its references to itself are hashed.
    pub variant: HashModuloVariant,
    /// What it may refer to, `scratch` apart.
    pub candidates: &'a BTreeSet<StorePath>,
    /// Who may own the files; `None` if that is not to be checked.
    pub builder_uids: Option<RangeInclusive<u32>>,
    /// Whether the database is to say that the path follows from the content. Nix 2.8
    /// and 2.34 disagree on the hash of an object that refers to itself, and each refuses
    /// to copy one that the other made; without this, both copy it like an
    /// input-addressed one.
    pub records_content_address: bool,
    /// The derivation that it was built by.
    pub deriver: Option<&'a StorePath>,
}

/// A canonical tree that knows its final path, but is not at it.
struct Addressed {
    info: PathInfo,
    /// Where it is, unless it is still where the builder left it.
    rewritten: Option<TempDir>,
}

impl LocalStore {
    /// Adds a tree that may mention its own path: makes it canonical, finds what
    /// it refers to, takes its hash modulo the own hash part, puts the final path
    /// in place of the one it was built at, moves it into place and registers it.
    ///
    /// The tree is gone from its place afterwards, also if its path was valid
    /// already; what the store knows of the path is returned then. After an error
    /// it may be there.
    ///
    /// Source: nix `src/libstore/unix/build/derivation-builder.cc`.
    pub fn add_self_referential(&self, tree: &OutputTree<'_>) -> Result<PathInfo, LocalError> {
        let name = tree.scratch.name();
        let addressed = self.address(tree)?;
        let info = match &addressed.rewritten {
            Some(temp) => self.finish_add(temp.fd(), addressed.info)?,
            None => self.finish_add_node(tree.dir, tree.node, addressed.info)?,
        };
        remove_tree(tree.dir, tree.node).map_err(LocalError::tree("remove", name))?;
        Ok(info)
    }

    fn address(&self, tree: &OutputTree<'_>) -> Result<Addressed, LocalError> {
        let name = tree.scratch.name();
        canonicalise(tree.dir, tree.node, tree.builder_uids.clone())?;
        let own = hash_part(tree.scratch);
        let mut modulo = HashModuloSink::new(tree.algorithm, &own, tree.variant);
        let mut scanner = RefScanner::new(tree.candidates.iter().chain([tree.scratch]));
        let mut nar_hasher = Hasher::new(HashAlgorithm::Sha256);
        let hash = match tree.method {
            ContentAddressMethod::Nar => {
                let sinks = Tee::new(vec![&mut modulo, &mut scanner, &mut nar_hasher]);
                self.feed(tree, sinks)?;
                modulo.finish().0
            }
            ContentAddressMethod::Flat | ContentAddressMethod::Text => {
                feed_content(name, tree.method, tree.dir, tree.node, &mut modulo)?;
                self.feed(tree, Tee::new(vec![&mut scanner, &mut nar_hasher]))?;
                modulo.finish().0
            }
            // One that refers to itself has no path.
            ContentAddressMethod::Git => {
                self.feed(tree, Tee::new(vec![&mut scanner, &mut nar_hasher]))?;
                git_hash(name, tree.dir, tree.node, tree.algorithm)?
            }
        };
        let mut others = scanner.into_found();
        let has_self = others.remove(tree.scratch);
        let ca = ContentAddress {
            method: tree.method,
            hash,
        };
        let mut info = self.addressed(name, ca, References { others, has_self })?;
        info.deriver = tree.deriver.cloned();
        info.ultimate = true;
        if !tree.records_content_address {
            info.ca = None;
        }
        let mut rewritten = None;
        (info.nar_hash, info.nar_size) = if has_self {
            let temp = self.temp_dir()?;
            let rule = (own.to_vec(), hash_part(&info.path).to_vec());
            let (hash, size, _) =
                rewrite_tree(tree.dir, tree.node, temp.fd(), OsStr::new(OBJECT), [rule])
                    .map_err(LocalError::tree("rewrite", name))?;
            rewritten = Some(temp);
            (hash, size)
        } else {
            nar_hasher.finish()
        };
        Ok(Addressed { info, rewritten })
    }

    fn feed(&self, tree: &OutputTree<'_>, mut sinks: Tee<'_>) -> Result<(), LocalError> {
        dump(tree.dir, tree.node, &mut sinks).map_err(LocalError::tree("scan", tree.scratch.name()))
    }
}
