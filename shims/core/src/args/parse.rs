//! The command line's parser.

use super::families::{F_SWITCHES, F_VALUES, G_SWITCHES, M_SWITCHES, M_VALUES};
use super::table::{Effect, Takes, find};
use super::{Classification, Compile, Language, Reason};
use crate::scan::mentions_time;

/// Decides what a call is.
///
/// `argv` begins with the program's name, which is not looked at, and has its response files
/// expanded (see [`super::expand`]). For a wrapper that adds flags of its own (nixpkgs' adds those
/// of `NIX_CFLAGS_COMPILE`), pass the flags as the compiler behind it will get them.
pub fn classify<A: AsRef<[u8]>>(argv: &[A]) -> Classification {
    let mut parser = Parser::default();
    let mut arguments = argv.iter().skip(1).map(AsRef::as_ref);
    while let Some(argument) = arguments.next() {
        parser.argument(argument, &mut arguments);
    }
    match parser.finish() {
        Ok(compile) => Classification::Compile(Box::new(compile)),
        Err(reason) => Classification::InPlace(reason),
    }
}

/// What `-x` names.
#[derive(Clone, Copy)]
enum Selected {
    BySuffix,
    Fixed(Language),
    Refused(Refused),
}

#[derive(Clone, Copy)]
enum Refused {
    Header,
    Assembler,
    Other,
}

#[derive(Default)]
struct Parser {
    /// The first thing that keeps the call from being a child.
    blocked: Option<Reason>,
    preprocess_only: bool,
    assembly_output: bool,
    object_only: bool,
    question: bool,
    selected: Option<Selected>,
    inputs: Vec<(Vec<u8>, Selected)>,
    object: Option<Vec<u8>>,
    dependencies: bool,
    dependency_file: Option<Vec<u8>>,
    includes: Vec<Vec<u8>>,
    imacros: Vec<Vec<u8>>,
    quote_dirs: Vec<Vec<u8>>,
    bracket_dirs: Vec<Vec<u8>>,
    system_dirs: Vec<Vec<u8>>,
    after_dirs: Vec<Vec<u8>>,
    tool_dirs: Vec<Vec<u8>>,
    sysroots: Vec<Vec<u8>>,
    search_flags: Vec<Vec<u8>>,
    debug: bool,
    compressed_debug: bool,
    intermediate_code: bool,
    random_seed: Option<Vec<u8>>,
}

impl Parser {
    fn block(&mut self, reason: Reason) {
        self.blocked.get_or_insert(reason);
    }

