//! What has to be known of a call whose files are traced.
//!
//! A traced call runs in a child that is shown each file it looks for, as it looks for it: so
//! all it reads is known afterwards, and every new file is a result. No table of flags is needed
//! for that. Refused is what depends on anything else, as far as a call's words tell: the
//! processor, the clock, chance, standard input, or what an earlier call has left for this one to
//! change.

use super::linker::linker_words;
use super::response::expand_loosely;
use super::table::{Effect, Takes, find};
use super::{Reason, Tool};
use crate::scan::mentions_time;

/// A call that can be a child once its files have been traced. Paths are as written: relative
/// ones are relative to the current directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traced {
    /// What it does, for counting and telling: `compile`, `link`, `relink`, `preprocess`,
    /// `dependencies`, `assembly-output`, `assemble`, `syntax-only`, `precompile-header` or
    /// `analyze`.
    pub kind: &'static str,
    /// Files that the call replaces without a look at what was in them: an older one is not to
    /// be shown to it. One that the call names as something to read is not here; nor is one of
    /// which it is not known that it is replaced.
    ///
    /// Some of them may not be made: what a compiler calls its side outputs depends on its
    /// version. A call that *reads* one of them all the same (an `#include` of its own output)
    /// must not be believed.
    pub outputs: Vec<Vec<u8>>,
    /// Sources are preprocessed, so that `__DATE__` and its kin in any input matter.
    pub preprocesses: bool,
    /// The source files, as far as they are known by their names or by `-x`.
    pub sources: Vec<Vec<u8>>,
    /// Debug information is asked for (`-g…`, not `-g0`).
    pub debug: bool,
    /// Debug sections may be compressed.
    pub compressed_debug: bool,
    /// A result may hold the compiler's intermediate code or a memory image of it (`-flto`,
    /// precompiled headers).
    pub intermediate_code: bool,
    /// The argument of the last `-frandom-seed=`.
    pub random_seed: Option<Vec<u8>>,
}

impl Traced {
    /// Whether it makes a program, a library or an object out of objects.
    pub fn links(&self) -> bool {
        matches!(self.kind, "link" | "relink")
    }

    /// Whether a file of this name that it leaves is a list of files, or text out of sources: where
    /// something stands in it does not depend on hashes of what else does. In assembly it may.
    pub fn is_for_people(&self, path: &[u8]) -> bool {
        path.ends_with(b".d") || matches!(self.kind, "preprocess" | "dependencies")
    }
}

/// Whether a file that begins with `head`, read or made by a call, ties it to modification times:
/// Clang's precompiled headers and modules hold those of their sources, which are compared when
/// they are used.
///
/// Only the first four bytes are looked at (LLVM, `clang/lib/Serialization/ASTReader.cpp`).
pub fn records_times(head: &[u8]) -> bool {
    head.starts_with(b"CPCH")
}

/// Decides whether a call of `tool` can be traced.
///
/// `argv` begins with the program's name. `read` gives the content of a response file, relative
/// to the call's directory, or `None` if there is none or it is too long.
///
/// # Errors
/// Why the call runs in place.
pub fn traced(
    tool: Tool,
    argv: &[Vec<u8>],
    read: &mut dyn FnMut(&[u8]) -> Option<Vec<u8>>,
) -> Result<Traced, Reason> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err(Reason::NotACompile);
    };
    for word in arguments {
        check_places(word)?;
    }
    let words = expand_loosely(arguments, read)?;
    for word in &words {
        check_places(word)?;
    }
    match tool {
        Tool::Compiler => driver(program, &words, read),
        Tool::Linker => link(program, &words),
        Tool::Assembler => assemble(&words),
    }
}

/// The files that the words of a call name.
#[derive(Default)]
pub(super) struct Files {
    written: Vec<Vec<u8>>,
    read: Vec<Vec<u8>>,
    libraries: Vec<Vec<u8>>,
}

impl Files {
    /// Notes a file that is written.
    pub(super) fn written(&mut self, path: &[u8]) {
        if !matches!(path, b"" | b"-" | b"/dev/null") {
            self.written.push(path.to_vec());
        }
    }

    /// Notes a file that may be read.
    pub(super) fn read(&mut self, path: &[u8]) {
        self.read.push(path.to_vec());
    }

    /// Notes a library that is searched for: what follows `-l`.
    pub(super) fn library(&mut self, name: &[u8]) {
        self.libraries.push(name.to_vec());
    }

    /// The files that are written and not read.
    fn outputs(self) -> Vec<Vec<u8>> {
        let read: Vec<_> = self.read.iter().map(|path| simplified(path)).collect();
        let is_library = |output: &[u8]| {
            let name = file_name(output);
            self.libraries.iter().any(|library| {
                let long = name.strip_prefix(b"lib");
                library.strip_prefix(b":") == Some(name)
                    || long
                        .and_then(|long| long.strip_prefix(library.as_slice()))
                        .is_some_and(|rest| rest.starts_with(b"."))
            })
        };
        let mut outputs: Vec<_> = self
            .written
            .iter()
            .filter(|output| !read.contains(&simplified(output)) && !is_library(output))
            .cloned()
            .collect();
        outputs.sort_unstable();
        outputs.dedup();
        outputs
    }
}

/// Refuses files that are not those of a name: another process's end of a pipe has no content
/// that could be a key.
fn check_places(word: &[u8]) -> Result<(), Reason> {
    let is_definition = word.starts_with(b"-D") || word.starts_with(b"-U");
    let names_place = |part: &[u8]| {
        let part = part.strip_prefix(b"@").unwrap_or(part);
        (part.starts_with(b"/dev/") && part != b"/dev/null") || part.starts_with(b"/proc/")
    };
    if !is_definition && word.split(|byte| b",=".contains(byte)).any(names_place) {
        return Err(Reason::Stdin);
    }
    Ok(())
}

/// Whether a word asks for the processor at hand: `-march=native`, `-Wl,-mllvm,-mcpu=native`.
pub(super) fn native(word: &[u8]) -> bool {
    const ENDS: [&[u8]; 3] = [b"arch=native", b"cpu=native", b"tune=native"];
    word.starts_with(b"-")
        && !word.starts_with(b"-D")
        && word
            .split(|&byte| byte == b',')
            .any(|part| ENDS.iter().any(|end| part.ends_with(end)))
}

