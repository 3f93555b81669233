//! `droste store path-info`.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use store_local::{LocalError, LocalStore};
use store_types::{PathInfo, PathInfoJson, PathInfoJsonShape, StorePath};

use super::{not_valid, open_existing, parse_path};
use crate::cli::error::CommandError;
use crate::cli::{Context, exit_code, print_line};

/// Tell what the store knows of paths
#[derive(Debug, Args)]
pub struct PathInfoArgs {
    /// Store paths, as they are inside builds or on this machine
    #[arg(required = true)]
    paths: Vec<String>,
    /// Tell it of all that they refer to, too
    #[arg(short, long)]
    recursive: bool,
    /// Tell all as JSON, in the form of `nix path-info --json --json-format 1`
    #[arg(long)]
    json: bool,
    /// Tell the sum of the sizes of each path's closure
    #[arg(short = 'S', long)]
    closure_size: bool,
}

pub fn run(context: &Context, args: &PathInfoArgs) -> Result<u8, CommandError> {
    let store = open_existing(context)?;
    let mut paths = Vec::new();
    for text in &args.paths {
        let path = parse_path(&store, text)?;
        let is_needed = args.recursive || !args.json;
        if is_needed && !store.is_valid(&path)? {
            return Err(not_valid(&store, &path).into());
        }
        paths.push(path);
    }
    if args.recursive {
        let closure = store.closure(&paths)?;
        let infos = store.path_infos(&closure)?;
        paths = dependencies_first(&infos);
    }
    let infos = store.path_infos(&paths)?;
    let mut sizes: BTreeMap<&StorePath, u64> = BTreeMap::new();
    if args.closure_size {
        for path in infos.keys() {
            sizes.insert(path, closure_size_bytes(&store, path)?);
        }
    }
    if args.json {
        let items = paths.iter().map(|path| PathInfoJson {
            path,
            info: infos.get(path),
            closure_size_bytes: sizes.get(path).copied(),
        });
        print_line(&PathInfoJsonShape::Map.print(store.store_dir(), items))?;
        return Ok(exit_code::SUCCESS);
    }
    for path in &paths {
        let text = store.store_dir().display(path);
        match sizes.get(path) {
            Some(size) => print_line(&format!("{text}\t{size}"))?,
            None => print_line(&text)?,
        }
    }
    Ok(exit_code::SUCCESS)
}

fn closure_size_bytes(store: &LocalStore, path: &StorePath) -> Result<u64, LocalError> {
    let closure = store.closure(std::slice::from_ref(path))?;
    Ok(store
        .path_infos(&closure)?
        .values()
        .map(|info| info.nar_size)
        .sum())
}

/// The paths of a closure, each after those it refers to, as Nix lists them.
fn dependencies_first(infos: &BTreeMap<StorePath, PathInfo>) -> Vec<StorePath> {
    let mut order = Vec::with_capacity(infos.len());
    let mut seen: BTreeSet<&StorePath> = BTreeSet::new();
    for path in infos.keys() {
        // A path is pushed a second time, to be listed, below what it refers to.
        let mut todo = vec![(path, false)];
        while let Some((path, is_complete)) = todo.pop() {
            if is_complete {
                order.push(path.clone());
            } else if seen.insert(path) {
                todo.push((path, true));
                let references = infos
                    .get(path)
                    .into_iter()
                    .flat_map(|info| &info.references);
                todo.extend(references.map(|reference| (reference, false)));
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use store_types::sha256;

    fn path(letter: char) -> StorePath {
        StorePath::from_base_name(&format!("{}-{letter}", letter.to_string().repeat(32))).unwrap()
    }

    fn info(letter: char, references: &str) -> (StorePath, PathInfo) {
        let info = PathInfo {
            path: path(letter),
            nar_hash: sha256(b""),
            nar_size: 0,
            references: references.chars().map(path).collect(),
            deriver: None,
            registration_time: 0,
            ultimate: false,
            signatures: Vec::new(),
            ca: None,
        };
        (path(letter), info)
    }

    #[test]
    fn a_path_comes_after_all_that_it_refers_to() {
        let infos = BTreeMap::from([
            info('a', "abd"),
            info('b', "cd"),
            info('c', ""),
            info('d', "c"),
        ]);
        let order: String = dependencies_first(&infos)
            .iter()
            .map(StorePath::name)
            .collect();
        assert_eq!(order, "cdba");
    }
}