    fn argument<'a>(&mut self, argument: &'a [u8], rest: &mut impl Iterator<Item = &'a [u8]>) {
        if argument == b"-" {
            return self.block(Reason::Stdin);
        }
        if argument.starts_with(b"@") {
            return self.block(Reason::ResponseFile);
        }
        if !argument.starts_with(b"-") {
            let selected = self.selected.unwrap_or(Selected::BySuffix);
            return self.inputs.push((argument.to_vec(), selected));
        }
        let Some((row, joined)) = find(argument) else {
            return self.block(Reason::UnknownFlag(argument.to_vec()));
        };
        let separate = match row.takes {
            Takes::Nothing | Takes::Joined => false,
            Takes::Separate => true,
            Takes::Either | Takes::SeparateOrPath => joined.is_empty(),
        };
        let value = if separate {
            match rest.next() {
                Some(value) => value,
                None => return self.block(Reason::MissingArgument(argument.to_vec())),
            }
        } else {
            joined
        };
        self.effect(row.effect, argument, value, separate);
    }

    fn effect(&mut self, effect: Effect, argument: &[u8], value: &[u8], separate: bool) {
        match effect {
            Effect::None => {}
            Effect::Define => self.define(argument, value),
            Effect::ObjectOnly => self.object_only = true,
            Effect::Object => match self.object {
                None => self.object = Some(value.to_vec()),
                // The compilers disagree on whether this is an error.
                Some(_) => self.block(Reason::UnknownFlag(argument.to_vec())),
            },
            Effect::Language => self.select(value),
            Effect::Include => self.includes.push(value.to_vec()),
            Effect::Imacros => self.imacros.push(value.to_vec()),
            Effect::Quote => self.directory(value, |parser| &mut parser.quote_dirs),
            Effect::Bracket => self.directory(value, |parser| &mut parser.bracket_dirs),
            Effect::System => self.directory(value, |parser| &mut parser.system_dirs),
            Effect::After => self.directory(value, |parser| &mut parser.after_dirs),
            Effect::Tools => {
                self.directory(value, |parser| &mut parser.tool_dirs);
                self.search(argument, value, separate);
            }
            Effect::Sysroot => {
                self.directory(value, |parser| &mut parser.sysroots);
                self.search(argument, value, separate);
            }
            Effect::Search => self.search(argument, value, separate),
            Effect::Dependencies => self.dependencies = true,
            Effect::DependencyFile => self.dependency_file = Some(value.to_vec()),
            Effect::DebugFamily => self.debug(argument, value),
            Effect::FeatureFamily => self.feature(argument, value),
            Effect::MachineFamily => self.machine(argument, value),
            Effect::OptimizationFamily => {
                if !matches!(value, b"s" | b"z" | b"g" | b"fast")
                    && !value.iter().all(u8::is_ascii_digit)
                {
                    self.block(Reason::UnknownFlag(argument.to_vec()));
                }
            }
            Effect::ToAssembler => self.assembler_words(argument, value),
            Effect::ToPreprocessor => self.preprocessor_words(argument, value),
            Effect::PassThrough => self.block(Reason::PassThrough(argument.to_vec())),
            Effect::PreprocessOnly => self.preprocess_only = true,
            Effect::AssemblyOutput => self.assembly_output = true,
            Effect::NotACompile => self.question = true,
            Effect::Dump => self.block(Reason::Dump),
            Effect::SaveTemps => self.block(Reason::SaveTemps),
            Effect::Profile => self.block(Reason::Profile),
            Effect::PrecompiledHeader => self.block(Reason::PrecompiledHeader),
            Effect::Specs => self.block(Reason::Specs),
            Effect::SearchPath => self.block(Reason::SearchPath),
            Effect::Verbose => self.block(Reason::Verbose),
            Effect::Wrapper => self.block(Reason::Wrapper),
            Effect::Offload => self.block(Reason::Offload),
        }
    }

    /// A macro's text is source that no scan sees, so it may not have what a scan looks for.
    fn define(&mut self, argument: &[u8], value: &[u8]) {
        const WORDS: [&[u8]; 4] = [b"__has_", b"ragma", b"ncbin", b".include"];
        if WORDS
            .iter()
            .any(|word| memchr::memmem::find(value, word).is_some())
            || mentions_time(value)
        {
            self.block(Reason::UnknownFlag(argument.to_vec()));
        }
    }

    fn directory(&mut self, value: &[u8], list: fn(&mut Self) -> &mut Vec<Vec<u8>>) {
        // Both mean "below the sysroot" (gcc(1), -I), which is not modelled.
        if value.is_empty() || value.starts_with(b"=") || value.starts_with(b"$SYSROOT") {
            return self.block(Reason::SearchPath);
        }
        list(self).push(value.to_vec());
    }

    fn search(&mut self, argument: &[u8], value: &[u8], separate: bool) {
        self.search_flags.push(argument.to_vec());
        if separate {
            self.search_flags.push(value.to_vec());
        }
    }

    fn select(&mut self, name: &[u8]) {
        self.selected = Some(match name {
            b"none" => Selected::BySuffix,
            b"c" => Selected::Fixed(Language::C),
            b"c++" => Selected::Fixed(Language::Cxx),
            b"cpp-output" => Selected::Fixed(Language::PreprocessedC),
            b"c++-cpp-output" => Selected::Fixed(Language::PreprocessedCxx),
            b"c-header" | b"c++-header" | b"c++-system-header" | b"c++-user-header" => {
                Selected::Refused(Refused::Header)
            }
            b"assembler" | b"assembler-with-cpp" => Selected::Refused(Refused::Assembler),
            _ => Selected::Refused(Refused::Other),
        });
    }

    fn debug(&mut self, argument: &[u8], value: &[u8]) {
        let name = value.strip_prefix(b"no-").unwrap_or(value);
        match value {
            b"" | b"1" | b"2" | b"3" => self.debug = true,
            b"0" => self.debug = false,
            b"z" => self.compressed_debug = true,
            _ if value.starts_with(b"z=") => self.compressed_debug = value != b"z=none",
            _ if is_level(value, b"gdb") || is_level(value, b"dwarf-") => self.debug = true,
            _ if is_level(value, b"stabs") || listed(G_SWITCHES, name) => self.debug = true,
            _ => self.block(Reason::UnknownFlag(argument.to_vec())),
        }
    }

    fn feature(&mut self, argument: &[u8], value: &[u8]) {
        if let Some(reason) = refused_feature(value) {
            return self.block(reason);
        }
        if let Some((name, value)) = split_at_equals(value) {
            match name {
                b"random-seed" => self.random_seed = Some(value.to_vec()),
                b"lto" => self.intermediate_code = true,
                b"opt-info" => return self.block(Reason::Dump),
                _ if listed(F_VALUES, name) => {}
                _ => self.block(Reason::UnknownFlag(argument.to_vec())),
            }
            return;
        }
        let name = value.strip_prefix(b"no-").unwrap_or(value);
        if !(listed(F_SWITCHES, name)
            || value.starts_with(b"no-builtin-")
            || value.starts_with(b"opt-info-")
            || is_level(value, b"template-depth-")
            || is_level(value, b"inline-limit-"))
        {
            return self.block(Reason::UnknownFlag(argument.to_vec()));
        }
        match value {
            b"lto" => self.intermediate_code = true,
            // A toolchain may have header directories for these (GCC's multilibs).
            b"pic" | b"PIC" | b"pie" | b"PIE" | b"no-pic" | b"no-PIC" | b"no-pie" | b"no-PIE"
            | b"exceptions" | b"no-exceptions" | b"rtti" | b"no-rtti" => {
                self.search_flags.push(argument.to_vec());
            }
            _ => {}
        }
    }

    fn machine(&mut self, argument: &[u8], value: &[u8]) {
        let known = match split_at_equals(value) {
            Some((name, value)) => {
                if value.starts_with(b"native") {
                    return self.block(Reason::HostProcessor);
                }
                listed(M_VALUES, name)
            }
            None => listed(M_SWITCHES, value.strip_prefix(b"no-").unwrap_or(value)),
        };
        if !known {
            return self.block(Reason::UnknownFlag(argument.to_vec()));
        }
        self.search_flags.push(argument.to_vec());
    }

    fn assembler_words(&mut self, argument: &[u8], value: &[u8]) {
        for word in value.split(|&byte| byte == b',') {
            match word {
                b"--noexecstack" | b"--execstack" | b"--fatal-warnings" | b"--warn" | b"-W"
                | b"--no-warn" | b"--32" | b"--64" | b"--x32" | b"-L" | b"--keep-locals" => {}
                b"--compress-debug-sections" | b"--compress-debug-sections=zlib" => {
                    self.compressed_debug = true;
                }
                b"--nocompress-debug-sections" | b"--compress-debug-sections=none" => {}
                _ if word.starts_with(b"-march=")
                    || word.starts_with(b"-mtune=")
                    || word.starts_with(b"-mrelax-relocations=")
                    || word.starts_with(b"-mbranches-within-32B-boundaries")
                    || word.starts_with(b"--generate-missing-build-notes=") => {}
                _ => return self.block(Reason::PassThrough(argument.to_vec())),
            }
        }
    }

    fn preprocessor_words(&mut self, argument: &[u8], value: &[u8]) {
        let mut words = value.split(|&byte| byte == b',');
        while let Some(word) = words.next() {
            match word {
                // For the preprocessor proper these take the file's name.
                b"-MD" | b"-MMD" => match words.next() {
                    Some(file) if !file.is_empty() && self.dependency_file.is_none() => {
                        self.dependencies = true;
                        self.dependency_file = Some(file.to_vec());
                    }
                    _ => return self.block(Reason::PassThrough(argument.to_vec())),
                },
                b"-MT" | b"-MQ" if words.next().is_some() => {}
                b"-MP" => {}
                _ if word.starts_with(b"-D") && word.len() > 2 => {
                    self.define(argument, &word[2..]);
                }
                _ if word.starts_with(b"-U") && word.len() > 2 => {}
                _ => return self.block(Reason::PassThrough(argument.to_vec())),
            }
        }
    }

    fn finish(mut self) -> Result<Compile, Reason> {
        // The kind of the call says more than a flag in it.
        if self.preprocess_only {
            return self.finish_preprocessing().ok_or(Reason::PreprocessOnly);
        }
        if self.assembly_output {
            return Err(Reason::AssemblyOutput);
        }
        if self.blocked == Some(Reason::SyntaxOnly) {
            return Err(Reason::SyntaxOnly);
        }
        if self.question {
            return Err(Reason::NotACompile);
        }
        if !self.object_only {
            if self.inputs.is_empty() {
                return Err(self.blocked.unwrap_or(Reason::NotACompile));
            }
            return Err(Reason::Link);
        }
        if let Some(reason) = self.blocked {
            return Err(reason);
        }
        if self.inputs.len() > 1 {
            return Err(Reason::SeveralSources);
        }
        let (source, selected) = self.inputs.pop().ok_or(Reason::NotACompile)?;
        let language = language(&source, selected)?;
        let object = match self.object.take() {
            Some(object) => object,
            None => with_suffix(file_name(&source), b".o"),
        };
        if self.dependencies && self.dependency_file.is_none() {
            self.dependency_file = Some(with_suffix(&object, b".d"));
        }
        if !self.dependencies && self.dependency_file.is_some() {
            // `-MF` without `-MD`: ignored or an error, by compiler and version.
            return Err(Reason::UnknownFlag(b"-MF".to_vec()));
        }
        let compile = self.compile(language, vec![source], Some(object));
        let has_stream = compile.outputs().any(is_stream);
        match has_stream {
            true => Err(Reason::OutputToStdout),
            false => Ok(compile),
        }
    }

    /// A call with `-E`, `-M` or `-MM`, if its sources are all that it reads and its results
    /// plain.
    fn finish_preprocessing(mut self) -> Option<Compile> {
        // With `-MD`, `-o` names the dependency file.
        let is_plain = self.blocked.is_none()
            && !self.question
            && !self.assembly_output
            && !self.dependencies
            && self.dependency_file.is_none();
        let inputs = std::mem::take(&mut self.inputs);
        let languages = inputs
            .iter()
            .map(|(source, selected)| language(source, *selected).ok());
        let first = languages.clone().next()??;
        if !is_plain || first.is_preprocessed() || !languages.clone().all(|one| one == Some(first))
        {
            return None;
        }
        let sources = inputs.into_iter().map(|(source, _)| source).collect();
        let object = self.object.take();
        let compile = self.compile(first, sources, object);
        let has_stream = compile.outputs().any(is_stream);
        (!has_stream).then_some(compile)
    }

    fn compile(
        self,
        language: Language,
        sources: Vec<Vec<u8>>,
        object: Option<Vec<u8>>,
    ) -> Compile {
        Compile {
            language,
            sources,
            object,
            preprocess_only: self.preprocess_only,
            dependency_file: self.dependency_file,
            includes: self.includes,
            imacros: self.imacros,
            quote_dirs: self.quote_dirs,
            bracket_dirs: self.bracket_dirs,
            system_dirs: self.system_dirs,
            after_dirs: self.after_dirs,
            tool_dirs: self.tool_dirs,
            sysroots: self.sysroots,
            search_flags: self.search_flags,
            debug: self.debug,
            compressed_debug: self.compressed_debug,
            intermediate_code: self.intermediate_code,
            random_seed: self.random_seed,
        }
    }
}

