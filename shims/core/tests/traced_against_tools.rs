//! What `traced` says of a call's outputs, against what compilers and linkers do.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use shim_core::args::{Traced, tool_of, traced};

/// A call, and the programs that it needs beside its own.
struct Case {
    line: &'static str,
    needs: &'static [&'static str],
}

const fn case(line: &'static str) -> Case {
    Case { line, needs: &[] }
}

const fn case_with(line: &'static str, needs: &'static [&'static str]) -> Case {
    Case { line, needs }
}

/// Calls whose results do not change from one run to the next.
const CASES: &[Case] = &[
    case("gcc -c main.c -o main.o"),
    case("gcc -c main.c sub/part.c"),
    case("gcc -MD -c sub/part.c -o out/x.o"),
    case("gcc -MMD -MP -MT t -MF out/x.d -c main.c"),
    case("gcc -Wp,-MMD,out/y.d -c main.c"),
    case("gcc -S main.c"),
    case("gcc -S main.c -o out/m.asm"),
    case("gcc -E main.c -o main.i"),
    case("gcc -E -MD main.c -o out/main.i"),
    case("gcc -M main.c"),
    case("gcc -MM main.c -MF out/main.d"),
    case("gcc -fsyntax-only main.c"),
    case("gcc -save-temps -c main.c"),
    case("gcc -save-temps -c main.c -o out/x.o"),
    case("gcc -save-temps=obj -c main.c -o out/x.o"),
    case("gcc -save-temps main.c sub/part.c -o out/prog"),
    case("gcc -g -gsplit-dwarf -c main.c -o out/x.o"),
    case("gcc -fstack-usage -fcallgraph-info -c main.c -o out/x.o"),
    case("gcc -fstack-usage -c main.c"),
    case("gcc -ftest-coverage -frandom-seed=1 -c main.c -o out/x.o"),
    case("gcc -MD main.c sub/part.c -o out/prog"),
    case("gcc -MD main.c part.o -o prog.x"),
    case("gcc -pipe -Wa,-alh=main.lst -c main.c"),
    case("gcc -c start.s -Wa,--MD,start.d"),
    case("gcc -c start.s"),
    case("gcc -aux-info protos -c main.c"),
    case("gcc main.c sub/part.c"),
    case("gcc main.o part.o -o prog -Wl,-Map=prog.map"),
    case("gcc main.o part.o -o prog -Wl,-Map,prog.map -Wl,--dependency-file=prog.d"),
    case("gcc -shared part.o -o libpart.so -Xlinker -soname -Xlinker libpart.so"),
    case("gcc main.o -o prog -L. -lpart"),
    case("gcc -r main.o part.o -o both.o"),
    case("ld -r -o both.o main.o part.o"),
    case("ld -shared -o libpart.so part.o -Map part.map"),
    case("ld -shared part.o"),
    case("as -o start.o start.s"),
    case("as start.s"),
    case("as -alh=start.lst --MD start.d start.s -o out/start.o"),
    case_with("gcc -fuse-ld=gold main.o part.o -o prog", &["ld.gold"]),
    case_with("ld.gold -shared -o libpart.so part.o -Map part.map", &[]),
    case_with("gcc -fuse-ld=lld main.o part.o -o prog", &["ld.lld"]),
    case_with("ld.lld -shared -o libpart.so part.o -Map=part.map", &[]),
    case("clang -MD -c main.c -o out/x.o"),
    case("clang -c main.c sub/part.c"),
    case("clang -save-temps -c main.c"),
    case("clang -save-temps=obj -c main.c -o out/x.o"),
    case("clang -g -gsplit-dwarf -c main.c -o out/x.o"),
    case("clang -S -emit-llvm main.c"),
    case("clang -c -emit-llvm main.c"),
    case("clang -fstack-usage -c main.c -o out/x.o"),
    case("clang -fsave-optimization-record -c main.c"),
    case("clang --serialize-diagnostics main.dia -c main.c"),
    case("clang main.o part.o -o prog"),
    case("gfortran -c sum.f90"),
    case("gfortran -cpp -MD -c sum.f90 -o out/sum.o"),
];

/// Files by name.
type Files = BTreeMap<String, Vec<u8>>;

fn files_below(dir: &Path, prefix: &str, found: &mut Files) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().into_string().unwrap());
        if entry.file_type().unwrap().is_dir() {
            files_below(&entry.path(), &format!("{name}/"), found);
        } else {
            found.insert(name, std::fs::read(entry.path()).unwrap());
        }
    }
}

