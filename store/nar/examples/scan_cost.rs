//! What it costs to read a tree as a NAR, hash it and look for references in it, all at once, as
//! it is done with every output of a build. Prints the hash as `sha256sum` does, so that it can
//! be compared with that of `nix-store --dump`, and the peak of this process's memory.
//!
//! `cargo run --release -p store-nar --example scan_cost TREE [CANDIDATES]`

use std::os::fd::AsFd;
use std::path::Path;

use store_types::{StorePath, sha256};

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let tree = arguments.next().expect("the path of a tree");
    let count = arguments
        .next()
        .and_then(|count| count.to_str()?.parse().ok());
    let count: u64 = count.unwrap_or(1000);
    let candidates: Vec<StorePath> = (0..count)
        .map(|number| {
            let hash = sha256(&number.to_le_bytes());
            let part = hash.bytes()[..20].try_into().expect("there are 32 bytes");
            StorePath::from_hash_and_name(part, "x").expect("that is a name")
        })
        .collect();
    let tree = Path::new(&tree).canonicalize().expect("the tree is there");
    let parent = tree.parent().expect("it is no root");
    let parent = std::fs::File::open(parent).expect("its directory can be read");
    let name = tree.file_name().expect("it has a name");
    let (hash, size, found) =
        store_nar::scan_tree(parent.as_fd(), name, &candidates).expect("it can be read");
    println!("{}", hash.to_hex());
    eprintln!("{size} bytes, {} of {count} candidates found", found.len());
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find(|line| line.starts_with("VmHWM:"));
    eprintln!("{}", peak.unwrap_or("peak not known"));
}
