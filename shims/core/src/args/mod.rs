//! What a compiler's command line reads, writes and asks for.
//!
//! GCC's and Clang's grammars are read as one: a flag whose meaning or number of arguments
//! differs between them is not in the table, and what is not in the table is not memoized.
//! The rules by which a flag is in it are in `docs/adr/0007-what-a-shim-decides.md`.

mod environment;
mod families;
mod linker;
mod parse;
mod response;
mod table;
mod tool;
mod traced;

pub use environment::{
    Environment, environment, is_read_by_compilers, traced_environment, wrapper_flags,
};
pub use parse::classify;
pub use response::{Expansion, expand};
pub use tool::{Tool, tool_of};
pub use traced::{Traced, records_times, traced};

/// The languages of a compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Language {
    /// C, to be preprocessed.
    C,
    /// C++, to be preprocessed.
    Cxx,
    /// C after preprocessing (`.i`).
    PreprocessedC,
    /// C++ after preprocessing (`.ii`).
    PreprocessedCxx,
}

impl Language {
    /// The name that `-x` has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::C => "c",
            Self::Cxx => "c++",
            Self::PreprocessedC => "cpp-output",
            Self::PreprocessedCxx => "c++-cpp-output",
        }
    }

    /// Whether directives such as `#include` are followed.
    pub fn is_preprocessed(self) -> bool {
        matches!(self, Self::PreprocessedC | Self::PreprocessedCxx)
    }
}

/// A compile of one source file to one object file, or a call that only preprocesses. Paths are
/// as written: relative ones are relative to the current directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compile {
    /// The source's language, by `-x` or by its name.
    pub language: Language,
    /// The source file; several, all of one language, where they are only preprocessed.
    pub sources: Vec<Vec<u8>>,
    /// The object file: `-o`'s argument or the source's name with `.o`. For `-E`, `-M` and `-MM`
    /// what `-o` names, or `None` where the result goes to standard output.
    pub object: Option<Vec<u8>>,
    /// It only preprocesses.
    pub preprocess_only: bool,
    /// The dependency file of `-MD` and `-MMD`, by `-MF` or by the object's name.
    pub dependency_file: Option<Vec<u8>>,
    /// `-include`: each is searched like `#include "…"`, the current directory first.
    pub includes: Vec<Vec<u8>>,
    /// `-imacros`: searched like `includes`.
    pub imacros: Vec<Vec<u8>>,
    /// `-iquote` directories, in order.
    pub quote_dirs: Vec<Vec<u8>>,
    /// `-I` directories, in order.
    pub bracket_dirs: Vec<Vec<u8>>,
    /// `-isystem` directories, in order.
    pub system_dirs: Vec<Vec<u8>>,
    /// `-idirafter` directories, in order.
    pub after_dirs: Vec<Vec<u8>>,
    /// `-B` directories: the compiler looks for its own programs and headers there, so nothing
    /// but store paths can be declared for them.
    pub tool_dirs: Vec<Vec<u8>>,
    /// `--sysroot` and `-isysroot` directories.
    pub sysroots: Vec<Vec<u8>>,
    /// The flags that change the compiler's own search path, to be passed to `-E -v` with
    /// `-x` [`Language::name`]. None of the directories above but `tool_dirs` and `sysroots`.
    pub search_flags: Vec<Vec<u8>>,
    /// Debug information is asked for (`-g…`, not `-g0`).
    pub debug: bool,
    /// Debug sections may be compressed (`-gz`, `-Wa,--compress-debug-sections`): equal-length
    /// replacement in the object is then not possible.
    pub compressed_debug: bool,
    /// The object holds the compiler's intermediate code, which may be compressed (`-flto`).
    pub intermediate_code: bool,
    /// The argument of the last `-frandom-seed=`.
    pub random_seed: Option<Vec<u8>>,
}

impl Compile {
    /// The directories of the include flags, in the order in which they are searched, each with
    /// what searches it.
    pub fn include_dirs(&self) -> impl Iterator<Item = &[u8]> {
        [
            &self.quote_dirs,
            &self.bracket_dirs,
            &self.system_dirs,
            &self.after_dirs,
        ]
        .into_iter()
        .flatten()
        .map(Vec::as_slice)
    }

    /// The files that the flags say will be written. What else is written (`.dwo`, `.su`) is
    /// written beside [`Compile::object`].
    pub fn outputs(&self) -> impl Iterator<Item = &[u8]> {
        let object = self.object.as_deref();
        object.into_iter().chain(self.dependency_file.as_deref())
    }
}