/// The language of a source, if it is one that a scan can read.
fn language(source: &[u8], selected: Selected) -> Result<Language, Reason> {
    match selected {
        Selected::Fixed(language) => Ok(language),
        Selected::BySuffix => by_suffix(source),
        Selected::Refused(Refused::Header) => Err(Reason::PrecompiledHeader),
        Selected::Refused(Refused::Assembler) => Err(Reason::Assembler),
        Selected::Refused(Refused::Other) => Err(Reason::Language),
    }
}

/// Whether an output's name is none of a file to be made.
fn is_stream(output: &[u8]) -> bool {
    output == b"-" || output.starts_with(b"/dev/") || output.starts_with(b"/proc/")
}

/// What names of the `-f` family begin with that are refused by kind rather than as unknown.
const REFUSED_FEATURES: &[(&str, Reason)] = &[
    ("auto-profile", Reason::Profile),
    ("branch-prob", Reason::Profile),
    ("build-session", Reason::Modules),
    ("coverage", Reason::Profile),
    ("cs-profile", Reason::Profile),
    ("cxx-modules", Reason::Modules),
    ("dump", Reason::Dump),
    ("implicit-module", Reason::Modules),
    ("mem-report", Reason::Dump),
    ("memory-profile", Reason::Profile),
    ("module", Reason::Modules),
    ("offload", Reason::Offload),
    ("openacc", Reason::Offload),
    ("pass-plugin", Reason::Plugin),
    ("pch-", Reason::PrecompiledHeader),
    ("plugin", Reason::Plugin),
    ("prebuilt-", Reason::Modules),
    ("profile", Reason::Profile),
    ("report-bug", Reason::Dump),
    ("save-optimization", Reason::Dump),
    ("stats", Reason::Dump),
    ("syntax-only", Reason::SyntaxOnly),
    ("test-coverage", Reason::Profile),
    ("time-", Reason::Dump),
];