fn files(dir: &Path) -> Files {
    let mut found = Files::new();
    files_below(dir, "", &mut found);
    found
}

fn run(dir: &Path, line: &str) -> Output {
    let mut words = line.split(' ');
    Command::new(words.next().unwrap())
        .args(words)
        .current_dir(dir)
        .env("LC_ALL", "C")
        .env("SOURCE_DATE_EPOCH", "1")
        .output()
        .unwrap()
}

fn is_there(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Makes a directory with sources and what is linked of them.
fn sources(dir: &Path) {
    std::fs::create_dir(dir).unwrap();
    std::fs::create_dir(dir.join("sub")).unwrap();
    std::fs::create_dir(dir.join("out")).unwrap();
    for (name, text) in [
        (
            "main.c",
            "#include \"a.h\"\nint main(void) { return part(1); }\n",
        ),
        ("a.h", "int part(int);\n"),
        ("sub/part.c", "int part(int n) { return n ? n * 2 : 1; }\n"),
        ("start.s", ".globl start\nstart:\n nop\n"),
        (
            "sum.f90",
            "integer function total(a)\n integer :: a\n total = a + 1\nend function\n",
        ),
    ] {
        std::fs::write(dir.join(name), text).unwrap();
    }
    for line in [
        "gcc -c main.c -o main.o",
        "gcc -fPIC -c sub/part.c -o part.o",
        "gcc -shared part.o -o libpart.so",
    ] {
        assert!(run(dir, line).status.success(), "{line}");
    }
}

fn ask(line: &str) -> Traced {
    let argv: Vec<_> = line
        .split(' ')
        .map(|word| word.as_bytes().to_vec())
        .collect();
    let tool = tool_of(&argv[0]).unwrap();
    traced(tool, &argv, &mut |_| None).unwrap()
}

#[test]
fn what_a_call_makes_is_an_output_and_older_outputs_do_not_change_it() {
    if !is_there("gcc") || !is_there("ld") {
        eprintln!("skipped: no gcc or no ld");
        return;
    }
    let top = tempfile::tempdir().unwrap();
    let made = top.path().join("made");
    sources(&made);
    for (number, case) in CASES.iter().enumerate() {
        let line = case.line;
        let program = line.split(' ').next().unwrap();
        if let Some(missing) = case
            .needs
            .iter()
            .chain([&program])
            .find(|name| !is_there(name))
        {
            eprintln!("skipped `{line}`: no {missing}");
            continue;
        }
        let dir = top.path().join(number.to_string());
        std::fs::create_dir_all(dir.join("sub")).unwrap();
        std::fs::create_dir(dir.join("out")).unwrap();
        for name in files(&made).keys() {
            std::fs::copy(made.join(name), dir.join(name)).unwrap();
        }
        let outputs: Vec<String> = ask(line)
            .outputs
            .into_iter()
            .map(|name| String::from_utf8(name).unwrap())
            .collect();
        for output in &outputs {
            let _ = std::fs::remove_file(dir.join(output));
        }
        let before = files(&dir);
        let first = run(&dir, line);
        let after = files(&dir);
        for name in after
            .keys()
            .filter(|name| before.get(*name) != after.get(*name))
        {
            assert!(
                outputs.contains(name),
                "`{line}` makes {name} as well: {outputs:?}"
            );
        }
        assert!(first.status.success(), "`{line}`: {first:?}");
        // What it leaves alone, it leaves alone; what it makes is the same.
        for output in &outputs {
            std::fs::write(dir.join(output), "older").unwrap();
        }
        let second = run(&dir, line);
        assert_eq!(first, second, "`{line}`");
        let mut again = files(&dir);
        again.retain(|name, content| after.contains_key(name) || content != b"older");
        let differing: Vec<_> = after
            .iter()
            .filter(|(name, content)| again.get(*name) != Some(content))
            .map(|(name, _)| name)
            .collect();
        assert!(differing.is_empty(), "`{line}` changes {differing:?}");
        assert_eq!(after.len(), again.len(), "`{line}`");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
