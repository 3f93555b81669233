//! Whatever file GCC or Clang opens for a source, the scan has named.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use proptest::prelude::*;
use shim_core::scan::{Definition, Directive, definitions, scan};

const HEADERS: usize = 5;

/// A piece of source that may include header `index`, plainly or as oddly as the language allows.
fn piece() -> impl Strategy<Value = String> {
    let header = 0..HEADERS;
    prop_oneof![
        header
            .clone()
            .prop_map(|i| format!("#include \"h{i}.h\"\n")),
        header
            .clone()
            .prop_map(|i| format!(" # /* c */ include /* \n */ \"h{i}.h\"\n")),
        header
            .clone()
            .prop_map(|i| format!("%: include <h{i}.h>\n")),
        header
            .clone()
            .prop_map(|i| format!("%\\\n:incl\\\nude \\\n <h{i}.h>\n")),
        header
            .clone()
            .prop_map(|i| format!("??=include \"h{i}.h\"\n")),
        header
            .clone()
            .prop_map(|i| format!("#inc??/\nlude \"h??/\n{i}.h\"\n")),
        header
            .clone()
            .prop_map(|i| format!("/* \" */ /**/#include \"h{i}.h\" // x\n")),
        header
            .clone()
            .prop_map(|i| format!("/* *\\\n/ #include \"h{i}.h\"\n")),
        header
            .clone()
            .prop_map(|i| format!("#define H{i} \"h{i}.h\"\n#include H{i}\n")),
        header
            .clone()
            .prop_map(|i| format!("#if __has_include(\"h{i}.h\")\n#include \"h{i}.h\"\n#endif\n")),
        header.clone().prop_map(|i| format!("#import \"h{i}.h\"\n")),
        header
            .clone()
            .prop_map(|i| format!("#include_next <h{i}.h>\n")),
        header
            .clone()
            .prop_map(|i| format!("#include\\  \n\"h{i}.h\"\r\n")),
        header.prop_map(|i| format!("\x0c\x0b#\tinclude\x0c\"h{i}.h\"junk\n")),
        Just("/* ".to_owned()),
        Just("*/ ".to_owned()),
        Just("// \\\n".to_owned()),
        Just("// ??/\n".to_owned()),
        Just("\"".to_owned()),
        Just("'\n".to_owned()),
        Just("const char *s = R\"(\n".to_owned()),
        Just(")\";\n".to_owned()),
        Just("#if 0\n".to_owned()),
        Just("#if 1\n".to_owned()),
        Just("#else\n".to_owned()),
        Just("#endif\n".to_owned()),
        Just("#define X(include) #include\n".to_owned()),
        Just("\\\n".to_owned()),
        Just("int x;\n".to_owned()),
        Just("#".to_owned()),
        Just("%".to_owned()),
        Just("include \"h0.h\"\n".to_owned()),
    ]
}

fn source() -> impl Strategy<Value = String> {
    proptest::collection::vec(piece(), 0..6).prop_map(|pieces| pieces.concat())
}

/// The compilers whose `-H` is asked, those of them that are there.
fn compilers() -> &'static [&'static str] {
    static FOUND: OnceLock<Vec<&str>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let is_there = |name: &&str| {
            let answer = Command::new(name).arg("--version").output();
            let is_there = answer.is_ok_and(|output| output.status.success());
            if !is_there {
                eprintln!("skipped: there is no {name}");
            }
            is_there
        };
        ["gcc", "clang"].into_iter().filter(is_there).collect()
    })
}

/// The files that a compiler's `-H` says it opened, errors or not.
fn opened(compiler: &str, dir: &Path, standard: &str, language: &str) -> Vec<PathBuf> {
    let mut command = Command::new(compiler);
    if compiler == "gcc" {
        // A guard that lies in a comment guards nothing.
        command.arg("-fmax-include-depth=5");
    }
    let output = command
        .args(["-H", "-E", "-P", "-o", "/dev/null", "-Ia", "-Ib", "-x"])
        .args([language, standard, "main.c"])
        .env("LC_ALL", "C")
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .expect("the compiler runs");
    String::from_utf8_lossy(&output.stderr)
        .lines()
        .filter_map(|line| {
            let rest = line.trim_start_matches('.');
            let path = rest.strip_prefix(' ').filter(|_| rest.len() < line.len())?;
            Some(PathBuf::from(path))
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn every_file_that_a_compiler_opens_is_named_by_a_scan(
        main in source(),
        headers in proptest::collection::vec(source(), 2 * HEADERS),
        standard in prop_oneof![
            Just(("-std=gnu11", "c")),
            Just(("-std=c99", "c")),
            Just(("-std=gnu++17", "c++")),
        ],
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut named = Vec::new();
        let mut computed = false;
        let mut texts = Vec::new();
        let mut macros = Vec::new();
        let mut write = |path: String, text: &str| {
            std::fs::write(dir.path().join(path), text).unwrap();
            let scan = scan(text.as_bytes());
            computed |= scan.computed_include;
            texts.push(text.to_owned());
            macros.extend(scan.macro_includes.into_iter().map(|include| include.name));
            named.extend(
                scan.includes
                    .into_iter()
                    .filter(|include| include.directive != Directive::Has)
                    .map(|include| String::from_utf8(include.name).unwrap()),
            );
        };
        write("main.c".to_owned(), &main);
        for sub in ["a", "b"] {
            std::fs::create_dir(dir.path().join(sub)).unwrap();
        }
        for (index, text) in headers.iter().enumerate() {
            let sub = ["a", "b"][index / HEADERS];
            // Guarded: what they include may be themselves.
            let guarded = format!("#ifndef G{index}\n#define G{index}\n{text}\n#endif\n");
            write(format!("{sub}/h{}.h", index % HEADERS), &guarded);
        }
        let mut seen = 0;
        while seen < macros.len() {
            let name = macros[seen].clone();
            seen += 1;
            for definition in texts.iter().flat_map(|text| definitions(text.as_bytes(), &name)) {
                match definition {
                    Definition::Header { name, .. } => named.push(String::from_utf8(name).unwrap()),
                    Definition::Alias(alias) if !macros.contains(&alias) => macros.push(alias),
                    Definition::Alias(_) | Definition::Nothing => {}
                    Definition::Other => computed = true,
                }
            }
        }
        for compiler in compilers() {
            for path in opened(compiler, dir.path(), standard.0, standard.1) {
                let name = path.file_name().unwrap().to_str().unwrap();
                prop_assert!(
                    computed || name.starts_with("stdc") || named.iter().any(|known| known == name),
                    "{} is not named, which {compiler} opens; main.c:\n{main}",
                    path.display(),
                );
            }
        }
    }
}
