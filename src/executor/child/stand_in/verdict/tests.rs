//! Real compilers are the judges: what is accepted must be, with any hash put back, what
//! they make of that hash.

use std::path::Path;
use std::process::Command;

use store_types::StorePath;

use super::super::SEED_FLAG;
use super::*;

/// Hashes of outer derivations: as tokens, one is a name, the other a number.
const HASHES: &[&str] = &[
    "4w8sqr9rh0bqlxdsdqyvhcpr2h5zvz1p",
    "ksxhcw3vqwy9a1l0h5rbsvzn8j3kq2dp",
];

/// What is done with one source.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// Stand-ins can be used.
    Accepted,
    Refused(Refusal),
}

fn missing(compiler: &str) -> bool {
    let found = Command::new(compiler).arg("--version").output().is_ok();
    if !found {
        println!("skipped: there is no {compiler}");
    }
    !found
}

/// Runs one compile; in one directory, since debug information has its name in it.
fn compile(
    dir: &Path,
    compiler: &str,
    words: &[Vec<u8>],
    name: &str,
    source: &[u8],
) -> Option<Left> {
    use std::os::unix::ffi::OsStrExt;
    std::fs::write(dir.join(name), source).unwrap();
    let _ = std::fs::remove_file(dir.join("a.o"));
    let output = Command::new(compiler)
        .args(words.iter().map(|word| std::ffi::OsStr::from_bytes(word)))
        .args(["-c", name, "-o", "a.o"])
        .current_dir(dir)
        .output()
        .unwrap();
    let object = std::fs::read(dir.join("a.o")).ok()?;
    Some(vec![object, output.stdout, output.stderr])
}

/// Compiles with the hash `@` of an output, and with stand-ins for it, and compares.
fn judge(compiler: &str, flags: &str, name: &str, source: &str) -> Outcome {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut outcomes: Vec<Outcome> = Vec::new();
    for hash in HASHES {
        let with_hash = |text: &str| {
            text.replace("@seed@", &hash[..10])
                .replace('@', hash)
                .into_bytes()
        };
        let words: Vec<Vec<u8>> = flags.split(' ').map(with_hash).collect();
        let source = with_hash(source);
        let path = StorePath::from_base_name(&format!("{hash}-x")).unwrap();
        let stand_ins = StandIns::new(&[path]);
        let with = |which: Which| {
            let mapping = stand_ins.replace(which);
            let words: Vec<Vec<u8>> = words.iter().map(|w| mapping.applied(w).unwrap()).collect();
            let left = compile(
                dir,
                compiler,
                &words,
                name,
                &mapping.applied(&source).unwrap(),
            );
            (words, left.unwrap_or_default())
        };
        let ((words_of_first, first), (_, second)) = (with(Which::First), with(Which::Second));
        let texts: Vec<&[u8]> = words_of_first.iter().map(Vec::as_slice).collect();
        let verdict = look(&stand_ins, &texts, &first).and_then(|to_restore| {
            is_same_but_for_stand_ins(&stand_ins, &first, &second).map(|()| to_restore)
        });
        outcomes.push(match verdict {
            Err(refusal) => Outcome::Refused(refusal),
            Ok(to_restore) => {
                let plain = compile(dir, compiler, &words, name, &source).unwrap_or_default();
                let mut restored = first;
                for number in to_restore {
                    restored[number] = stand_ins.restore().applied(&restored[number]).unwrap();
                }
                assert!(restored == plain, "{compiler} {flags} {hash}: other bytes");
                Outcome::Accepted
            }
        });
    }
    assert!(
        outcomes.windows(2).all(|pair| pair[0] == pair[1]),
        "{compiler} {flags}: the hash decides, {outcomes:?}"
    );
    outcomes.remove(0)
}

const PLAIN: &str = "#include <stdio.h>\nint f(void) { return puts(\"/nix/store/@-x/share\"); }\n";