/// Flags that keep a driver's call from being traced, and what else begins like them.
const REFUSED: &[(&str, Reason)] = &[
    ("--precompile", Reason::Modules),
    ("-emit-module", Reason::Modules),
    ("-emit-pch", Reason::PrecompiledHeader),
    ("-fbuild-session-", Reason::Modules),
    ("-fcxx-modules", Reason::Modules),
    ("-fimplicit-module", Reason::Modules),
    ("-flto=jobserver", Reason::Jobserver),
    ("-fmem-report", Reason::Dump),
    ("-fmodule", Reason::Modules),
    ("-fpost-ipa-mem-report", Reason::Dump),
    ("-fprebuilt-", Reason::Modules),
    ("-fpre-ipa-mem-report", Reason::Dump),
    ("-fproc-stat-report", Reason::Dump),
    ("-fstats", Reason::Dump),
    ("-ftime-report", Reason::Dump),
    ("-ftime-trace", Reason::Dump),
    ("-gen-cdb-fragment-path", Reason::KeptState),
    ("--gen-cdb-fragment-path", Reason::KeptState),
    ("-include-pch", Reason::PrecompiledHeader),
    ("-print-stats", Reason::Dump),
    ("-time=", Reason::Dump),
    ("-time-passes", Reason::Dump),
    ("-wrapper", Reason::Wrapper),
];

/// Flags that keep a driver's call from being traced.
const REFUSED_EXACTLY: &[(&str, Reason)] = &[
    ("--verbose", Reason::Verbose),
    ("-###", Reason::Verbose),
    ("-Q", Reason::Verbose),
    ("-time", Reason::Dump),
    ("-v", Reason::Verbose),
];

/// Refuses a flag of a driver that makes its result depend on more than files and words.
pub(super) fn check_word(word: &[u8]) -> Result<(), Reason> {
    if native(word) {
        return Err(Reason::HostProcessor);
    }
    if let Some((_, reason)) = REFUSED_EXACTLY
        .iter()
        .find(|(flag, _)| flag.as_bytes() == word)
        .or_else(|| {
            REFUSED
                .iter()
                .find(|(flag, _)| word.starts_with(flag.as_bytes()))
        })
    {
        return Err(reason.clone());
    }
    // Such reports say when they were made.
    if word.starts_with(b"-fdiagnostics-") && memchr::memmem::find(word, b"sarif").is_some() {
        return Err(Reason::Clock);
    }
    for (prefix, step) in STEPS {
        if let Some(words) = word.strip_prefix(prefix.as_bytes()) {
            let words: Vec<_> = words
                .split(|&byte| byte == b',')
                .map(<[u8]>::to_vec)
                .collect();
            return step(&words, &mut Files::default());
        }
    }
    // A linker's own word, as in `NIX_LDFLAGS`.
    linker_words(&[word.to_vec()], &mut Files::default())
        .map(drop)
        .or_else(|reason| match reason {
            Reason::MissingArgument(_) => Ok(()),
            reason => Err(reason),
        })
}

type Step = fn(&[Vec<u8>], &mut Files) -> Result<(), Reason>;

/// The flags that pass words on, joined by commas, and who reads them.
const STEPS: &[(&str, Step)] = &[
    ("-Wa,", assembler_words),
    ("-Wl,", |words, files| linker_words(words, files).map(drop)),
    ("-Wp,", preprocessor_words),
];

/// Reads words that are passed on to the preprocessor.
fn preprocessor_words(words: &[Vec<u8>], files: &mut Files) -> Result<(), Reason> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_slice() {
            b"-MD" | b"-MMD" | b"-MF" => {
                if let Some(file) = words.next() {
                    files.written(file);
                }
            }
            b"-v" => return Err(Reason::Verbose),
            _ => {}
        }
    }
    Ok(())
}

/// Reads words of an assembler's call. Source: as(1).
fn assembler_words(words: &[Vec<u8>], files: &mut Files) -> Result<(), Reason> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_slice() {
            b"--MD" | b"-o" => {
                if let Some(file) = words.next() {
                    files.written(file);
                }
            }
            b"-I" | b"--defsym" | b"--debug-prefix-map" => drop(words.next()),
            b"--statistics" => return Err(Reason::Dump),
            b"-v" | b"--verbose" => return Err(Reason::Verbose),
            _ if native(word) => return Err(Reason::HostProcessor),
            listing if is_listing(listing) => {
                let letters = &listing[2..];
                let (letters, file) = match letters.iter().position(|&byte| byte == b'=') {
                    Some(at) => (&letters[..at], &letters[at + 1..]),
                    None => (letters, &b""[..]),
                };
                // General information: a time stamp.
                if letters.contains(&b'g') {
                    return Err(Reason::Clock);
                }
                files.written(file);
            }
            flag if flag.starts_with(b"-") => {}
            file => files.read(file),
        }
    }
    Ok(())
}

/// Whether an assembler's word asks for a listing: `-a`, `-alh=FILE`.
fn is_listing(word: &[u8]) -> bool {
    word.strip_prefix(b"-a").is_some_and(|rest| {
        rest.iter()
            .take_while(|&&byte| byte != b'=')
            .all(|byte| b"cdghilmns".contains(byte))
    })
}

/// A call of a linker by its own name.
fn link(program: &[u8], words: &[Vec<u8>]) -> Result<Traced, Reason> {
    if words.iter().any(|word| word == b"-") {
        return Err(Reason::Stdin);
    }
    let mut files = Files::default();
    if !linker_words(words, &mut files)? {
        files.written(b"a.out");
    }
    if files.read.is_empty() && files.libraries.is_empty() {
        return Err(Reason::NotACompile);
    }
    check_image_format(program, words)?;
    if files.read.iter().any(|file| is_temporary(file)) {
        return Err(Reason::CalledByCompiler);
    }
    let relocatable = |word: &[u8]| matches!(word, b"-r" | b"-i" | b"--relocatable" | b"-Ur");
    Ok(Traced {
        kind: match words.iter().any(|word| relocatable(word)) {
            true => "relink",
            false => "link",
        },
        compressed_debug: words.iter().any(|word| compresses(word)),
        outputs: files.outputs(),
        ..Traced::default()
    })
}