fn refused_feature(value: &[u8]) -> Option<Reason> {
    let name = value.strip_prefix(b"no-").unwrap_or(value);
    REFUSED_FEATURES
        .iter()
        .find(|(prefix, _)| name.starts_with(prefix.as_bytes()))
        .map(|(_, reason)| reason.clone())
}

fn listed(list: &[&str], name: &[u8]) -> bool {
    list.binary_search_by(|entry| entry.as_bytes().cmp(name))
        .is_ok()
}

fn split_at_equals(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = value.iter().position(|&byte| byte == b'=')?;
    Some((&value[..at], &value[at + 1..]))
}

/// Whether `value` is `prefix` and digits, perhaps none.
fn is_level(value: &[u8], prefix: &[u8]) -> bool {
    value
        .strip_prefix(prefix)
        .is_some_and(|level| level.iter().all(u8::is_ascii_digit))
}

fn file_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

/// `path` with the suffix of its last part, if it has one, replaced.
fn with_suffix(path: &[u8], suffix: &[u8]) -> Vec<u8> {
    let name = file_name(path);
    let stem = match name.iter().rposition(|&byte| byte == b'.') {
        Some(dot) => path.len() - name.len() + dot,
        None => path.len(),
    };
    [&path[..stem], suffix].concat()
}

