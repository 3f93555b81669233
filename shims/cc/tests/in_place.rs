//! In place, nothing tells that there is a shim: the same commands are run before it is laid over
//! the compiler and after, and their output compared.

mod shim;

use std::fs;
use std::path::Path;
use std::process::Output;

use rstest::rstest;
use shim_core::testing::in_new_root;
use tempfile::TempDir;

/// A compiler that tells what it was given.
const TELLTALE: &str = r#"#!/bin/sh
echo "0 $0"
for argument; do echo "argument $argument"; done
tr '\0' '\n' < /proc/$$/environ | sed 's/^/environment /'
grep -E 'Sig(Ign|Blk|Cgt)|^(Uid|Gid)' /proc/self/status
echo "cwd $(pwd -P) $(cat here 2>&1)"
ls /proc/$$/fd
echo "error $(umask)" >&2
exit 7
"#;

/// Makes the store object, the object without shims, and what is called.
const SETUP: &str = r#"
object=/nix/store/aaa-tool
plain=/.droste/plain$object
mkdir -p $object/bin $plain
cp /t/telltale $object/bin/gcc
ln -s gcc $object/bin/cc
cp /usr/bin/readlink $object/bin/clang
echo there > $object/bin/here
mount --bind $object $plain
interpose() {
    for name in gcc clang; do mount --bind /t/shim $object/bin/$name; done
}
"#;

fn dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(shim::file(), dir.path().join("shim")).unwrap();
    fs::write(dir.path().join("telltale"), TELLTALE).unwrap();
    // Executable like the shim.
    let mode = fs::metadata(dir.path().join("shim")).unwrap().permissions();
    fs::set_permissions(dir.path().join("telltale"), mode).unwrap();
    dir
}

fn run(dir: &Path, script: &str) -> Option<Output> {
    in_new_root(dir, &format!("{SETUP}\n{script}"))
}

#[rstest]
#[case::by_path(
    "/nix/store/aaa-tool/bin/gcc -c 'a b' ''",
    "0 /nix/store/aaa-tool/bin/gcc"
)]
#[case::by_link("/nix/store/aaa-tool/bin/cc", "0 /nix/store/aaa-tool/bin/cc")]
#[case::by_name(
    "PATH=/nix/store/aaa-tool/bin:$PATH; cc x",
    "0 /nix/store/aaa-tool/bin/cc"
)]
#[case::by_relative_path("cd /nix/store; aaa-tool/bin/../bin/gcc", "0 aaa-tool/bin/../bin/gcc")]
#[case::inside(
    "cd /nix/store/aaa-tool/bin; ./gcc",
    "cwd /nix/store/aaa-tool/bin there"
)]
#[case::by_other_link(
    "ln -sf /nix/store/aaa-tool/bin/cc /build/my; /build/my",
    "0 /build/my"
)]
#[case::environment(
    "env -i Z=1 A=2 EMPTY= 'ODD=a=b c' /nix/store/aaa-tool/bin/gcc",
    "environment ODD=a=b c"
)]
#[case::ignoring_sigpipe("trap '' PIPE INT; /nix/store/aaa-tool/bin/gcc", "SigIgn:")]
#[case::without_stdin("/nix/store/aaa-tool/bin/gcc <&-", "0 ")]
#[case::umask("umask 077; /nix/store/aaa-tool/bin/gcc", "error 0077")]
#[case::other_descriptor("/nix/store/aaa-tool/bin/gcc 5</dev/null", "5")]
#[case::own_file(
    "/nix/store/aaa-tool/bin/clang /proc/self/exe",
    "/nix/store/aaa-tool/bin/clang"
)]
#[case::own_name(
    "exec bash -c 'exec -a strange /nix/store/aaa-tool/bin/clang --frobnicate'",
    "strange: unrecognized option"
)]
#[case::as_a_user(
    "unshare --user --map-user=1000 --map-group=100 /nix/store/aaa-tool/bin/gcc",
    "Uid:\t1000\t1000"
)]
fn a_compiler_laid_over_cannot_tell(#[case] command: &str, #[case] expected: &str) {
    let dir = dir();
    let script = format!(
        "probe() {{ ({command}) > /t/$1 2>&1 || echo \"status $?\" >> /t/$1; }}\n\
         probe before\ninterpose\ntest {object}/bin/gcc -ef /t/shim\nprobe after",
        object = "/nix/store/aaa-tool",
    );
    let Some(output) = run(dir.path(), &script) else {
        return;
    };
    assert!(output.status.success(), "{output:?}");
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    assert!(read("before").contains(expected), "{}", read("before"));
    assert_eq!(read("before"), read("after"));
}