/// Windows' images hold the time at which they were linked.
fn check_image_format(program: &[u8], words: &[Vec<u8>]) -> Result<(), Reason> {
    let is_windows = |word: &[u8]| {
        ["mingw", "cygwin", "windows", "i386pe"]
            .iter()
            .any(|name| memchr::memmem::find(word, name.as_bytes()).is_some())
    };
    let names_target = |word: &Vec<u8>| {
        let is_target = word.starts_with(b"--target=") || word.starts_with(b"-m");
        is_target || word == b"i386pep" || word == b"i386pe"
    };
    if is_windows(file_name(program))
        || words
            .iter()
            .any(|word| names_target(word) && is_windows(word))
    {
        return Err(Reason::Clock);
    }
    Ok(())
}

/// Whether a compiler's driver made this file for the time of its own call: `/tmp/ccX3kd9a.o`,
/// `/tmp/main-1f0c9e.o`.
fn is_temporary(path: &[u8]) -> bool {
    let name = file_name(path);
    let Some(stem) = path
        .starts_with(b"/")
        .then(|| name.strip_suffix(b".o").or(name.strip_suffix(b".s")))
        .flatten()
    else {
        return false;
    };
    let by_gcc = stem
        .strip_prefix(b"cc")
        .is_some_and(|rest| rest.len() == 6 && rest.iter().all(u8::is_ascii_alphanumeric));
    let by_clang = stem
        .iter()
        .rposition(|&byte| byte == b'-')
        .is_some_and(|dash| {
            let rest = &stem[dash + 1..];
            rest.len() >= 6 && rest.iter().all(u8::is_ascii_hexdigit)
        });
    by_gcc || by_clang
}

/// Whether a word of any tool asks for compressed debug sections.
fn compresses(word: &[u8]) -> bool {
    const FLAGS: [&[u8]; 3] = [
        b"--compress-debug-sections",
        b"-compress-debug-sections",
        b"-gz",
    ];
    word.split(|&byte| byte == b',').any(|word| {
        FLAGS.iter().any(|flag| {
            word.strip_prefix(*flag).is_some_and(|value| {
                matches!(value.first(), None | Some(b'=')) && value != b"=none"
            })
        })
    })
}

/// A call of an assembler by its own name.
fn assemble(words: &[Vec<u8>]) -> Result<Traced, Reason> {
    if words.iter().any(|word| word == b"-") {
        return Err(Reason::Stdin);
    }
    if words
        .iter()
        .any(|word| matches!(word.as_slice(), b"--version" | b"--help" | b"--target-help"))
    {
        return Err(Reason::NotACompile);
    }
    let mut files = Files::default();
    assembler_words(words, &mut files)?;
    let sources = files.read.clone();
    if sources.is_empty() {
        return Err(Reason::Stdin);
    }
    if sources.iter().any(|file| is_temporary(file)) {
        return Err(Reason::CalledByCompiler);
    }
    if !words.iter().any(|word| word == b"-o") {
        files.written(b"a.out");
    }
    Ok(Traced {
        kind: "assemble",
        outputs: files.outputs(),
        sources,
        debug: words
            .iter()
            .any(|word| word.starts_with(b"-g") || word.starts_with(b"--gdwarf")),
        compressed_debug: words.iter().any(|word| compresses(word)),
        ..Traced::default()
    })
}

/// Flags with a word of their own behind them that are not in the table of compiles.
const VALUES: &[&str] = &[
    "--config",
    "--entry",
    "--serialize-diagnostics",
    "-A",
    "-J",
    "-Xarch_device",
    "-Xarch_host",
    "-Xopenmp-target",
    "-allowable_client",
    "-aux-info",
    "-auxbase",
    "-dumpbase",
    "-dumpbase-ext",
    "-dumpdir",
    "-e",
    "-framework",
    "-h",
    "-install_name",
    "-mllvm",
    "-target",
    "-u",
];

/// What a driver's call stops at. The first that is asked for in this order counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Dependencies,
    Preprocess,
    Analyze,
    Check,
    Assembly,
    Object,
    Link,
}

/// What is known of a source by its name or by `-x`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Goes to the linker as it is.
    Linked,
    /// A header, which is precompiled.
    Header,
    /// Compiled or assembled without being preprocessed.
    Plain,
    /// Preprocessed first. Also what is not known.
    Preprocessed,
    /// A module of C++20.
    Module,
}

struct Driver {
    stage: Stage,
    output: Option<Vec<u8>>,
    operands: Vec<(Vec<u8>, Kind)>,
    selected: Option<Kind>,
    files: Files,
    to_linker: Vec<Vec<u8>>,
    to_assembler: Vec<Vec<u8>>,
    to_preprocessor: Vec<Vec<u8>>,
    dependencies: bool,
    dependency_file: Option<Vec<u8>>,
    /// The suffixes of the files that flags have written beside the object.
    beside: Vec<&'static str>,
    /// Side outputs have names by flags that are not looked at.
    renamed: bool,
    question: bool,
    preprocesses_all: bool,
    /// A macro's text, which is in no file, may ask for the time.
    times_in_flags: bool,
    traced: Traced,
}

/// A call of a compiler's driver.
fn driver(
    program: &[u8],
    words: &[Vec<u8>],
    read: &mut dyn FnMut(&[u8]) -> Option<Vec<u8>>,
) -> Result<Traced, Reason> {
    let mut driver = Driver {
        stage: Stage::Link,
        output: None,
        operands: Vec::new(),
        selected: None,
        files: Files::default(),
        to_linker: Vec::new(),
        to_assembler: Vec::new(),
        to_preprocessor: Vec::new(),
        dependencies: false,
        dependency_file: None,
        beside: Vec::new(),
        renamed: false,
        question: false,
        preprocesses_all: false,
        times_in_flags: false,
        traced: Traced::default(),
    };
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        driver.word(word, &mut rest, read)?;
    }
    driver.finish(program, words, read)
}