fn by_suffix(source: &[u8]) -> Result<Language, Reason> {
    let name = file_name(source);
    let dot = name.iter().rposition(|&byte| byte == b'.');
    match dot.map_or(b"".as_slice(), |dot| &name[dot + 1..]) {
        b"c" => Ok(Language::C),
        b"cc" | b"cp" | b"cxx" | b"cpp" | b"CPP" | b"c++" | b"C" => Ok(Language::Cxx),
        b"i" => Ok(Language::PreprocessedC),
        b"ii" => Ok(Language::PreprocessedCxx),
        b"h" | b"hh" | b"H" | b"hp" | b"hxx" | b"hpp" | b"HPP" | b"h++" | b"tcc" => {
            Err(Reason::PrecompiledHeader)
        }
        b"s" | b"S" | b"sx" => Err(Reason::Assembler),
        // Everything else is for the linker, which `-c` keeps from running.
        b"o" | b"a" | b"so" | b"" => Err(Reason::NotACompile),
        _ => Err(Reason::Language),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::super::families;
    use super::*;

    fn words(line: &str) -> Vec<&str> {
        line.split_whitespace().collect()
    }

    fn compile(line: &str) -> Compile {
        match classify(&words(line)) {
            Classification::Compile(compile) => *compile,
            Classification::InPlace(reason) => panic!("{line}: {reason:?}"),
        }
    }

    fn reason(line: &str) -> Reason {
        match classify(&words(line)) {
            Classification::InPlace(reason) => reason,
            Classification::Compile(compile) => panic!("{line}: {compile:?}"),
        }
    }

    #[rstest]
    #[case::plain("cc -c a.c", Language::C, "a.o", None)]
    #[case::elsewhere("cc -c ../src/a.c", Language::C, "a.o", None)]
    #[case::named("cc -c -o out/b.o a.c", Language::C, "out/b.o", None)]
    #[case::cxx("g++ -c a.cc", Language::Cxx, "a.o", None)]
    #[case::capital("g++ -c a.C", Language::Cxx, "a.o", None)]
    #[case::forced("cc -x c++ -c a.c", Language::Cxx, "a.o", None)]
    #[case::forced_joined("cc -xc++ -c a.c", Language::Cxx, "a.o", None)]
    #[case::forced_too_late("cc -c a.c -x c++", Language::C, "a.o", None)]
    #[case::reset("cc -x c++ -x none -c a.c", Language::C, "a.o", None)]
    #[case::preprocessed("cc -c a.i", Language::PreprocessedC, "a.o", None)]
    #[case::dependencies("cc -c -MD a.c", Language::C, "a.o", Some("a.d"))]
    #[case::beside_object("cc -MMD -c -o x/y.lo a.c", Language::C, "x/y.lo", Some("x/y.d"))]
    #[case::dotted_directory("cc -MD -c -o x.y/z a.c", Language::C, "x.y/z", Some("x.y/z.d"))]
    #[case::dependency_file("cc -c -MD -MP -MF d/a -MT x a.c", Language::C, "a.o", Some("d/a"))]
    #[case::dependency_joined("cc -c -MMD -MFq.d a.c", Language::C, "a.o", Some("q.d"))]
    #[case::by_preprocessor("cc -c -Wp,-MD,k.d,-MT,k a.c", Language::C, "a.o", Some("k.d"))]
    fn a_compile_has_language_object_and_dependency_file(
        #[case] line: &str,
        #[case] language: Language,
        #[case] object: &str,
        #[case] dependency_file: Option<&str>,
    ) {
        let compile = compile(line);
        assert_eq!(compile.language, language);
        assert_eq!(compile.object.as_deref(), Some(object.as_bytes()));
        assert!(!compile.preprocess_only);
        assert_eq!(
            compile.dependency_file.as_deref(),
            dependency_file.map(str::as_bytes)
        );
    }

    #[test]
    fn the_search_path_is_kept_by_kind_and_in_order() {
        let compile = compile(
            "cc -I a -Ib -iquote q -isystem s -isystem/t -idirafter z -include p.h \
             -imacros m.h --sysroot=/r -B/tools -nostdinc -m32 -c x.c",
        );
        let text = |list: &[Vec<u8>]| {
            list.iter()
                .map(|item| String::from_utf8(item.clone()).unwrap())
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(text(&compile.bracket_dirs), "a b");
        assert_eq!(text(&compile.quote_dirs), "q");
        assert_eq!(text(&compile.system_dirs), "s /t");
        assert_eq!(text(&compile.after_dirs), "z");
        assert_eq!(text(&compile.includes), "p.h");
        assert_eq!(text(&compile.imacros), "m.h");
        assert_eq!(text(&compile.sysroots), "/r");
        assert_eq!(text(&compile.tool_dirs), "/tools");
        assert_eq!(
            text(&compile.search_flags),
            "--sysroot=/r -B/tools -nostdinc -m32"
        );
        let order: Vec<_> = compile.include_dirs().collect();
        assert_eq!(order, [b"q".as_slice(), b"a", b"b", b"s", b"/t", b"z"]);
    }

    #[rstest]
    #[case::to_standard_output("cc -E a.c", "a.c", None)]
    #[case::to_a_file("cc -E -o a.i -DX a.cc", "a.cc", Some("a.i"))]
    #[case::with_other_kinds("cc -E -c a.c", "a.c", None)]
    #[case::dependencies_of_many("cc -MM -Iinc a.c b/b.c", "a.c b/b.c", None)]
    #[case::by_language("cc -M -x c a.h b.inc", "a.h b.inc", None)]
    fn sources_may_only_be_preprocessed(
        #[case] line: &str,
        #[case] sources: &str,
        #[case] output: Option<&str>,
    ) {
        let compile = compile(line);
        assert!(compile.preprocess_only);
        let expected: Vec<_> = words(sources).into_iter().map(str::as_bytes).collect();
        assert_eq!(compile.sources, expected);
        let outputs: Vec<_> = compile.outputs().collect();
        assert_eq!(outputs, Vec::from_iter(output.map(str::as_bytes)));
    }

    #[rstest]
    #[case::lua("gcc -O2 -Wall -Wextra -DLUA_COMPAT_5_3 -DLUA_USE_LINUX -c -o lapi.o lapi.c")]
    #[case::nixpkgs(
        "gcc -frandom-seed=abc -fPIC -fstack-protector-strong -Wformat -Werror=format-security \
         -fno-strict-overflow -D_FORTIFY_SOURCE=3 --param ssp-buffer-size=4 -fzero-call-used-regs=\
         used-gpr -fstack-clash-protection -c a.c -o a.o"
    )]
    #[case::debian(
        "gcc -g -O2 -ffile-prefix-map=/build=. -fcf-protection -Wdate-time -std=gnu99 -pthread \
         -MT a.o -MD -MP -MF .deps/a.Tpo -c -o a.o a.c"
    )]
    #[case::split("gcc -gsplit-dwarf -gdwarf-5 -ggdb3 -c a.c")]
    #[case::sanitizers("gcc -fsanitize=address,undefined -fno-sanitize-recover=all -c a.c")]
    #[case::machine("gcc -march=x86-64-v3 -mtune=generic -mno-sse4 -mavx2 -msse4.2 -c a.c")]
    #[case::linker_flags("gcc -Wl,-O1 -L/x -lm -shared -z now -Xlinker -s -c a.c")]
    #[case::assembler("gcc -Wa,--noexecstack -c a.c")]
    #[case::builtin("gcc -fno-builtin-malloc -fno-builtin -c a.c")]
    fn a_usual_compile_can_be_a_child(#[case] line: &str) {
        compile(line);
    }

    #[test]
    fn what_makes_the_object_hard_to_rewrite_is_told() {
        let line = compile("cc -g -gz=zlib -flto=auto -frandom-seed=x -frandom-seed=y -c a.c");
        assert!(line.debug && line.compressed_debug && line.intermediate_code);
        assert_eq!(line.random_seed.as_deref(), Some(b"y".as_slice()));
        let line = compile("cc -g -g0 -gz=none -c a.c");
        assert!(!line.debug && !line.compressed_debug && !line.intermediate_code);
    }

    #[rstest]
    #[case("cc", "not-a-compile")]
    #[case("cc --version", "not-a-compile")]
    #[case("cc -dumpmachine", "not-a-compile")]
    #[case("cc -print-file-name=x", "not-a-compile")]
    #[case("cc -c", "not-a-compile")]
    #[case("cc -c a.o", "not-a-compile")]
    #[case("cc a.c -o a", "link")]
    #[case("cc a.o -fwhatever", "link")]
    #[case("cc -E a.i", "preprocess-only")]
    #[case("cc -E a.h", "preprocess-only")]
    #[case("cc -E -", "preprocess-only")]
    #[case("cc -E -o - a.c", "preprocess-only")]
    #[case("cc -E -MD a.c", "preprocess-only")]
    #[case("cc -M -MF a.d a.c", "preprocess-only")]
    #[case("cc -MM -MG a.c", "preprocess-only")]
    #[case("cc -MM a.c b.cc", "preprocess-only")]
    #[case("cc -E", "preprocess-only")]
    #[case("cc -S a.c", "assembly-output")]
    #[case("cc -fsyntax-only a.c", "syntax-only")]
    #[case("cc -c a.c b.c", "several-sources")]
    #[case("cc -c a.c b.o", "several-sources")]
    #[case("cc -c a.f90", "language")]
    #[case("cc -x ada -c a.c", "language")]
    #[case("cc -c a.s", "assembler")]
    #[case("cc -c a.S", "assembler")]
    #[case("cc -x assembler-with-cpp -c a.c", "assembler")]
    #[case("cc -xc -c -", "stdin")]
    #[case("cc -c a.c -o -", "output-to-stdout")]
    #[case("cc -c a.c -o /dev/null", "output-to-stdout")]
    #[case("cc -c -MD -MF - a.c", "output-to-stdout")]
    #[case("cc -c a.c --frobnicate", "unknown-flag")]
    #[case("cc -c a.c -ffrobnicate", "unknown-flag")]
    #[case("cc -c a.c -DT=__TIME__", "unknown-flag")]
    #[case("cc -c a.c -Wp,-DH(x)=__has_include(x)", "unknown-flag")]
    #[case("cc -c a.c -ffrobnicate=/x", "unknown-flag")]
    #[case("cc -c a.c -mfrobnicate", "unknown-flag")]
    #[case("cc -c a.c -gfrobnicate", "unknown-flag")]
    #[case("cc -c a.c -Ofrobnicate", "unknown-flag")]
    #[case("cc -c a.c -mllvm -x", "unknown-flag")]
    #[case("cc -c a.c -H", "unknown-flag")]
    #[case("cc -c a.c -MF a.d", "unknown-flag")]
    #[case("cc -c a.c -ox.o", "unknown-flag")]
    #[case("cc -c a.c -MJ x", "unknown-flag")]
    #[case("cc -c a.c -isystem-after x", "unknown-flag")]
    #[case("cc -c a.c -fsanitize-ignorelist=x", "unknown-flag")]
    #[case("cc -c a.c -fdiagnostics-format=json-file", "unknown-flag")]
    #[case("cc -c a.c -o", "missing-argument")]
    #[case("cc -c @x", "response-file")]
    #[case("cc -c a.c -fplugin=x.so", "plugin")]
    #[case("cc -c a.c -fprofile-use=x", "profile")]
    #[case("cc -c a.c -fprofile-arcs", "profile")]
    #[case("cc -c a.c --coverage", "profile")]
    #[case("cc -c a.c -fauto-profile", "profile")]
    #[case("cc -c a.c -fmodules-ts", "modules")]
    #[case("cc -c a.h", "precompiled-header")]
    #[case("cc -c -x c-header a.c", "precompiled-header")]
    #[case("cc -c a.c -include-pch x", "precompiled-header")]
    #[case("cc -c a.c -save-temps=obj", "save-temps")]
    #[case("cc -c a.c -fdump-tree-all", "dump")]
    #[case("cc -c a.c -ftime-trace", "dump")]
    #[case("cc -c a.c -dA", "dump")]
    #[case("cc -c a.c -fopt-info=x", "dump")]
    #[case("cc -c a.c -wrapper gdb", "wrapper")]
    #[case("cc -c a.c -specs=x", "specs")]
    #[case("cc -c a.c -v", "verbose")]
    #[case("cc -c a.c -###", "verbose")]
    #[case("cc -c a.c -march=native", "host-processor")]
    #[case("cc -c a.c -mtune=native", "host-processor")]
    #[case("cc -c a.c -I-", "search-path")]
    #[case("cc -c a.c -I=/x", "search-path")]
    #[case("cc -c a.c -iprefix x", "search-path")]
    #[case("cc -c a.c -Wa,-a=x", "pass-through")]
    #[case("cc -c a.c -Wa,@x", "pass-through")]
    #[case("cc -c a.c -Wp,-include,x", "pass-through")]
    #[case("cc -c a.c -Xclang -load", "pass-through")]
    #[case("cc -c a.c -Xassembler -a", "pass-through")]
    #[case("cc -c a.c -foffload=x", "offload")]
    fn a_call_runs_in_place(#[case] line: &str, #[case] name: &str) {
        assert_eq!(reason(line).name(), name, "{line}");
    }

    #[test]
    fn the_unknown_flag_is_named() {
        assert_eq!(
            reason("cc -c a.c -O2 --frobnicate").detail(),
            Some(b"--frobnicate".as_slice())
        );
    }

    #[test]
    fn the_families_are_sorted() {
        for list in [
            families::F_SWITCHES,
            families::F_VALUES,
            families::M_SWITCHES,
            families::M_VALUES,
            families::G_SWITCHES,
        ] {
            assert!(list.is_sorted_by(|a, b| a < b));
        }
    }

    proptest! {
        #[test]
        fn no_arguments_make_the_parser_panic(
            argv in proptest::collection::vec(
                prop_oneof![
                    "[-@=,a-zA-Z/.]{0,12}".prop_map(String::into_bytes),
                    proptest::collection::vec(any::<u8>(), 0..8),
                ],
                0..8,
            )
        ) {
            let _ = classify(&argv);
        }
    }
}
