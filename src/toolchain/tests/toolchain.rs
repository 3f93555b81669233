//! The assembled tree, alone in a file system of its own.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use droste_toolchain::{Packages, PackagesError, RECIPES, Recipe};

const HASH: &str = "00000000000000000000000000000000";
const OTHER_HASH: &str = "zyxwvsrqpnmlkjihgfdcba9876543210";

fn cache() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("toolchain-cache")
}

fn packages() -> Option<&'static Packages> {
    static PACKAGES: OnceLock<Option<Packages>> = OnceLock::new();
    let fetched = PACKAGES.get_or_init(|| match Packages::fetch(&cache(), &mut |_| ()) {
        Ok(packages) => Some(packages),
        Err(PackagesError::Apt(error)) => {
            eprintln!("skipped: no packages to be had: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    });
    fetched.as_ref()
}

fn store_path(packages: &Packages, hash: &str) -> String {
    format!("/nix/store/{hash}-{}", packages.toolchain_name())
}

/// One tree for all tests of this run.
fn tree() -> Option<(&'static Path, String)> {
    static TREE: OnceLock<Option<(PathBuf, String)>> = OnceLock::new();
    let tree = TREE.get_or_init(|| {
        let packages = packages()?;
        // Nothing drops a static: the directory is the same in every run.
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("toolchain-tree");
        if dir.exists() {
            fs::remove_dir_all(&dir).unwrap();
        }
        fs::create_dir(&dir).unwrap();
        let path = store_path(packages, HASH);
        packages
            .assemble(&dir.join("tree"), &path, &mut |_| ())
            .unwrap();
        Some((dir, path))
    });
    tree.as_ref()
        .map(|(dir, path)| (dir.as_path(), path.to_owned()))
}

fn may_unshare() -> bool {
    let can = Command::new("unshare").args(["-rm", "true"]).output();
    let can = can.is_ok_and(|output| output.status.success());
    if !can {
        eprintln!("skipped: `unshare -rm` may not make user namespaces here");
    }
    can
}

/// Runs a script with the tree's shell where nothing but the tree (and
/// `/dev/null`) exists; `root` becomes `/`, `/build` is for writing.
fn run_alone(root: &Path, script: &str) -> Option<Output> {
    let (dir, path) = tree()?;
    if !may_unshare() {
        return None;
    }
    for sub in [&path[1..], "build", "dev"] {
        fs::create_dir_all(root.join(sub)).unwrap();
    }
    fs::write(root.join("dev/null"), "").unwrap();
    let setup = r#"
        mount --bind "$1" "$2$3" && mount --bind /dev/null "$2/dev/null" || exit 125
        cd "$2" && exec env -i PATH="$3/bin" NIX_BUILD_TOP=/build NIX_BUILD_CORES=2 TMPDIR=/build \
            src=/src makefile=/makefile out=/out "$(command -v chroot)" "$2" "$3/bin/bash" -c "$4"
    "#;
    let output = Command::new("unshare")
        .args(["-rm", "sh", "-c", setup, "sh"])
        .args([&dir.join("tree"), root])
        .args([&path, script])
        .output()
        .unwrap();
    assert_ne!(output.status.code(), Some(125), "{output:?}");
    Some(output)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn assert_prints(script: &str, expected: &str) {
    let root = tempfile::tempdir().unwrap();
    let script = format!("set -eu; cd /build\n{script}");
    if let Some(output) = run_alone(root.path(), &script) {
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(text(&output.stdout), expected, "{}", text(&output.stderr));
    }
}

#[test]
fn c_and_cpp_programs_compile_and_run() {
    assert_prints(
        r#"
        printf '#include <stdio.h>\nint main(void) { puts("c"); return 0; }' > a.c
        printf '#include <iostream>\n#include <vector>\nint main() {
            std::vector<int> v(3); try { v.at(5); } catch (...) { std::cout << "c++\\n"; } }' > b.cc
        cc -O2 -o a a.c && ./a
        gcc -static -o a-static a.c && ./a-static
        cc -O2 -flto -pthread -o a-lto a.c && ./a-lto
        c++ -O2 -o b b.cc && ./b
        cc -c a.c && cc -r -o whole.o a.o && cc -o a-whole whole.o && ./a-whole
        g++ -static-pie -fPIE -o b-static b.cc && ./b-static
        printf 'X\n' | cpp -P -DX=cpp
        PATH=/none $(command -v gcc) -o a-no-path a.c && ./a-no-path
        cc -v 2>&1 | grep -c 'gcc version'
        "#,
        "c\nc\nc\nc++\nc\nc++\ncpp\nc\n1\n",
    );
}

#[test]
fn a_programs_own_library_directory_comes_before_the_toolchains() {
    // The toolchain has a libz.so.1 too, for the linker's own use.
    assert_prints(
        r#"
        mkdir lib
        printf 'int mine(void) { return 42; }' > z.c
        printf 'int mine(void);\nint main(void) { return mine() != 42; }' > a.c
        cc -shared -fPIC -Wl,-soname,libz.so.1 -o lib/libz.so.1 z.c
        cc -o a a.c lib/libz.so.1 -Wl,-rpath,/build/lib
        ./a && echo mine
        "#,
        "mine\n",
    );
}

#[test]
fn make_and_the_shells_tools_run() {
    assert_prints(
        r#"
        printf 'SHELL = /bin/sh\nall: b; @cat b | tr a-z A-Z\nb:; @echo $(shell echo made) > $@\n' > Makefile
        make -j2
        printf 'b 2\na 1\n' | sort | sed 's/1/one/' | awk '{ print $2 }' | grep one
        mkdir d && echo x > d/f && tar -c d | gzip > d.tar.gz && rm -r d && gzip -dc d.tar.gz | tar -x && find d -type f
        tar -c d | xz > d.tar.xz && xz -dc d.tar.xz | tar -t | head -n 1
        echo y > e && (diff -u d/f e | sed 1,2d || true) > p && patch -s d/f p && cat d/f
        "#,
        "MADE\none\nd/f\nd/\ny\n",
    );
}

#[test]
fn what_is_linked_asks_for_nothing_outside_the_tree() {
    let Some((_, path)) = tree() else { return };
    assert_prints(
        r#"
        printf 'int main(void) { return 0; }' > a.c
        cc -o a a.c
        readelf -lW a | sed -n 's/.*interpreter: \(.*\)\]/\1/p'
        readelf -dW a | sed -n 's/.*R.*PATH.*\[\(.*\)\]/\1/p'
        "#,
        &format!(
            "{path}/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2\n{path}/usr/lib/x86_64-linux-gnu\n"
        ),
    );
}

/// Every file's and link's content with one hash replaced by another.
fn contents(root: &Path, from: &str, to: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(root.join(&dir)).unwrap() {
            let entry = entry.unwrap();
            let (path, kind) = (dir.join(entry.file_name()), entry.file_type().unwrap());
            if kind.is_dir() {
                dirs.push(path);
                continue;
            }
            let mut content = match kind.is_symlink() {
                true => fs::read_link(entry.path())
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes(),
                false => fs::read(entry.path()).unwrap(),
            };
            let mut at = 0;
            while let Some(next) = find(&content[at..], from.as_bytes()) {
                content[at + next..at + next + from.len()].copy_from_slice(to.as_bytes());
                at += next + from.len();
            }
            found.push((path, content));
        }
    }
    found.sort();
    found
}

fn find(content: &[u8], text: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(first) = content[at..].iter().position(|byte| *byte == text[0]) {
        at += first;
        if content[at..].starts_with(text) {
            return Some(at);
        }
        at += 1;
    }
    None
}

#[test]
fn two_paths_of_one_length_give_trees_that_differ_in_the_path_alone() {
    let (Some((dir, _)), Some(packages)) = (tree(), packages()) else {
        return;
    };
    let other = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let other = other.path().join("tree");
    packages
        .assemble(&other, &store_path(packages, OTHER_HASH), &mut |_| ())
        .unwrap();
    let expected = contents(&dir.join("tree"), HASH, OTHER_HASH);
    let found = contents(&other, OTHER_HASH, OTHER_HASH);
    assert_eq!(expected.len(), found.len());
    for (a, b) in expected.iter().zip(&found) {
        assert_eq!(a.0, b.0);
        assert!(a.1 == b.1, "{} differs", a.0.display());
    }
}

#[track_caller]
fn assert_builds(recipe: &Recipe) {
    let sources = match recipe.fetch(&cache()) {
        Ok(dir) => dir,
        Err(error) => {
            return eprintln!("skipped: {error}: {:?}", std::error::Error::source(&error));
        }
    };
    let root = tempfile::tempdir().unwrap();
    let copied = Command::new("cp")
        .arg("-r")
        .args([&sources, &root.path().join("src")])
        .status();
    assert!(copied.unwrap().success());
    for edit in [recipe.body_edit, recipe.comment_edit] {
        edit.apply(&root.path().join("src")).unwrap();
    }
    fs::write(root.path().join("makefile"), recipe.makefile).unwrap();
    if let Some(output) = run_alone(root.path(), recipe.script) {
        let log = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success(), "{log}");
        for dir in ["bin", "lib", "include"] {
            let installed = fs::read_dir(root.path().join("out").join(dir)).unwrap();
            assert_ne!(installed.count(), 0, "{dir}");
        }
    }
}

#[test]
fn every_recipe_builds_with_the_tree_alone() {
    for recipe in RECIPES {
        assert_builds(recipe);
    }
}

#[test]
fn nothing_is_assembled_at_a_bad_path_or_where_something_is() {
    let Some(packages) = packages() else { return };
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dest = dir.path().join("tree");
    // A path that cannot be a store path fails before anything is made.
    let error = packages
        .assemble(&dest, "relative", &mut |_| ())
        .unwrap_err();
    assert!(error.to_string().contains("`relative`"), "{error}");
    assert!(!dest.exists());
    symlink("/etc", &dest).unwrap();
    let path = store_path(packages, HASH);
    assert!(packages.assemble(&dest, &path, &mut |_| ()).is_err());
    assert!(!Path::new("/etc/usr").exists());
}
