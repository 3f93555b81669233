//! The flags outside the families: one row each, sorted by name.

/// How a flag takes its argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// None.
    Nothing,
    /// `-flagVALUE`, not empty.
    Joined,
    /// `-flag VALUE`.
    Separate,
    /// `-flagVALUE` or `-flag VALUE`.
    Either,
    /// `-flag VALUE` or `-flag/VALUE`: what follows without a slash is another flag's name.
    SeparateOrPath,
}

/// What a flag means for a child derivation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing beyond being part of the command.
    None,
    /// `-D`.
    Define,
    /// `-c`.
    ObjectOnly,
    /// `-o`.
    Object,
    /// `-x`.
    Language,
    /// `-include`.
    Include,
    /// `-imacros`.
    Imacros,
    /// `-iquote`.
    Quote,
    /// `-I`.
    Bracket,
    /// `-isystem`.
    System,
    /// `-idirafter`.
    After,
    /// `-B`.
    Tools,
    /// `--sysroot`, `-isysroot`.
    Sysroot,
    /// Changes the compiler's own search path.
    Search,
    /// `-MD`, `-MMD`.
    Dependencies,
    /// `-MF`.
    DependencyFile,
    /// `-g…`
    DebugFamily,
    /// `-f…`
    FeatureFamily,
    /// `-m…`
    MachineFamily,
    /// `-O…`
    OptimizationFamily,
    /// `-Wa,`
    ToAssembler,
    /// `-Wp,`
    ToPreprocessor,
    /// Passed to a step that is not modelled.
    PassThrough,
    /// `-E`, `-M`, `-MM`.
    PreprocessOnly,
    /// `-S`.
    AssemblyOutput,
    /// Answers a question.
    NotACompile,
    /// See [`super::Reason`] of the same names for the others.
    Dump,
    /// Intermediate files.
    SaveTemps,
    /// Profiles.
    Profile,
    /// Precompiled headers.
    PrecompiledHeader,
    /// Specs files.
    Specs,
    /// Unmodelled search path.
    SearchPath,
    /// Shows its commands.
    Verbose,
    /// `-wrapper`.
    Wrapper,
    /// Several architectures.
    Offload,
}

/// A flag.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) takes: Takes,
    pub(super) effect: Effect,
}

const fn row(name: &'static str, takes: Takes, effect: Effect) -> Row {
    Row {
        name,
        takes,
        effect,
    }
}

use Takes::{Either, Joined, Nothing, Separate, SeparateOrPath};