#[test]
fn the_store_may_be_any_directory() {
    let dir = dir();
    let script = "probe() { (cd $object/bin; ./gcc || echo $?; ./clang /proc/self/exe) > /t/$1 2>&1; }\n\
                  probe before\ninterpose\ntest $object/bin/gcc -ef /t/shim\nprobe after";
    let script = format!("{SETUP}\n{script}").replace("/nix/store", "/build/x/store");
    let Some(output) = in_new_root(dir.path(), &script) else {
        return;
    };
    assert!(output.status.success(), "{output:?}");
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    for expected in [
        "cwd /build/x/store/aaa-tool/bin there",
        "/build/x/store/aaa-tool/bin/clang",
    ] {
        assert!(read("before").contains(expected), "{}", read("before"));
    }
    assert_eq!(read("before"), read("after"));
}

#[test]
fn without_namespaces_the_plain_file_is_run() {
    let dir = dir();
    let Some(output) = run(
        dir.path(),
        "interpose; echo 0 > /proc/sys/user/max_user_namespaces\n\
         /nix/store/aaa-tool/bin/gcc one two",
    ) else {
        return;
    };
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.starts_with(
            "0 /.droste/plain/nix/store/aaa-tool/bin/gcc\nargument one\nargument two\n"
        ),
        "{text}"
    );
}

#[test]
fn the_next_compiler_in_path_gets_a_path_without_the_shim() {
    let dir = dir();
    let Some(output) = run(
        dir.path(),
        "mkdir -p /t/shims /t/more; cp /t/shim /t/shims/droste-cc; ln -s droste-cc /t/shims/gcc\n\
         ln -s ../shims/droste-cc /t/more/gcc\n\
         unset PWD OLDPWD\n\
         PATH=/t/shims:/t/more:/missing:/nix/store/aaa-tool/bin:/usr/bin:/bin gcc x",
    ) else {
        return;
    };
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.starts_with("0 /nix/store/aaa-tool/bin/gcc\nargument x\n"),
        "{text}"
    );
    assert!(
        text.contains("environment PATH=/t/more:/missing:/nix/store/aaa-tool/bin:/usr/bin:/bin\n"),
        "{text}"
    );
}

#[test]
fn a_shim_called_by_its_path_passes_the_compiler_s() {
    let dir = dir();
    let Some(output) = run(
        dir.path(),
        "mkdir /t/shims; cp /usr/bin/env /nix/store/aaa-tool/bin/c++; cp /t/shim /t/shims/c++\n\
         PATH=/nix/store/aaa-tool/bin /t/shims/c++ --frobnicate",
    ) else {
        return;
    };
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.starts_with("/nix/store/aaa-tool/bin/c++: "), "{text}");
}

#[test]
fn without_any_compiler_it_says_so() {
    let dir = dir();
    let script = "mkdir /t/shims; cp /t/shim /t/shims/c++; PATH=/t/shims /t/shims/c++";
    let Some(output) = run(dir.path(), script) else {
        return;
    };
    assert_eq!(output.status.code(), Some(127));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "droste: there is no `c++` but itself in PATH\n"
    );
}