/// What to do with a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Classification {
    /// A compile that can be a child derivation.
    Compile(Box<Compile>),
    /// Run it where it is.
    InPlace(Reason),
}

/// Why a call runs in place. Each has a stable name for counters and scripts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// Nothing to compile: no inputs, or a question such as `--version`.
    NotACompile,
    /// It links.
    Link,
    /// It only preprocesses (`-E`, `-M`, `-MM`), and does so in a way that is not modelled.
    PreprocessOnly,
    /// It stops at assembly (`-S`).
    AssemblyOutput,
    /// It only checks (`-fsyntax-only`).
    SyntaxOnly,
    /// More than one input.
    SeveralSources,
    /// A language other than C and C++.
    Language,
    /// An assembly source.
    Assembler,
    /// The source comes from standard input.
    Stdin,
    /// The object goes to standard output or a device.
    OutputToStdout,
    /// A flag that is not in the table.
    UnknownFlag(Vec<u8>),
    /// A flag without its argument.
    MissingArgument(Vec<u8>),
    /// A response file that could not be expanded.
    ResponseFile,
    /// A compiler plug-in.
    Plugin,
    /// Profiles are read or written (`-fprofile-*`, `--coverage`).
    Profile,
    /// Modules.
    Modules,
    /// A precompiled header is made or used.
    PrecompiledHeader,
    /// Intermediate files are kept (`-save-temps`).
    SaveTemps,
    /// Dumps and reports (`-fdump-*`, `-ftime-report`, …).
    Dump,
    /// Another program runs the compiler's steps (`-wrapper`).
    Wrapper,
    /// A specs file.
    Specs,
    /// The commands are shown (`-v`, `-###`).
    Verbose,
    /// The code depends on the processor it is compiled on (`-march=native`).
    HostProcessor,
    /// A flag that changes the search path in a way that is not modelled (`-I-`, `-iprefix`, `-I=…`).
    SearchPath,
    /// A flag passed through to a step that is not modelled (`-Wa,`, `-Wp,`, `-Xclang`, …).
    PassThrough(Vec<u8>),
    /// An environment variable that makes the compiler read or write other files.
    Environment(Vec<u8>),
    /// Several architectures at once, or offloading.
    Offload,
    /// The result holds the time of the call.
    Clock,
    /// The result holds a number that is another one in each call (`--build-id=uuid`).
    Random,
    /// Files are kept that later calls of another command read and change: incremental links,
    /// caches.
    KeptState,
    /// `make`'s jobs are counted (`-flto=jobserver`).
    Jobserver,
    /// A compiler calls this program for a part of a call of its own, with files of random names.
    CalledByCompiler,
}

impl Reason {
    /// The stable name, lower case with dashes.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NotACompile => "not-a-compile",
            Self::Link => "link",
            Self::PreprocessOnly => "preprocess-only",
            Self::AssemblyOutput => "assembly-output",
            Self::SyntaxOnly => "syntax-only",
            Self::SeveralSources => "several-sources",
            Self::Language => "language",
            Self::Assembler => "assembler",
            Self::Stdin => "stdin",
            Self::OutputToStdout => "output-to-stdout",
            Self::UnknownFlag(_) => "unknown-flag",
            Self::MissingArgument(_) => "missing-argument",
            Self::ResponseFile => "response-file",
            Self::Plugin => "plugin",
            Self::Profile => "profile",
            Self::Modules => "modules",
            Self::PrecompiledHeader => "precompiled-header",
            Self::SaveTemps => "save-temps",
            Self::Dump => "dump",
            Self::Wrapper => "wrapper",
            Self::Specs => "specs",
            Self::Verbose => "verbose",
            Self::HostProcessor => "host-processor",
            Self::SearchPath => "search-path",
            Self::PassThrough(_) => "pass-through",
            Self::Environment(_) => "environment",
            Self::Offload => "offload",
            Self::Clock => "clock",
            Self::Random => "random",
            Self::KeptState => "kept-state",
            Self::Jobserver => "jobserver",
            Self::CalledByCompiler => "called-by-compiler",
        }
    }

    /// The flag or variable at fault, where there is one.
    pub fn detail(&self) -> Option<&[u8]> {
        match self {
            Self::UnknownFlag(flag)
            | Self::MissingArgument(flag)
            | Self::PassThrough(flag)
            | Self::Environment(flag) => Some(flag),
            _ => None,
        }
    }
}