/// The flags. A flag that both compilers read in the same way is here; so are flags that must not
/// be taken for a member of a family or for a joined argument of a shorter one.
pub(super) const ROWS: &[Row] = &[
    row("-###", Nothing, Effect::Verbose),
    row("--coverage", Nothing, Effect::Profile),
    row("--help", Nothing, Effect::NotACompile),
    row("--help=", Joined, Effect::NotACompile),
    row("--param", Separate, Effect::None),
    row("--param=", Joined, Effect::None),
    row("--print-", Joined, Effect::NotACompile),
    row("--save-temps", Nothing, Effect::SaveTemps),
    row("--save-temps=", Joined, Effect::SaveTemps),
    row("--specs=", Joined, Effect::Specs),
    row("--std=", Joined, Effect::None),
    row("--sysroot", Separate, Effect::Sysroot),
    row("--sysroot=", Joined, Effect::Sysroot),
    row("--target-help", Nothing, Effect::NotACompile),
    row("--target=", Joined, Effect::Search),
    row("--verbose", Nothing, Effect::Verbose),
    row("--version", Nothing, Effect::NotACompile),
    row("-B", Either, Effect::Tools),
    row("-D", Either, Effect::Define),
    row("-E", Nothing, Effect::PreprocessOnly),
    row("-I", Either, Effect::Bracket),
    row("-I-", Nothing, Effect::SearchPath),
    row("-L", Either, Effect::None),
    row("-M", Nothing, Effect::PreprocessOnly),
    row("-MD", Nothing, Effect::Dependencies),
    row("-MF", Either, Effect::DependencyFile),
    row("-MM", Nothing, Effect::PreprocessOnly),
    row("-MMD", Nothing, Effect::Dependencies),
    row("-MP", Nothing, Effect::None),
    row("-MQ", Either, Effect::None),
    row("-MT", Either, Effect::None),
    row("-O", Nothing, Effect::None),
    row("-O", Joined, Effect::OptimizationFamily),
    row("-Qunused-arguments", Nothing, Effect::None),
    row("-S", Nothing, Effect::AssemblyOutput),
    row("-U", Either, Effect::None),
    row("-W", Nothing, Effect::None),
    row("-W", Joined, Effect::None),
    row("-Wa,", Joined, Effect::ToAssembler),
    row("-Wl,", Joined, Effect::None),
    row("-Wp,", Joined, Effect::ToPreprocessor),
    row("-Xanalyzer", Separate, Effect::PassThrough),
    row("-Xassembler", Separate, Effect::PassThrough),
    row("-Xclang", Separate, Effect::PassThrough),
    row("-Xlinker", Separate, Effect::None),
    row("-Xpreprocessor", Separate, Effect::PassThrough),
    row("-ansi", Nothing, Effect::None),
    row("-arch", Separate, Effect::Offload),
    row("-c", Nothing, Effect::ObjectOnly),
    row("-coverage", Nothing, Effect::Profile),
    row("-d", Joined, Effect::Dump),
    row("-dumpfullversion", Nothing, Effect::NotACompile),
    row("-dumpmachine", Nothing, Effect::NotACompile),
    row("-dumpspecs", Nothing, Effect::NotACompile),
    row("-dumpversion", Nothing, Effect::NotACompile),
    row("-f", Joined, Effect::FeatureFamily),
    row("-g", Nothing, Effect::DebugFamily),
    row("-g", Joined, Effect::DebugFamily),
    row("-idirafter", SeparateOrPath, Effect::After),
    row("-imacros", SeparateOrPath, Effect::Imacros),
    row("-imultiarch", Separate, Effect::SearchPath),
    row("-imultilib", Separate, Effect::SearchPath),
    row("-include", SeparateOrPath, Effect::Include),
    row("-include-pch", Separate, Effect::PrecompiledHeader),
    row("-iplugindir=", Joined, Effect::SearchPath),
    row("-iprefix", Separate, Effect::SearchPath),
    row("-iquote", SeparateOrPath, Effect::Quote),
    row("-isysroot", SeparateOrPath, Effect::Sysroot),
    row("-isystem", SeparateOrPath, Effect::System),
    row("-iwithprefix", Separate, Effect::SearchPath),
    row("-iwithprefixbefore", Separate, Effect::SearchPath),
    row("-l", Joined, Effect::None),
    row("-m", Joined, Effect::MachineFamily),
    row("-no-canonical-prefixes", Nothing, Effect::Search),
    row("-no-pie", Nothing, Effect::None),
    row("-nodefaultlibs", Nothing, Effect::None),
    row("-nolibc", Nothing, Effect::None),
    row("-nostartfiles", Nothing, Effect::None),
    row("-nostdinc", Nothing, Effect::Search),
    row("-nostdinc++", Nothing, Effect::Search),
    row("-nostdlib", Nothing, Effect::None),
    row("-nostdlib++", Nothing, Effect::None),
    row("-o", Separate, Effect::Object),
    row("-pedantic", Nothing, Effect::None),
    row("-pedantic-errors", Nothing, Effect::None),
    row("-pg", Nothing, Effect::None),
    row("-pie", Nothing, Effect::None),
    row("-pipe", Nothing, Effect::None),
    row("-print-", Joined, Effect::NotACompile),
    row("-pthread", Nothing, Effect::Search),
    row("-rdynamic", Nothing, Effect::None),
    row("-remap", Nothing, Effect::SearchPath),
    row("-s", Nothing, Effect::None),
    row("-save-temps", Nothing, Effect::SaveTemps),
    row("-save-temps=", Joined, Effect::SaveTemps),
    row("-shared", Nothing, Effect::None),
    row("-shared-libgcc", Nothing, Effect::None),
    row("-specs=", Joined, Effect::Specs),
    row("-static", Nothing, Effect::None),
    row("-static-libgcc", Nothing, Effect::None),
    row("-static-libstdc++", Nothing, Effect::None),
    row("-static-pie", Nothing, Effect::None),
    row("-std=", Joined, Effect::None),
    row("-stdlib=", Joined, Effect::Search),
    row("-time", Nothing, Effect::Dump),
    row("-time=", Joined, Effect::Dump),
    row("-trigraphs", Nothing, Effect::None),
    row("-undef", Nothing, Effect::None),
    row("-v", Nothing, Effect::Verbose),
    row("-w", Nothing, Effect::None),
    row("-wrapper", Separate, Effect::Wrapper),
    row("-x", Either, Effect::Language),
    row("-z", Separate, Effect::None),
];

/// The row for `argument`, which begins with a dash, and what of it belongs to the flag's value.
///
/// The longest name wins. A flag with a joined and an exact form has a row for each.
pub(super) fn find(argument: &[u8]) -> Option<(&'static Row, &[u8])> {
    let longest = ROWS.iter().map(|row| row.name.len()).max().unwrap_or(0);
    (1..=argument.len().min(longest)).rev().find_map(|length| {
        let (name, rest) = argument.split_at(length);
        let from = ROWS.partition_point(|row| row.name.as_bytes() < name);
        ROWS[from..]
            .iter()
            .take_while(|row| row.name.as_bytes() == name)
            .find(|row| match row.takes {
                Nothing | Separate => rest.is_empty(),
                Joined => !rest.is_empty(),
                Either => true,
                SeparateOrPath => rest.is_empty() || rest.starts_with(b"/"),
            })
            .map(|row| (row, rest))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_are_sorted_by_name() {
        assert!(ROWS.is_sorted_by(|a, b| a.name <= b.name));
    }

    #[test]
    fn no_two_rows_answer_the_same_argument() {
        for pair in ROWS.windows(2) {
            if pair[0].name == pair[1].name {
                assert_eq!((pair[0].takes, pair[1].takes), (Nothing, Joined));
            }
        }
    }
}
