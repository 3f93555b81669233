//! Which objects the inputs of builds were.
//!
//! What is in an object of the store is remembered by its path, since it does not change. But who
//! lives long may see one collected as garbage and made again, and not all builders make the same
//! again.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::sync::{Mutex, PoisonError};

use rustix::fs::AtFlags;
use store_local::LocalStore;
use store_types::StorePath;

/// Device, inode, and the time of the last change: who has the same is the same object.
type ObjectId = (u64, u64, i64, u64);

/// How many inputs are remembered; with more, all are new.
const SEEN_MAX: usize = 1 << 18;

/// The inputs that there have been.
#[derive(Default)]
pub(crate) struct Seen(Mutex<HashMap<StorePath, ObjectId>>);

impl Seen {
    /// Whether each of these inputs, which are held, is what it was when it was seen last, if it
    /// was seen.
    pub(crate) fn are_the_same(&self, store: &LocalStore, inputs: &BTreeSet<StorePath>) -> bool {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut are_the_same = true;
        if seen.len() + inputs.len() > SEEN_MAX {
            seen.clear();
            are_the_same = false;
        }
        for input in inputs {
            let name = OsStr::new(input.base_name());
            // What is not there is found out by who needs it.
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            let Ok(stat) = rustix::fs::statat(store.dir_of(name), name, flags) else {
                continue;
            };
            let id = (stat.st_dev, stat.st_ino, stat.st_ctime, stat.st_ctime_nsec);
            let before = seen.insert(input.clone(), id);
            are_the_same &= before.is_none_or(|before| before == id);
        }
        are_the_same
    }
}

#[cfg(test)]
mod tests {
    use store_types::StoreDir;

    use super::*;

    #[test]
    fn an_object_that_was_made_again_is_not_the_same() {
        let root = tempfile::tempdir().expect("a directory for the test");
        let store = LocalStore::open(root.path(), StoreDir::default()).expect("a store");
        let add = || store.add_text("object", b"text", &BTreeSet::new());
        let path = add().expect("it can be added").path;
        let absent = StorePath::from_hash_and_name(&[0; 20], "absent").expect("a path");
        let inputs = BTreeSet::from([path.clone(), absent]);
        let seen = Seen::default();
        assert!(seen.are_the_same(&store, &inputs));
        assert!(seen.are_the_same(&store, &inputs));
        store
            .invalidate(&BTreeSet::from([path.clone()]))
            .expect("it can be forgotten");
        store.remove_invalid(&path).expect("it can be removed");
        assert!(seen.are_the_same(&store, &inputs));
        add().expect("it can be added again");
        assert!(!seen.are_the_same(&store, &inputs));
        assert!(seen.are_the_same(&store, &inputs));
    }
}