#[test]
fn texts_that_only_pass_through_are_put_back() {
    let cases = [
        ("-O2", PLAIN),
        ("-O0", PLAIN),
        (
            "-O2 -fPIC -fdata-sections",
            "const char p[] = \"/nix/store/@-x\"; const char *q = p;",
        ),
        (
            "-O2",
            "static const char *const t[] = {\"/nix/store/@-x/a\", \"/nix/store/@-x/b\"};\nconst char *f(int i) { return t[i]; }\n",
        ),
        (
            "-O2 -DP=\"/nix/store/@-x\"",
            "const char *f(void) { return P; }\n",
        ),
        (
            "-O2 -DP=/nix/store/@-name",
            "#define S(x) #x\n#define T(x) S(x)\nconst char *f(void) { return T(P); }\n",
        ),
        ("-O2 -I/nix/store/@-x/include", "int x;\n"),
        (
            "-O2",
            "#include <string.h>\nunsigned long f(void) { return strlen(\"/nix/store/@-x\"); }\n",
        ),
        (
            "-O2",
            "#include <string.h>\nint f(const char *p) { return strcmp(p, \"/nix/store/@-x\"); }\n",
        ),
        (
            "-O2",
            "#include <string.h>\nconst char *f(void) { return strrchr(\"/nix/store/@-x/y\", '/'); }\n",
        ),
        ("-O2 -Wall", "int f(void) { return \"/nix/store/@-x\"; }\n"),
    ];
    for compiler in ["gcc", "clang"] {
        if missing(compiler) {
            continue;
        }
        for (flags, source) in cases {
            let outcome = judge(compiler, flags, "a.c", source);
            assert_eq!(outcome, Outcome::Accepted, "{compiler} {flags} {source}");
        }
    }
}

#[test]
fn texts_that_are_computed_with_are_refused() {
    let c = [
        // Copied in pieces.
        "#include <string.h>\nvoid f(char *p) { memcpy(p, \"/nix/store/@-x\", 13); }\n",
        // One character.
        "int f(void) { return \"/nix/store/@-x\"[20]; }\n",
        "#include <string.h>\nint f(void) { return strchr(\"/nix/store/@-x\", 'k') != 0; }\n",
        "#include <string.h>\nlong f(void) { return strcspn(\"/nix/store/@-x\", \"kz\"); }\n",
        // Compared.
        "#include <string.h>\nint f(void) { return strcmp(\"/nix/store/@-x\", \"/nix/store/f\") < 0; }\n",
        "#include <string.h>\nint f(void) { return strcmp(\"/nix/store/@-x\", \"/nix/store/4w8t\") < 0; }\n",
    ];
    for compiler in ["gcc", "clang"] {
        if missing(compiler) {
            continue;
        }
        for source in c {
            let outcome = judge(compiler, "-O2", "a.c", source);
            assert_ne!(outcome, Outcome::Accepted, "{compiler} {source}");
        }
    }
    if !missing("gcc") {
        let source = "#include <string.h>\nvoid f(char *p) { strcpy(p, \"/nix/store/@-x\"); }\n";
        let outcome = judge("gcc", "-O2", "a.c", source);
        assert_ne!(outcome, Outcome::Accepted);
    }
    if !missing("gcc") {
        // What follows the hash is a macro, or a part of a number.
        let source = "#define S(x) #x\n#define T(x) S(x)\nconst char *f(void) { return T(P); }\n";
        let outcome = judge("gcc", "-DP=/nix/store/@-linux", "a.c", source);
        assert_ne!(outcome, Outcome::Accepted);
    }
    let cxx = [
        "constexpr unsigned h(const char *s) { return *s ? (h(s + 1) ^ *s) * 16777619u : 0; }\nunsigned f() { constexpr unsigned n = h(\"/nix/store/@-x\"); return n; }\n",
        "constexpr unsigned h(const char *s) { return *s ? h(s + 1) * 31 + *s : 0; }\nint f() { constexpr unsigned n = h(\"/nix/store/@-x\") % 31; return n; }\n",
    ];
    for compiler in ["g++", "clang++"] {
        if missing(compiler) {
            continue;
        }
        for source in cxx {
            let outcome = judge(compiler, "-O2", "a.cc", source);
            assert_ne!(outcome, Outcome::Accepted, "{compiler} {source}");
        }
    }
}