impl Driver {
    fn word<'a>(
        &mut self,
        word: &'a [u8],
        rest: &mut impl Iterator<Item = &'a Vec<u8>>,
        read: &mut dyn FnMut(&[u8]) -> Option<Vec<u8>>,
    ) -> Result<(), Reason> {
        if word == b"-" {
            return Err(Reason::Stdin);
        }
        if !word.starts_with(b"-") {
            let kind = self.selected.unwrap_or_else(|| by_suffix(word));
            self.operands.push((word.to_vec(), kind));
            return Ok(());
        }
        if !word.starts_with(b"-W") && !word.starts_with(b"-D") {
            check_word(word)?;
        }
        self.stages_and_side_outputs(word);
        if VALUES.iter().any(|flag| flag.as_bytes() == word) {
            let value = rest
                .next()
                .ok_or_else(|| Reason::MissingArgument(word.to_vec()))?;
            return self.other_value(word, value, read);
        }
        if let Some(file) = word.strip_prefix(b"--config=") {
            return check_config(file, read);
        }
        let Some((row, joined)) = find(word) else {
            return Ok(());
        };
        let separate = match row.takes {
            Takes::Nothing | Takes::Joined => false,
            Takes::Separate => true,
            Takes::Either | Takes::SeparateOrPath => joined.is_empty(),
        };
        let value = match separate {
            true => rest
                .next()
                .ok_or_else(|| Reason::MissingArgument(word.to_vec()))?,
            false => joined,
        };
        self.table_flag(row.effect, word, value)
    }

    /// Flags of the table of compiles.
    fn table_flag(&mut self, effect: Effect, word: &[u8], value: &[u8]) -> Result<(), Reason> {
        match effect {
            Effect::Object => self.output = Some(value.to_vec()),
            Effect::ObjectOnly => self.stop_at(Stage::Object),
            Effect::AssemblyOutput => self.stop_at(Stage::Assembly),
            Effect::PreprocessOnly => self.stop_at(match word {
                b"-E" => Stage::Preprocess,
                _ => Stage::Dependencies,
            }),
            Effect::Dependencies => self.dependencies = true,
            Effect::DependencyFile => self.dependency_file = Some(value.to_vec()),
            Effect::NotACompile => self.question = true,
            Effect::Define => self.times_in_flags |= mentions_time(value),
            Effect::Language => self.selected = selected(value)?,
            Effect::Include | Effect::Imacros => self.files.read(value),
            Effect::ToAssembler => split_into(&mut self.to_assembler, value),
            Effect::ToPreprocessor => split_into(&mut self.to_preprocessor, value),
            Effect::DebugFamily => self.debug(value),
            Effect::PassThrough => match word {
                b"-Xassembler" => self.to_assembler.push(value.to_vec()),
                b"-Xpreprocessor" => self.to_preprocessor.push(value.to_vec()),
                _ => check_word(value)?,
            },
            _ if word.starts_with(b"-Wl,") => split_into(&mut self.to_linker, value_of(word)),
            _ if word == b"-Xlinker" => self.to_linker.push(value.to_vec()),
            _ if word == b"-z" => {}
            _ if word.starts_with(b"-l") => self.files.library(value),
            _ => {}
        }
        Ok(())
    }

    /// Flags with a value that the table of compiles does not have.
    fn other_value(
        &mut self,
        word: &[u8],
        value: &[u8],
        read: &mut dyn FnMut(&[u8]) -> Option<Vec<u8>>,
    ) -> Result<(), Reason> {
        match word {
            b"--config" => check_config(value, read),
            b"-aux-info" | b"--serialize-diagnostics" => {
                self.files.written(value);
                Ok(())
            }
            b"-mllvm" | b"-Xarch_host" | b"-Xarch_device" | b"-Xopenmp-target" => check_word(value),
            b"-dumpbase" | b"-dumpbase-ext" | b"-dumpdir" | b"-auxbase" => {
                self.renamed = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn stop_at(&mut self, stage: Stage) {
        self.stage = self.stage.min(stage);
    }

    /// What a flag says beside its place in the table.
    fn stages_and_side_outputs(&mut self, word: &[u8]) {
        match word {
            b"-fsyntax-only" => self.stop_at(Stage::Check),
            b"--analyze" => self.stop_at(Stage::Analyze),
            b"-emit-llvm" => self.beside.extend([".bc", ".ll"]),
            b"-cpp" => self.preprocesses_all = true,
            b"--coverage" | b"-coverage" | b"-ftest-coverage" => self.beside.push(".gcno"),
            b"-gsplit-dwarf" => self.beside.push(".dwo"),
            b"-fstack-usage" => self.beside.push(".su"),
            _ => {}
        }
        let begins = |prefix: &str| word.starts_with(prefix.as_bytes());
        if begins("-save-temps") || begins("--save-temps") {
            self.beside.extend([".i", ".ii", ".s", ".o", ".bc"]);
        }
        if begins("-fcallgraph-info") {
            self.beside.push(".ci");
        }
        if begins("-fsave-optimization-record") {
            self.beside.extend([".opt-record.json.gz", ".opt.yaml"]);
        }
        if begins("-flto") || begins("-fembed-bitcode") || word == b"-emit-llvm" {
            self.traced.intermediate_code = true;
        }
        if let Some(seed) = word.strip_prefix(b"-frandom-seed=") {
            self.traced.random_seed = Some(seed.to_vec());
        }
        self.traced.compressed_debug |= compresses(word);
    }

    fn debug(&mut self, value: &[u8]) {
        if !value.starts_with(b"z") && !value.starts_with(b"no-") {
            self.traced.debug = value != b"0";
        }
    }

    fn finish(
        mut self,
        program: &[u8],
        words: &[Vec<u8>],
        read: &mut dyn FnMut(&[u8]) -> Option<Vec<u8>>,
    ) -> Result<Traced, Reason> {
        if self.question || (self.operands.is_empty() && self.stage != Stage::Link) {
            return Err(Reason::NotACompile);
        }
        if self.operands.is_empty() && self.files.libraries.is_empty() {
            return Err(Reason::NotACompile);
        }
        // Steps read response files of their own.
        let to_linker = expand_loosely(&self.to_linker, read)?;
        linker_words(&to_linker, &mut self.files)?;
        let to_assembler = expand_loosely(&self.to_assembler, read)?;
        assembler_words(&to_assembler, &mut self.files)?;
        preprocessor_words(&self.to_preprocessor, &mut self.files)?;
        self.times_in_flags |= self.to_preprocessor.iter().any(|word| mentions_time(word));
        if self.times_in_flags {
            return Err(Reason::Clock);
        }
        if self.stage == Stage::Link {
            check_image_format(program, words)?;
        }
        let has = |operands: &[(Vec<u8>, Kind)], kind| operands.iter().any(|(_, of)| *of == kind);
        if has(&self.operands, Kind::Module) {
            return Err(Reason::Modules);
        }
        let is_header = has(&self.operands, Kind::Header);
        let makes_header = is_header && self.stage >= Stage::Assembly;
        if makes_header && memchr::memmem::find(file_name(program), b"clang").is_some() {
            return Err(Reason::PrecompiledHeader);
        }
        let is_assembly =
            self.stage == Stage::Object && self.operands.iter().all(|(name, _)| is_assembly(name));
        self.traced.kind = match self.stage {
            Stage::Dependencies => "dependencies",
            Stage::Preprocess => "preprocess",
            Stage::Analyze => "analyze",
            Stage::Check => "syntax-only",
            _ if makes_header => "precompile-header",
            Stage::Assembly => "assembly-output",
            Stage::Object if is_assembly => "assemble",
            Stage::Object => "compile",
            Stage::Link => "link",
        };
        self.traced.intermediate_code |= makes_header;
        self.traced.preprocesses =
            self.preprocesses_all || is_header || has(&self.operands, Kind::Preprocessed);
        self.name_outputs(makes_header);
        for (name, kind) in std::mem::take(&mut self.operands) {
            self.files.read(&name);
            if kind != Kind::Linked {
                self.traced.sources.push(name);
            }
        }
        self.traced.outputs = self.files.outputs();
        Ok(self.traced)
    }

    /// Notes the files that the call writes by its flags, and by their defaults.
    fn name_outputs(&mut self, makes_header: bool) {
        if let Some(file) = &self.dependency_file {
            self.files.written(file);
        }
        if let Some(output) = &self.output {
            self.files.written(output);
        }
        if self.dependencies && self.dependency_file.is_none() {
            self.beside.push(".d");
        }
        let default = match self.stage {
            Stage::Link if self.output.is_none() => {
                if !makes_header {
                    self.files.written(b"a.out");
                }
                None
            }
            Stage::Object => Some(".o"),
            Stage::Assembly => Some(".s"),
            _ => None,
        };
        let bases = self.bases();
        if self.output.is_none() {
            for (source, kind) in &self.operands {
                if *kind == Kind::Header && makes_header {
                    self.files.written(&[source, &b".gch"[..]].concat());
                } else if *kind != Kind::Linked
                    && let Some(suffix) = default
                {
                    let name = without_suffix(file_name(source));
                    self.files.written(&[name, suffix.as_bytes()].concat());
                }
            }
        }
        if !self.renamed {
            for base in bases {
                for suffix in &self.beside {
                    self.files.written(&[&base, suffix.as_bytes()].concat());
                }
            }
        }
    }

    /// What the names of side outputs begin with: by the object's name, by the source's, there or
    /// here, and, if sources are linked, by both. Source: gcc(1), `-dumpbase`.
    fn bases(&self) -> Vec<Vec<u8>> {
        let mut bases = Vec::new();
        if let Some(output) = &self.output {
            bases.push(without_suffix(output).to_vec());
        }
        for (source, kind) in &self.operands {
            if *kind == Kind::Linked {
                continue;
            }
            let name = without_suffix(file_name(source));
            bases.push(name.to_vec());
            if let Some(output) = &self.output {
                let dir = &output[..output.len() - file_name(output).len()];
                bases.push([dir, name].concat());
            }
            if self.stage == Stage::Link {
                let output = self.output.as_deref().unwrap_or(b"a");
                bases.push([output, b"-", name].concat());
                bases.push([without_suffix(output), b"-", name].concat());
            }
        }
        bases
    }
}

fn value_of(word: &[u8]) -> &[u8] {
    let comma = word.iter().position(|&byte| byte == b',');
    comma.map_or(b"", |at| &word[at + 1..])
}

fn split_into(list: &mut Vec<Vec<u8>>, value: &[u8]) {
    list.extend(value.split(|&byte| byte == b',').map(<[u8]>::to_vec));
}

/// Refuses a configuration file of Clang whose flags would be refused, or that is not where its
/// name says.
fn check_config(file: &[u8], read: &mut dyn FnMut(&[u8]) -> Option<Vec<u8>>) -> Result<(), Reason> {
    if file.is_empty() {
        return Ok(());
    }
    let content = read(file).ok_or(Reason::Specs)?;
    for line in content.split(|&byte| byte == b'\n') {
        for word in line.split(u8::is_ascii_whitespace) {
            if word.starts_with(b"@") {
                return Err(Reason::Specs);
            }
            check_word(word)?;
        }
    }
    Ok(())
}

/// What `-x` says of the sources behind it; `None` is what their names say.
fn selected(name: &[u8]) -> Result<Option<Kind>, Reason> {
    Ok(match name {
        b"none" => None,
        b"cpp-output" | b"c++-cpp-output" | b"assembler" | b"f77" | b"f95" | b"ir" => {
            Some(Kind::Plain)
        }
        b"objective-c-cpp-output" | b"objective-c++-cpp-output" => Some(Kind::Plain),
        b"c++-module" | b"c++-system-header" | b"c++-user-header" => {
            return Err(Reason::Modules);
        }
        _ if name.ends_with(b"-header") => Some(Kind::Header),
        _ => Some(Kind::Preprocessed),
    })
}

fn is_assembly(source: &[u8]) -> bool {
    [&b".s"[..], b".S", b".sx"]
        .iter()
        .any(|suffix| source.ends_with(suffix))
}

/// What a source is by its name. Sources: gcc(1), "Options Controlling the Kind of Output";
/// gfortran(1); clang's list of types.
fn by_suffix(source: &[u8]) -> Kind {
    let name = file_name(source);
    let suffix = &name[without_suffix(name).len()..];
    match suffix {
        b".i" | b".ii" | b".mi" | b".mii" | b".s" | b".bc" | b".ll" => Kind::Plain,
        b".f" | b".for" | b".ftn" | b".f90" | b".f95" | b".f03" | b".f08" => Kind::Plain,
        b".h" | b".hh" | b".H" | b".hp" | b".hxx" | b".hpp" | b".HPP" | b".h++" | b".tcc" => {
            Kind::Header
        }
        b".cppm" | b".ccm" | b".cxxm" | b".c++m" | b".ixx" | b".pcm" => Kind::Module,
        b".o" | b".a" | b".so" | b".lo" | b".la" | b".obj" | b".lib" | b".ld" | b".lds"
        | b".map" | b".sym" | b".ver" | b".def" | b".res" | b"" => Kind::Linked,
        _ if memchr::memmem::find(name, b".so.").is_some() => Kind::Linked,
        _ => Kind::Preprocessed,
    }
}

fn file_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

/// `path` up to the last dot of its last part, if there is one behind its beginning.
fn without_suffix(path: &[u8]) -> &[u8] {
    let name = file_name(path);
    match name.iter().rposition(|&byte| byte == b'.') {
        Some(dot) if dot > 0 => &path[..path.len() - name.len() + dot],
        _ => path,
    }
}

/// A path by which two spellings of the same file are known as such, as long as no symlink is
/// involved.
fn simplified(path: &[u8]) -> Vec<&[u8]> {
    let mut parts: Vec<&[u8]> = Vec::new();
    if path.starts_with(b"/") {
        parts.push(b"/");
    }
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|last| *last != b"..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn words(line: &str) -> Vec<Vec<u8>> {
        line.split_whitespace()
            .map(|word| word.as_bytes().to_vec())
            .collect()
    }

    fn ask(line: &str) -> Result<Traced, Reason> {
        let argv = words(line);
        let tool = super::super::tool_of(file_name(&argv[0])).unwrap();
        traced(tool, &argv, &mut |_| None)
    }

    fn texts(list: &[Vec<u8>]) -> Vec<&str> {
        list.iter()
            .map(|text| str::from_utf8(text).unwrap())
            .collect()
    }

    #[rstest]
    #[case::object("gcc -c a.c", "compile", &["a.o"])]
    #[case::named("gcc -c x/a.c -o y/b.o", "compile", &["y/b.o"])]
    #[case::several("gcc -c a.c x/b.cc c.o", "compile", &["a.o", "b.o"])]
    #[case::by_language("g++ -c -x c++ a.inc", "compile", &["a.o"])]
    #[case::assembler("gcc -c a.S b.s", "assemble", &["a.o", "b.o"])]
    #[case::assembly("gcc -S a.c", "assembly-output", &["a.s"])]
    #[case::preprocessed("gcc -E a.c", "preprocess", &[])]
    #[case::preprocessed_to_a_file("gcc -c -E a.c -o a.i", "preprocess", &["a.i"])]
    #[case::rules("gcc -M a.c -MF a.d", "dependencies", &["a.d"])]
    #[case::rules_on_stdout("gcc -MM a.c", "dependencies", &[])]
    #[case::check("gcc -fsyntax-only -S a.c", "syntax-only", &[])]
    #[case::header("gcc -x c-header a.h", "precompile-header", &["a.h.gch"])]
    #[case::header_by_name("g++ a.hpp -o x.gch", "precompile-header", &["x.gch"])]
    #[case::rules_of_a_header("gcc -MM a.h", "dependencies", &[])]
    #[case::link("gcc a.o b.o", "link", &["a.out"])]
    #[case::link_named("gcc a.o -shared -o liba.so.1 -lm", "link", &["liba.so.1"])]
    #[case::link_with_map("gcc a.o -o a -Wl,-Map=a.map,--cref", "link", &["a", "a.map"])]
    #[case::map_apart("gcc a.o -o a -Wl,-Map,a.map", "link", &["a", "a.map"])]
    #[case::by_xlinker("gcc a.o -o a -Xlinker -Map -Xlinker a.map", "link", &["a", "a.map"])]
    #[case::nothing_kept("gcc a.c -o /dev/null", "link", &[])]
    #[case::fortran("gfortran -c a.f90", "compile", &["a.o"])]
    #[case::objective_c("gcc -c a.m b.mm", "compile", &["a.o", "b.o"])]
    #[case::listing("gcc -c a.c -Wa,-alh=a.lst,--MD,a.d", "compile", &["a.d", "a.lst", "a.o"])]
    #[case::passed_dependencies("gcc -c a.c -Wp,-MMD,.a.d", "compile", &[".a.d", "a.o"])]
    #[case::dependencies("gcc -c x/a.c -MD -o y/b.o", "compile", &["a.d", "y/a.d", "y/b.d", "y/b.o"])]
    #[case::target_is_no_input(
        "gcc -MT a.o -MD -MP -MF .d/a.Tpo -c -o a.o a.c", "compile", &[".d/a.Tpo", "a.o"]
    )]
    #[case::coverage("gcc --coverage -c a.c", "compile", &["a.gcno", "a.o"])]
    #[case::stack(
        "gcc -fstack-usage -c a.c -o x/b.o",
        "compile",
        &["a.su", "x/a.su", "x/b.o", "x/b.su"]
    )]
    #[case::unknown_flag("gcc -fnew-thing=3 -c a.c", "compile", &["a.o"])]
    #[case::plugin("gcc -fplugin=./p.so -fplugin-arg-p-x=1 -c a.c", "compile", &["a.o"])]
    #[case::profile("gcc -fprofile-use=a.gcda -c a.c", "compile", &["a.o"])]
    #[case::specs("gcc -specs=x.specs -c a.c", "compile", &["a.o"])]
    #[case::lto("gcc -flto=auto a.o -o a", "link", &["a"])]
    #[case::ld("ld -o a a.o -lc", "link", &["a"])]
    #[case::ld_default("ld a.o", "link", &["a.out"])]
    #[case::ld_library("ld -shared -soname liba.so -o liba.so a.o", "link", &["liba.so"])]
    #[case::ld_long("ld --output=a --Map a.map a.o -T x.ld", "link", &["a", "a.map"])]
    #[case::relink("ld -r -o a.o b.o c.o", "relink", &["a.o"])]
    #[case::relink_of_namesakes("ld -r -o x/a.o x/y/a.o", "relink", &["x/a.o"])]
    #[case::gold("ld.gold --threads --build-id=sha1 -o a a.o", "link", &["a"])]
    #[case::as_("as -o a.o a.s", "assemble", &["a.o"])]
    #[case::as_default("as --64 -I x a.s", "assemble", &["a.out"])]
    fn a_call_replaces_its_outputs(
        #[case] line: &str,
        #[case] kind: &str,
        #[case] outputs: &[&str],
    ) {
        let traced = ask(line).unwrap();
        assert_eq!(
            (traced.kind, texts(&traced.outputs).as_slice()),
            (kind, outputs)
        );
    }

    #[rstest]
    #[case::relinked("ld -r -o a.o a.o b.o")]
    #[case::by_another_name("ld -r -o a.o ./x/../a.o")]
    #[case::absolute("ld -r -o /x/a.o /x//a.o")]
    #[case::library("gcc -shared -o libfoo.so a.o -L. -lfoo")]
    #[case::library_apart("ld -o libfoo.so.1 a.o -L. -lfoo")]
    #[case::exact_library("gcc -o foo.so a.o -L. -l:foo.so")]
    #[case::script("ld -o a -T a")]
    #[case::version_script("gcc a.o -o a -Wl,--version-script=a")]
    #[case::version_script_apart("gcc a.o -o a -Wl,--version-script,a")]
    #[case::source("gcc -E a.i -o a.i")]
    #[case::forced("gcc -E a.c -include b.h -o b.h")]
    fn what_is_read_as_well_is_no_output(#[case] line: &str) {
        assert_eq!(ask(line).unwrap().outputs, Vec::<Vec<u8>>::new());
    }

    #[rstest]
    #[case::nothing("gcc", Reason::NotACompile)]
    #[case::version("gcc --version", Reason::NotACompile)]
    #[case::version_with_a_source("gcc -dumpversion a.c", Reason::NotACompile)]
    #[case::search("gcc -print-file-name=crt1.o", Reason::NotACompile)]
    #[case::linker_version("ld --version", Reason::NotACompile)]
    #[case::linker_words("ld -V --help -m elf_x86_64", Reason::NotACompile)]
    #[case::stdin("gcc -E -", Reason::Stdin)]
    #[case::stdin_by_language("gcc -c -x c - -o a.o", Reason::Stdin)]
    #[case::pipe("gcc a.o -Wl,--version-script=/dev/fd/63", Reason::Stdin)]
    #[case::stdin_by_name("gcc -c -x c /dev/stdin", Reason::Stdin)]
    #[case::pipe_as_response_file("gcc @/proc/self/fd/3", Reason::Stdin)]
    #[case::assembler_without_a_file("as -o a.o", Reason::Stdin)]
    #[case::to_stdout("gcc -E a.c -o /dev/stdout", Reason::Stdin)]
    #[case::arch("gcc -march=native -c a.c", Reason::HostProcessor)]
    #[case::tune("gcc -mtune=native a.o", Reason::HostProcessor)]
    #[case::in_the_linker("clang a.o -Wl,-plugin-opt=mcpu=native", Reason::HostProcessor)]
    #[case::in_the_middle("clang a.o -Wl,-mllvm,-mcpu=native,-x", Reason::HostProcessor)]
    #[case::llvm("clang -mllvm -mcpu=native a.o", Reason::HostProcessor)]
    #[case::other_cpu("clang -Xarch_device -march=native -c a.c", Reason::HostProcessor)]
    #[case::by_linker("ld.lld -mllvm -mcpu=native a.o", Reason::HostProcessor)]
    #[case::random("gcc a.o -Wl,--build-id=uuid", Reason::Random)]
    #[case::random_by_ld("ld -build-id=uuid a.o", Reason::Random)]
    #[case::random_by_xlinker("gcc a.o -Xlinker --build-id=uuid", Reason::Random)]
    #[case::shown("gcc -v a.c", Reason::Verbose)]
    #[case::only_shown("gcc -### a.c", Reason::Verbose)]
    #[case::quiet("gcc -Q -c a.c", Reason::Verbose)]
    #[case::preprocessor_shows("gcc -E -Wp,-v a.c", Reason::Verbose)]
    #[case::times("gcc -ftime-report -c a.c", Reason::Dump)]
    #[case::trace("clang -ftime-trace=x -c a.c", Reason::Dump)]
    #[case::memory("gcc -fmem-report -c a.c", Reason::Dump)]
    #[case::time("gcc -time -c a.c", Reason::Dump)]
    #[case::time_to_file("gcc -time=f -c a.c", Reason::Dump)]
    #[case::passes("clang -mllvm -time-passes -c a.c", Reason::Dump)]
    #[case::cc1("clang -Xclang -print-stats -c a.c", Reason::Dump)]
    #[case::linker_stats("gcc a.o -Wl,--stats", Reason::Dump)]
    #[case::assembler_stats("gcc -c a.s -Wa,--statistics", Reason::Dump)]
    #[case::listing_with_the_time("gcc -c a.c -Wa,-ahlg=a.lst", Reason::Clock)]
    #[case::sarif("gcc -fdiagnostics-format=sarif-file -c a.c", Reason::Clock)]
    #[case::time_by_flag("gcc -DX=__TIME__ -c a.c", Reason::Clock)]
    #[case::time_apart("gcc -D X=__TIMESTAMP__ -c a.c", Reason::Clock)]
    #[case::pieces("gcc -DX=TE__ -c a.c", Reason::Clock)]
    #[case::time_passed_on("gcc -Wp,-DX=__DATE__ -c a.c", Reason::Clock)]
    #[case::time_passed_apart("gcc -Xpreprocessor -DX=__DATE__ -c a.c", Reason::Clock)]
    #[case::windows("x86_64-w64-mingw32-gcc a.o", Reason::Clock)]
    #[case::windows_by_clang("clang --target=x86_64-pc-windows-gnu a.o", Reason::Clock)]
    #[case::windows_by_ld("ld -m i386pep a.o", Reason::Clock)]
    #[case::wrapper("gcc -wrapper time -c a.c", Reason::Wrapper)]
    #[case::modules("g++ -fmodules-ts -c a.cc", Reason::Modules)]
    #[case::mapper("g++ -fmodule-mapper=|x -c a.cc", Reason::Modules)]
    #[case::module("clang++ -c a.cppm", Reason::Modules)]
    #[case::module_by_language("clang++ -x c++-module -c a.cc", Reason::Modules)]
    #[case::module_of_clang("clang++ -fmodule-file=a=a.pcm -c a.cc", Reason::Modules)]
    #[case::clang_header("clang -x c-header a.h", Reason::PrecompiledHeader)]
    #[case::clang_header_used("clang -include-pch a.pch -c a.c", Reason::PrecompiledHeader)]
    #[case::incremental("gcc -fuse-ld=gold -Wl,--incremental a.o", Reason::KeptState)]
    #[case::cache("clang -flto=thin -Wl,--thinlto-cache-dir=x a.o", Reason::KeptState)]
    #[case::cache_by_plugin("ld -plugin x -plugin-opt=cache-dir=y a.o", Reason::KeptState)]
    #[case::cache_apart("ld -plugin-opt cache-dir=y a.o", Reason::KeptState)]
    #[case::jobs("gcc -flto=jobserver a.o", Reason::Jobserver)]
    #[case::by_gcc("ld -o a /tmp/ccA8dk2x.o", Reason::CalledByCompiler)]
    #[case::by_clang("ld -o a /build/main-1f0c9e.o", Reason::CalledByCompiler)]
    #[case::assembler_by_gcc("as -o a.o /build/ccA8dk2x.s", Reason::CalledByCompiler)]
    #[case::mold("mold -run make", Reason::NotACompile)]
    #[case::no_argument("gcc a.c -o", Reason::MissingArgument(b"-o".into()))]
    #[case::no_linker_argument("ld a.o -Map", Reason::MissingArgument(b"-Map".into()))]
    #[case::response_file("gcc @missing", Reason::ResponseFile)]
    #[case::config("clang --config=x.cfg -c a.c", Reason::Specs)]
    fn what_no_trace_shows_is_refused(#[case] line: &str, #[case] reason: Reason) {
        assert_eq!(ask(line), Err(reason));
    }

    #[rstest]
    #[case::definition("gcc -DFLAGS=-march=native -c a.c")]
    #[case::definition_of_a_place("gcc -DLOG=/dev/stderr -c a.c")]
    #[case::named_native("gcc -c native.c -o native")]
    #[case::prefix("gcc -ffile-prefix-map=/x=native -c a.c")]
    #[case::warning("gcc -Wtime=3 -c a.c")]
    #[case::rules_to_stdout("gcc -MD -MF - -c a.c")]
    #[case::devnull("gcc -Werror -x c /dev/null -c -o a.o")]
    #[case::temporary_name("ld -o a cc123456.o main-1f0c9e.o")]
    #[case::stats("ld -o a stats.o perf.o")]
    #[case::no_incremental("ld.gold --no-incremental -o a a.o")]
    #[case::no_modules("clang -fno-modules -c a.c")]
    #[case::listing("gcc -c a.c -Wa,-a")]
    #[case::aliasing("gcc -c a.c -Wa,--alternate,-agent")]
    fn what_only_looks_like_it_is_traced(#[case] line: &str) {
        let traced = ask(line);
        assert!(traced.is_ok(), "{traced:?}");
    }

    #[rstest]
    #[case::c("gcc -c a.c", true, &["a.c"])]
    #[case::preprocessed("gcc -c a.i b.ii", false, &["a.i", "b.ii"])]
    #[case::objects("gcc a.o libx.a liby.so.1 -lz", false, &[])]
    #[case::both("gcc a.o b.c", true, &["b.c"])]
    #[case::assembly("gcc -c a.s", false, &["a.s"])]
    #[case::assembly_to_preprocess("gcc -c a.S", true, &["a.S"])]
    #[case::assembly_by_language("gcc -c -x assembler-with-cpp a.s", true, &["a.s"])]
    #[case::fortran("gfortran -c a.f90", false, &["a.f90"])]
    #[case::fortran_to_preprocess("gfortran -c a.F90", true, &["a.F90"])]
    #[case::fortran_by_flag("gfortran -cpp -c a.f90", true, &["a.f90"])]
    #[case::unknown_suffix("gcc -c a.xyz", true, &["a.xyz"])]
    #[case::language_ends("gcc -x c a -x none b.o", true, &["a"])]
    #[case::linker("ld a.c", false, &[])]
    fn sources_are_told_from_objects(
        #[case] line: &str,
        #[case] preprocesses: bool,
        #[case] sources: &[&str],
    ) {
        let traced = ask(line).unwrap();
        assert_eq!(
            (traced.preprocesses, texts(&traced.sources).as_slice()),
            (preprocesses, sources)
        );
    }

    #[test]
    fn facts_for_stand_ins_are_those_of_the_last_flags() {
        let traced = ask("gcc -g -flto -gz -frandom-seed=a -frandom-seed=b -c a.c").unwrap();
        assert!(traced.debug && traced.compressed_debug && traced.intermediate_code);
        assert_eq!(traced.random_seed.as_deref(), Some(&b"b"[..]));
        let traced = ask("gcc -g3 -g0 -gz=none -c a.c").unwrap();
        assert!(!traced.debug && !traced.compressed_debug && !traced.intermediate_code);
        assert!(
            ask("gcc a.o -Wl,--compress-debug-sections=zlib")
                .unwrap()
                .compressed_debug
        );
        assert!(
            !ask("gcc a.o -Wl,--compress-debug-sections=none")
                .unwrap()
                .compressed_debug
        );
    }

    #[test]
    fn response_files_are_looked_into_wherever_they_stand() {
        let mut asked = Vec::new();
        let mut ask = |line: &str, file: &str| {
            let argv = words(line);
            traced(Tool::Compiler, &argv, &mut |name| {
                asked.push(String::from_utf8(name.to_vec()).unwrap());
                Some(match name {
                    b"inner" => b"-Wl,--build-id=uuid".to_vec(),
                    _ => file.as_bytes().to_vec(),
                })
            })
        };
        let plain = ask("gcc @f", "a.o '-o' x\\ y").unwrap();
        assert_eq!(texts(&plain.outputs), ["x y"]);
        assert_eq!(ask("gcc a.o @f", "-DX @inner"), Err(Reason::Random));
        assert_eq!(
            ask("gcc a.o -Wl,@f", "--build-id=uuid"),
            Err(Reason::Random)
        );
        assert_eq!(ask("gcc a.o -Wa,@f", "--statistics"), Err(Reason::Dump));
        assert_eq!(ask("gcc a.o @f", "@f"), Err(Reason::ResponseFile));
        assert_eq!(
            ask("clang a.o --config f", "-O2\n-mcpu=native"),
            Err(Reason::HostProcessor)
        );
        assert!(asked.len() > 6);
    }

    #[test]
    fn kinds_of_files_with_times_are_known_by_their_first_bytes() {
        assert!(records_times(b"CPCH\x01"));
        assert!(!records_times(b"gpch.014") && !records_times(b"CPC"));
    }
}