const CXX: &str = "\
#include <map>
#include <string>
namespace {
struct Quiet { Quiet(); ~Quiet(); int x; };
Quiet::Quiet() : x(1) {}
Quiet::~Quiet() { x = 0; }
Quiet quiet;
template <class T> struct Holder { static T value; };
template <class T> T Holder<T>::value = 3;
std::map<std::string, int> names{{\"a\", 1}};
}
int use() { return Holder<int>::value + static_cast<int>(names.size()) + quiet.x; }
";

const CONSTRUCTORS: &str = "\
static volatile int n;
static void __attribute__((constructor)) one(void) { n++; }
static void __attribute__((constructor)) two(void) { n++; }
";

#[test]
fn a_random_seed_forms_no_code() {
    let flags = [
        "-O2",
        "-O0",
        "-O3 -fPIC -ffunction-sections -fdata-sections",
        "-Os -fstack-protector-strong -D_FORTIFY_SOURCE=2",
        "-O2 -fsanitize=address,undefined",
        "-O2 -fopenmp",
        "-O2 -g -gno-record-gcc-switches",
        "-O2 -frecord-gcc-switches",
    ];
    for (compiler, name, source, flags) in [
        ("gcc", "a.c", PLAIN, &flags[..]),
        ("gcc", "b.c", CONSTRUCTORS, &flags[..5]),
        ("g++", "a.cc", CXX, &flags[..2]),
        ("clang", "a.c", PLAIN, &flags[..3]),
        ("clang++", "a.cc", CXX, &flags[..1]),
    ] {
        if missing(compiler) {
            continue;
        }
        for flags in flags {
            let flags = format!("{flags} -frandom-seed=@seed@");
            let outcome = judge(compiler, &flags, name, source);
            assert_eq!(outcome, Outcome::Accepted, "{compiler} {flags}");
        }
    }
    // Clang records checksums of the sources, so there is no hash in this one.
    for (compiler, name, source) in [("clang", "a.c", CONSTRUCTORS), ("clang++", "a.cc", CXX)] {
        if !missing(compiler) {
            let outcome = judge(compiler, "-O2 -g -frandom-seed=@seed@", name, source);
            assert_eq!(outcome, Outcome::Accepted, "{compiler}");
        }
    }
}

#[test]
fn a_directory_forms_no_code_without_debug_information() {
    let flags = [
        "-O2",
        "-O0 -frandom-seed=1",
        "-O2 -fPIC -MMD -Wall -fstack-protector-strong",
        "-O1 -fsanitize=address,undefined",
    ];
    let dir = tempfile::tempdir().unwrap();
    for (compiler, name, source) in [
        (
            "gcc",
            "a.c",
            "#include <assert.h>\nint f(int n) { assert(n); int unused; return n; }\n",
        ),
        ("g++", "a.cc", CXX),
        ("clang", "a.c", CONSTRUCTORS),
        ("clang++", "a.cc", CXX),
    ] {
        if missing(compiler) {
            continue;
        }
        let flags = &flags[..if source == CXX { 2 } else { flags.len() }];
        for flags in flags {
            let words: Vec<Vec<u8>> = flags.split(' ').map(|word| word.into()).collect();
            let left = ["a", "another/one"].map(|place| {
                let place = dir.path().join(place);
                std::fs::create_dir_all(&place).unwrap();
                compile(&place, compiler, &words, name, source.as_bytes()).unwrap()
            });
            assert!(left[0] == left[1], "{compiler} {flags}");
        }
    }
}

#[test]
fn a_random_seed_that_is_recorded_where_order_depends_on_it_is_refused() {
    if missing("gcc") {
        return;
    }
    let outcome = |flags: &str| {
        judge(
            "gcc",
            &format!("{flags} -frandom-seed=@seed@"),
            "a.c",
            PLAIN,
        )
    };
    assert_eq!(outcome("-O2 -g"), Outcome::Refused(Refusal::DEBUG_STRINGS));
    assert_eq!(outcome("-O2 -g -gz"), Outcome::Refused(Refusal::COMPRESSED));
    assert_eq!(
        outcome("-O2 -flto"),
        Outcome::Refused(Refusal::INTERMEDIATE_CODE)
    );
    assert_eq!(
        outcome("-O2 -flto -ffat-lto-objects"),
        Outcome::Refused(Refusal::INTERMEDIATE_CODE)
    );
}

#[test]
fn the_number_of_a_seed_is_found_in_all_its_forms() {
    // `gcc -flto -frandom-seed=07xq3d5yz8 -c a.c; readelf -SW a.o`
    assert_eq!(seed_number(b"07xq3d5yz8"), 0x001b_44ed);
    let path = StorePath::from_base_name(&format!("{}-x", HASHES[0])).unwrap();
    let stand_ins = StandIns::new(&[path]);
    let flag = format!("-frandom-seed={}", &HASHES[0][..10]);
    let word = stand_ins
        .replace(Which::First)
        .applied(flag.as_bytes())
        .unwrap();
    let number = seed_number(&word[SEED_FLAG.len()..]);
    for form in [
        format!("_GLOBAL__sub_I_x_{number:X}_0").into_bytes(),
        format!(".gnu.lto_.{number:x}").into_bytes(),
        number.to_le_bytes().to_vec(),
    ] {
        let left = vec![
            [b"x".to_vec(), form, b"y".to_vec()].concat(),
            vec![],
            vec![],
        ];
        assert_eq!(look(&stand_ins, &[&word], &left), Err(Refusal::SEED_NUMBER));
        assert_eq!(look(&stand_ins, &[b"-O2"], &left), Ok(vec![]));
    }
}

#[test]
fn a_text_in_macros_debug_information_or_a_symbol_is_refused() {
    if missing("gcc") {
        return;
    }
    let outcome = |flags: &str| judge("gcc", flags, "a.c", PLAIN);
    assert_eq!(outcome("-g"), Outcome::Accepted);
    assert_eq!(
        outcome("-g3 -DP=\"/nix/store/@-x\""),
        Outcome::Refused(Refusal::DEBUG_STRINGS)
    );
    assert_eq!(
        judge("gcc", "-O2", "a.c", "int x __asm__(\"s@\") = 1;\n"),
        Outcome::Refused(Refusal::SECTION)
    );
}

#[test]
fn a_verdict_is_read_as_it_was_written() {
    for verdict in [
        Verdict::Restore(Vec::new()),
        Verdict::Restore(vec![0, 3]),
        Verdict::Refused(Refusal::LARGE),
    ] {
        assert_eq!(Verdict::parse(&verdict.print()), Some(verdict));
    }
    for line in [
        "",
        "restore",
        "restore x",
        "refused",
        "refused by nobody",
        "other 1",
    ] {
        assert_eq!(Verdict::parse(line), None, "{line}");
    }
}

#[test]
fn damaged_objects_are_looked_at_without_harm() {
    if missing("gcc") {
        return;
    }
    let words = [b"-O2".to_vec()];
    let path = StorePath::from_base_name(&format!("{}-x", HASHES[0])).unwrap();
    let stand_ins = StandIns::new(&[path]);
    let source = stand_ins
        .replace(Which::First)
        .applied(PLAIN.replace('@', HASHES[0]).as_bytes());
    let left = compile(
        tempfile::tempdir().unwrap().path(),
        "gcc",
        &words,
        "a.c",
        &source.unwrap(),
    )
    .unwrap();
    for len in 0..left[0].len() {
        let cut = vec![left[0][..len].to_vec(), Vec::new(), Vec::new()];
        let _ = look(&stand_ins, &[], &cut);
    }
    for at in 0..left[0].len() {
        let mut flipped = left.clone();
        flipped[0][at] ^= 0xff;
        let _ = look(&stand_ins, &[], &flipped);
    }
}
