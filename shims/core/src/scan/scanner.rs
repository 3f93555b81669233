//! The scanner.
//!
//! Every `#`, `%:` and every interesting word is looked at wherever it stands, in comments,
//! strings and raw strings too, so no state is carried from one to the next and nothing that is
//! misread early can hide what comes later. Between tokens, comments and line continuations count
//! as white space. Continuations *inside* tokens, and trigraphs, are rare: a source with any is
//! scanned again as copies from which they have been removed.

use memchr::memmem::{self, Finder};
use memchr::{memchr, memchr_iter, memchr2, memchr2_iter};

use super::comments::Comments;
use super::times::{is_glue, times};
use super::{Directive, Include, MacroInclude, Scan};

/// Scans a source or header.
pub fn scan(source: &[u8]) -> Scan {
    let mut found = Scan::default();
    for_all_readings(source, |text, tell_comments| {
        Scanner::new(text, &mut found, tell_comments).pass();
    });
    found.includes.sort_unstable();
    found.includes.dedup();
    found.macro_includes.sort_unstable();
    found.macro_includes.dedup();
    found.has_include_aliases.sort_unstable();
    found.has_include_aliases.dedup();
    found
}

struct Scanner<'a> {
    text: &'a [u8],
    found: &'a mut Scan,
    /// Found out when first asked for.
    comments: Option<Comments>,
}

/// A function-like macro of glibc's `<sys/cdefs.h>`: `__has_include` by another name, so that it
/// is read like one. Any other macro of the kind makes the names computed.
const HAS_INCLUDE_ALIAS: &[u8] = b"__glibc_has_include";

/// The operators that ask whether a file is there.
const OPERATORS: [&[u8]; 5] = [
    b"__has_include",
    b"__has_include_next",
    b"__has_embed",
    b"__has_include__",
    b"__has_include_next__",
];

/// What they begin with.
const HAS: &[u8] = b"__has_";

impl<'a> Scanner<'a> {
    fn new(text: &'a [u8], found: &'a mut Scan, tell_comments: bool) -> Self {
        let comments = (!tell_comments).then(Comments::default);
        Self {
            text,
            found,
            comments,
        }
    }

    /// Whether the text at `at` may be code. Asked only about what is more than a name, since a
    /// name too many does no harm.
    fn is_code(&mut self, at: usize) -> bool {
        let text = self.text;
        !self
            .comments
            .get_or_insert_with(|| Comments::of(text))
            .contain(at)
    }

    fn has_word(&mut self, word: &str) -> bool {
        let text = self.text;
        Finder::new(word).find_iter(text).any(|at| self.is_code(at))
    }

    fn pass(mut self) {
        let text = self.text;
        let mut has_glue = false;
        for at in memchr2_iter(b'#', b'%', text) {
            let length = match (text[at], text.get(at + 1)) {
                (b'#', Some(b'#')) => {
                    has_glue |= is_glue(text, at);
                    1
                }
                (b'#', _) => 1,
                (_, Some(b':')) => 2,
                _ => continue,
            };
            if begins_line(text, at) {
                self.directive(at + length);
            }
        }
        for at in Finder::new("has_").find_iter(text) {
            self.has(at);
        }
        for end in ["include", "embed"] {
            for at in Finder::new(end).find_iter(text) {
                self.piece(at);
            }
        }
        let times = times(text, has_glue, |at| self.is_code(at));
        self.found.date_time |= times.date_time;
        self.found.timestamp |= times.timestamp;
        // These may also come from a string, by `_Pragma`, or from a macro's argument.
        self.found.pch_pragma |= self.has_word("pch_preprocess");
        self.found.computed_include |= self.has_word("include_alias");
        self.found.once |= self.has_word("(once)") || self.has_word("\"once\"");
        for at in Finder::new("dependency").find_iter(text) {
            let before = text[..at].trim_ascii_end();
            if before.len() < at && before.ends_with(b"GCC") && self.is_code(at) {
                self.found.dependency_pragma = true;
            }
        }
        self.assembler();
        for word in ["import", "module"] {
            for at in Finder::new(word).find_iter(text) {
                if is_module_line(text, at, word.len()) && self.is_code(at) {
                    self.found.modules = true;
                }
            }
        }
    }

    /// Looks for directives of the assembler that read a file. Its directives are matched in any
    /// case (GNU as lowers them).
    fn assembler(&mut self) {
        let text = self.text;
        let reads = |at: usize, word: &[u8]| {
            text.get(at..at + word.len())
                .is_some_and(|found| found.eq_ignore_ascii_case(word))
        };
        self.found.incbin |= self.has_word("incbin")
            || memchr_iter(b'.', text).any(|dot| {
                let at = dot + 1;
                matches!(text.get(at), Some(b'i' | b'I'))
                    && (reads(at, b"incbin") || reads(at, b"include"))
                    && self.is_code(at)
            });
    }

    /// Reads the directive after the `#` before `at`.
    fn directive(&mut self, at: usize) {
        let text = self.text;
        let at = skip_space(text, at);
        let end = word_end(text, at);
        match &text[at..end] {
            b"include" => self.header_name(end, Directive::Include),
            b"include_next" => self.header_name(end, Directive::IncludeNext),
            b"import" => {
                self.found.once |= self.is_code(at);
                self.header_name(end, Directive::Import);
            }
            b"embed" => self.header_name(end, Directive::Embed),
            b"line" => self.line(end),
            b"pragma" => {
                let at = skip_space(text, end);
                let end = word_end(text, at);
                match &text[at..end] {
                    b"once" => self.found.once |= self.is_code(at),
                    b"GCC" => {
                        let at = skip_space(text, end);
                        if &text[at..word_end(text, at)] == b"dependency" {
                            self.found.dependency_pragma |= self.is_code(at);
                        }
                    }
                    _ => {}
                }
            }
            // A line marker: `# 1 "file"`.
            word if word.first().is_some_and(u8::is_ascii_digit) => self.line(at),
            _ => {}
        }
    }

    fn header_name(&mut self, at: usize, directive: Directive) {
        match name(self.text, skip_space(self.text, at)) {
            Name::Literal { angled, name } => self.include(directive, angled, name),
            Name::Other => self.computed(skip_space(self.text, at), directive),
            Name::Nothing => {}
        }
    }

    /// An include of something that is no literal name: of a macro, or of more.
    fn computed(&mut self, at: usize, directive: Directive) {
        if !self.is_code(at) {
            return;
        }
        let text = self.text;
        let end = word_end(text, at);
        let next = skip_space(text, end);
        let alone = matches!(text.get(next), None | Some(b'\n')) || text[next..].starts_with(b"//");
        // A name goes on with what is not ASCII.
        let ascii = text.get(end).is_none_or(u8::is_ascii) && text[at].is_ascii();
        if end > at && !text[at].is_ascii_digit() && ascii && alone {
            self.found.macro_includes.push(MacroInclude {
                directive,
                name: text[at..end].to_vec(),
            });
        } else {
            self.found.computed_include = true;
        }
    }

    fn line(&mut self, at: usize) {
        let text = self.text;
        let at = skip_space(text, at);
        let end = word_end(text, at);
        if at == end {
            return;
        }
        if !text[at..end].iter().all(u8::is_ascii_digit) {
            self.found.computed_has_include |= self.is_code(at);
            return;
        }
        match name(text, skip_space(text, end)) {
            Name::Literal {
                angled: false,
                name,
            } if !name.contains(&b'\\') => self.include(Directive::Line, false, name),
            // Here, unlike in a header's name, a backslash is an escape.
            Name::Literal { angled: false, .. } => {
                self.found.computed_has_include |= self.is_code(at);
            }
            Name::Literal { .. } | Name::Nothing => {}
            Name::Other => {
                // `#line 7` alone is fine.
                let rest = &text[end..];
                let line = &rest[..memchr(b'\n', rest).unwrap_or(rest.len())];
                if !line.trim_ascii().is_empty() {
                    self.found.computed_has_include |= self.is_code(at);
                }
            }
        }
    }

    /// Looks at an operator that asks whether a file is there; `has_` is at `at`.
    fn has(&mut self, at: usize) {
        let text = self.text;
        let mut start = at;
        while start > 0 && is_word(text[start - 1]) {
            start -= 1;
        }
        let end = word_end(text, at);
        let word = &text[start..end];
        if OPERATORS.contains(&word) || word == HAS_INCLUDE_ALIAS {
            self.asks(start, end);
        } else {
            self.piece(at);
        }
    }

    /// Looks at a word, at `at`, that may be one of two out of which an operator is pasted. One of
    /// the two is unusual, or it is `include` and the like as a macro's argument; `__has_` alone is
    /// in the C++ library.
    fn piece(&mut self, at: usize) {
        let text = self.text;
        let mut start = at;
        while start > 0 && is_word(text[start - 1]) {
            start -= 1;
        }
        let end = word_end(text, at);
        let word = &text[start..end];
        let is_argument = || {
            matches!(text[..start].trim_ascii_end().last(), Some(b'(' | b','))
                && matches!(text.get(skip_space(text, end)), Some(b')' | b','))
                && !is_parameter(&text[..start])
        };
        let is_piece = |operator: &&[u8]| {
            let is_begin = word.len() > HAS.len() && operator.starts_with(word);
            let is_end = operator.len() > word.len() && operator.ends_with(word);
            let split = operator.len() - word.len().min(operator.len());
            is_begin || (is_end && (split < HAS.len() || (split == HAS.len() && is_argument())))
        };
        // One that goes on in the next line is seen when lines are joined.
        let goes_on = text.get(end) == Some(&b'\\');
        if !goes_on && !OPERATORS.contains(&word) && OPERATORS.iter().any(is_piece) {
            self.found.computed_has_include |= self.is_code(start);
        }
    }

    /// Looks at a word that asks whether a file is there, from `start` to `end`.
    fn asks(&mut self, start: usize, end: usize) {
        let text = self.text;
        let open = skip_space(text, end);
        if text.get(open) == Some(&b'(')
            && let Name::Literal { angled, name } = name(text, skip_space(text, open + 1))
        {
            return self.include(Directive::Has, angled, name);
        }
        if follows_defined(text, start) || follows_define(text, start) || !self.is_code(start) {
            return;
        }
        match defined_as_alias(text, start, end) {
            Some(HAS_INCLUDE_ALIAS) => {}
            Some(alias) => self.found.has_include_aliases.push(alias.to_vec()),
            None => self.found.computed_has_include = true,
        }
    }

    /// Looks at all uses of a macro that stands for such a word.
    fn uses(mut self, alias: &[u8]) {
        let text = self.text;
        for at in Finder::new(alias).find_iter(text) {
            let end = at + alias.len();
            let is_whole = (at == 0 || !is_word(text[at - 1])) && word_end(text, end) == end;
            if is_whole {
                self.asks(at, end);
            }
        }
    }

    fn include(&mut self, directive: Directive, angled: bool, name: &[u8]) {
        self.found.includes.push(Include {
            directive,
            angled,
            name: name.to_vec(),
        });
    }
}

/// Whether a word behind this text is a parameter of a macro that is just being defined.
fn is_parameter(before: &[u8]) -> bool {
    let line = memchr::memrchr(b'\n', before).map_or(0, |end| end + 1);
    let line = before[line..].trim_ascii_start();
    let define = line
        .strip_prefix(b"#")
        .and_then(|rest| rest.trim_ascii_start().strip_prefix(b"define"));
    define.is_some_and(|rest| !rest.contains(&b')'))
}

/// What a macro that stands for `__has_include` is used for in one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HasIncludeUses {
    /// The files that are asked for.
    pub includes: Vec<Include>,
    /// Further macros that stand for this one.
    pub aliases: Vec<Vec<u8>>,
    /// It is used in another way.
    pub undecided: bool,
}

/// Finds the uses of a macro that some file defines as `__has_include`; see
/// [`Scan::has_include_aliases`].
pub fn has_include_uses(source: &[u8], alias: &[u8]) -> HasIncludeUses {
    let mut found = Scan::default();
    for_all_readings(source, |text, tell_comments| {
        Scanner::new(text, &mut found, tell_comments).uses(alias);
    });
    HasIncludeUses {
        includes: found.includes,
        aliases: found.has_include_aliases,
        undecided: found.computed_has_include,
    }
}

enum Name<'a> {
    Literal { angled: bool, name: &'a [u8] },
    Other,
    Nothing,
}

/// The header name at `at`, up to its closing delimiter on the same line.
fn name(text: &[u8], at: usize) -> Name<'_> {
    let (angled, close) = match text.get(at) {
        Some(b'<') => (true, b'>'),
        Some(b'"') => (false, b'"'),
        Some(_) => return Name::Other,
        None => return Name::Nothing,
    };
    let rest = &text[at + 1..];
    match memchr2(close, b'\n', rest) {
        Some(end) if rest[end] == close && end > 0 => Name::Literal {
            angled,
            name: &rest[..end],
        },
        Some(end) if rest[end] == close => Name::Nothing,
        // Macros may still complete `<` to a name.
        _ => Name::Other,
    }
}

fn contains(text: &[u8], needle: &[u8]) -> bool {
    memmem::find(text, needle).is_some()
}

/// ASCII only: of the others some are spaces to Clang.
pub(super) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$'
}

pub(super) fn word_end(text: &[u8], at: usize) -> usize {
    text[at..]
        .iter()
        .position(|&byte| !is_word(byte))
        .map_or(text.len(), |length| at + length)
}

/// White space within a line, with the bytes that a compiler may skip with a warning.
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | 0x0b | 0x0c | b'\r' | 0)
}

/// The length of the line continuation at `at`, or 0. GCC and Clang allow white space between
/// the backslash and the newline.
pub(super) fn continuation(text: &[u8], at: usize) -> usize {
    if text.get(at) != Some(&b'\\') {
        return 0;
    }
    let rest = &text[at + 1..];
    let blanks = rest.iter().take_while(|&&byte| is_blank(byte)).count();
    if rest.get(blanks) == Some(&b'\n') {
        return blanks + 2;
    }
    // A lone carriage return ends a line for Clang.
    memchr(b'\r', &rest[..blanks]).map_or(0, |cr| cr + 2)
}

/// Skips white space, comments and line continuations, but no newline.
pub(super) fn skip_space(text: &[u8], mut at: usize) -> usize {
    loop {
        match text.get(at) {
            Some(&byte) if is_blank(byte) || byte >= 0x80 => at += 1,
            Some(b'\\') => match continuation(text, at) {
                0 => return at,
                length => at += length,
            },
            Some(b'/') if text.get(at + 1) == Some(&b'*') => {
                match memmem::find(&text[at + 2..], b"*/") {
                    Some(length) => at += length + 4,
                    None => return text.len(),
                }
            }
            _ => return at,
        }
    }
}

/// Whether nothing but white space and perhaps comments stands before `at` in its line. Where a
/// comment ends there, it is not asked where it began.
fn begins_line(text: &[u8], at: usize) -> bool {
    for index in (0..at).rev() {
        match text[index] {
            // A lone carriage return ends a line for Clang.
            b'\n' | b'\r' => return true,
            byte if is_blank(byte) => {}
            // A byte order mark, or a space outside ASCII that Clang skips.
            0x80.. => {}
            // The end of a comment; `*`, continuation, `/` is seen in the joined copy.
            b'/' => return text[..index].ends_with(b"*"),
            _ => return false,
        }
    }
    true
}

/// Whether the word at `at` is the operand of `defined`, `#ifdef` and the like, which tests the
/// word itself.
fn follows_defined(text: &[u8], at: usize) -> bool {
    let mut before = text[..at].trim_ascii_end();
    if let Some(inner) = before.strip_suffix(b"(") {
        before = inner.trim_ascii_end();
    }
    let mut start = before.len();
    while start > 0 && is_word(before[start - 1]) {
        start -= 1;
    }
    matches!(
        &before[start..],
        b"defined" | b"ifdef" | b"ifndef" | b"elifdef" | b"elifndef" | b"undef"
    )
}

/// Whether the word at `at` is the one that a `#define` defines.
fn follows_define(text: &[u8], at: usize) -> bool {
    text[..at].trim_ascii_end().ends_with(b"define")
}

/// The macro that the line of the word from `start` to `end` defines, if the word, or a call
/// of it with the macro's own parameter, is all that it stands for.
fn defined_as_alias(text: &[u8], start: usize, end: usize) -> Option<&[u8]> {
    let line = memchr::memrchr(b'\n', &text[..start]).map_or(0, |newline| newline + 1);
    let hash = skip_space(text, line);
    if text.get(hash) != Some(&b'#') {
        return None;
    }
    let define = skip_space(text, hash + 1);
    let define_end = word_end(text, define);
    if &text[define..define_end] != b"define" {
        return None;
    }
    let macro_start = skip_space(text, define_end);
    let macro_end = word_end(text, macro_start);
    let defined = &text[macro_start..macro_end];
    let ends_line = |at: usize| {
        let at = skip_space(text, at);
        matches!(text.get(at), None | Some(b'\n')) || text[at..].starts_with(b"//")
    };
    if text.get(macro_end) != Some(&b'(') {
        return (skip_space(text, macro_end) == start && ends_line(end)).then_some(defined);
    }
    // `#define A(x) __has_include(x)`, with nothing else before or behind.
    let parameter = skip_space(text, macro_end + 1);
    let parameter_end = word_end(text, parameter);
    let close = skip_space(text, parameter_end);
    if text.get(close) != Some(&b')') || skip_space(text, close + 1) != start {
        return None;
    }
    let open = skip_space(text, end);
    let argument = skip_space(text, open + 1);
    let argument_end = word_end(text, argument);
    let last = skip_space(text, argument_end);
    let is_call = text.get(open) == Some(&b'(')
        && parameter < parameter_end
        && text.get(argument..argument_end) == text.get(parameter..parameter_end)
        && text.get(last) == Some(&b')');
    (is_call && ends_line(last + 1)).then_some(defined)
}

/// Whether the word of `length` bytes at `at` begins a line that C++20 may take for a module
/// declaration or an import ([cpp.pre], "preprocessing directive").
fn is_module_line(text: &[u8], at: usize, length: usize) -> bool {
    if text.get(at + length).is_some_and(|&byte| is_word(byte)) {
        return false;
    }
    let before = text[..at].trim_ascii_end();
    let before = match before.strip_suffix(b"export") {
        Some(inner) if before.len() < at => inner,
        _ => &text[..at],
    };
    if !begins_line(text, before.len()) {
        return false;
    }
    let next = skip_space(text, at + length);
    match text.get(next) {
        Some(b'<' | b'"' | b':' | b';') => true,
        Some(&byte) => is_word(byte) && !byte.is_ascii_digit(),
        None => false,
    }
}

/// Calls `read` with the source, and with the copies that [`joined`] makes of it; and whether
/// comments can be told in it: not in a source of which there are copies, since it is known too
/// little how it reads.
fn for_all_readings(source: &[u8], mut read: impl FnMut(&[u8], bool)) {
    let copies = joined(source);
    read(source, copies.is_empty());
    for copy in &copies {
        read(copy, true);
    }
}

/// Copies of the text without line continuations, if it has any between two characters that are
/// not white space; and, if it has trigraphs, with these replaced before (translation phases 1
/// and 2). Whether trigraphs are replaced depends on the language and its version, so both
/// copies may be what a compiler reads.
pub(super) fn joined(text: &[u8]) -> Vec<Vec<u8>> {
    let mut copies = Vec::new();
    if joins_tokens(text) {
        copies.push(without_continuations(text));
    }
    if contains(text, b"??/") || contains(text, b"??=") {
        copies.push(without_continuations(&replace_trigraphs(text)));
    }
    copies
}

fn without_continuations(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut from = 0;
    for at in memchr_iter(b'\\', text) {
        if at < from {
            continue;
        }
        let length = continuation(text, at);
        if length > 0 {
            out.extend_from_slice(&text[from..at]);
            from = at + length;
        }
    }
    out.extend_from_slice(&text[from..]);
    out
}

fn joins_tokens(text: &[u8]) -> bool {
    memchr_iter(b'\\', text).any(|at| {
        let length = continuation(text, at);
        let solid = |byte: &u8| !is_blank(*byte) && *byte != b'\n';
        length > 0
            && text[..at].last().is_some_and(solid)
            && text.get(at + length).is_some_and(solid)
    })
}

fn replace_trigraphs(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        let replacement = match rest {
            [b'?', b'?', third, ..] => match third {
                b'=' => Some(b'#'),
                b'/' => Some(b'\\'),
                b'\'' => Some(b'^'),
                b'(' => Some(b'['),
                b')' => Some(b']'),
                b'!' => Some(b'|'),
                b'<' => Some(b'{'),
                b'>' => Some(b'}'),
                b'-' => Some(b'~'),
                _ => None,
            },
            _ => None,
        };
        match replacement {
            Some(replacement) => {
                out.push(replacement);
                rest = &rest[3..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// The includes as `directive name` with the name's delimiters.
    fn names(source: &str) -> Vec<String> {
        scan(source.as_bytes())
            .includes
            .iter()
            .map(|include| {
                let name = String::from_utf8_lossy(&include.name);
                let (open, close) = if include.angled {
                    ("<", ">")
                } else {
                    ("\"", "\"")
                };
                format!("{:?} {open}{name}{close}", include.directive)
            })
            .collect()
    }

    #[rstest]
    #[case::quoted("#include \"a.h\"\n", &["Include \"a.h\""])]
    #[case::angled("#include <a/b.h>\n", &["Include <a/b.h>"])]
    #[case::tight("#include<a.h>", &["Include <a.h>"])]
    #[case::next("# include_next <a.h>", &["IncludeNext <a.h>"])]
    #[case::import("#import \"a.h\"", &["Import \"a.h\""])]
    #[case::embed("#embed <a.bin> limit(4)", &["Embed <a.bin>"])]
    #[case::indented(" \t#\t include\t\"a.h\"", &["Include \"a.h\""])]
    #[case::digraph("%:include \"a.h\"", &["Include \"a.h\""])]
    #[case::trigraph("??=include \"a.h\"", &["Include \"a.h\""])]
    #[case::byte_order_mark("\u{feff}#include \"a.h\"", &["Include \"a.h\""])]
    #[case::odd_space("#\u{a0}include \"a.h\"", &["Include \"a.h\""])]
    #[case::after_a_comment("/* x\n */ #include \"a.h\"", &["Include \"a.h\""])]
    #[case::comments_inside("#/**/include/* \n */\"a.h\"", &["Include \"a.h\""])]
    #[case::carriage_return("int x;\r#include \"a.h\"\r\n", &["Include \"a.h\""])]
    #[case::continued("#\\\ninclude \\\n \"a.h\"", &["Include \"a.h\""])]
    #[case::continued_with_space("#include \\ \t\n \"a.h\"", &["Include \"a.h\""])]
    #[case::continued_in_the_word("#incl\\\nude \"a.h\"", &["Include \"a.h\""])]
    #[case::continued_after_the_digraph_s_half("%\\\n:include \"a.h\"", &["Include \"a.h\""])]
    #[case::trigraph_continuation("#incl??/\nude \"a.h\"", &["Include \"a.h\""])]
    #[case::joined_below_a_false_trigraph("// ??/\n%\\\n:incl\\\nude \"a.h\"", &["Include \"a.h\""])]
    #[case::false_trigraph("// what??/\n#include \"a.h\"", &["Include \"a.h\""])]
    #[case::in_a_raw_string("R\"(\n#include \"a.h\"\n)\"", &["Include \"a.h\""])]
    #[case::after_a_raw_string("x=R\"(/*)\";\n#include \"a.h\"", &["Include \"a.h\""])]
    #[case::after_a_quote("it's\n#include \"a.h\"", &["Include \"a.h\""])]
    #[case::in_a_dead_branch("#if 0\n#include \"a.h\"\n#endif", &["Include \"a.h\""])]
    #[case::has("#if __has_include(<a.h>)", &["Has <a.h>"])]
    #[case::has_spaced("#if defined(X) && __has_include /* */ ( \"a.h\" )", &["Has \"a.h\""])]
    #[case::has_next("#if __has_include_next(<a.h>)", &["Has <a.h>"])]
    #[case::has_embed("#if __has_embed(<a.h>)", &["Has <a.h>"])]
    #[case::has_by_glibc("#if __glibc_has_include (\"a.h\")", &["Has \"a.h\""])]
    #[case::has_split("#if __has_\\\ninclude(<a.h>)", &["Has <a.h>"])]
    #[case::line("#line 7 \"a.y\"", &["Line \"a.y\""])]
    #[case::line_marker("# 7 \"a.y\" 3 4", &["Line \"a.y\""])]
    #[case::line_number_alone("#line 7\nint x;", &[])]
    #[case::both("#include \"b.h\"\n#include \"a.h\"\n", &["Include \"a.h\"", "Include \"b.h\""])]
    #[case::twice("#include \"a.h\"\n#include \"a.h\"\n", &["Include \"a.h\""])]
    #[case::not_first("x #include \"a.h\"", &[])]
    #[case::line_comment_text("x // #include \"a.h\"", &[])]
    #[case::other_word("#includes \"a.h\"", &[])]
    #[case::stringified("#define S(include) #include", &[])]
    fn the_names_are(#[case] source: &str, #[case] expected: &[&str]) {
        assert_eq!(names(source), expected);
        let scan = scan(source.as_bytes());
        assert!(!scan.computed_has_include);
    }

    type Flag = fn(&Scan) -> bool;
    const COMPUTED: Flag = |scan| scan.computed_include;
    const MACRO: Flag = |scan| {
        scan.macro_includes
            .iter()
            .any(|include| include.name == b"HEADER")
    };
    const ALIAS: Flag = |scan| !scan.has_include_aliases.is_empty();
    const COMPUTED_HAS: Flag = |scan| scan.computed_has_include;
    const INCBIN: Flag = |scan| scan.incbin;
    const DATE_TIME: Flag = |scan| scan.date_time;
    const TIMESTAMP: Flag = |scan| scan.timestamp;
    const ONCE: Flag = |scan| scan.once;
    const PCH: Flag = |scan| scan.pch_pragma;
    const DEPENDENCY: Flag = |scan| scan.dependency_pragma;
    const MODULES: Flag = |scan| scan.modules;

    #[rstest]
    #[case::macro_name(MACRO, "#include HEADER\n")]
    #[case::macro_call(COMPUTED, "#include H(x)\n")]
    #[case::unclosed(COMPUTED, "#include <a.h\n")]
    #[case::name_beyond_ascii(COMPUTED, "#include HEADER\u{e9}\n")]
    #[case::embedded(MACRO, "#embed HEADER\n")]
    #[case::aliased(COMPUTED, "#pragma include_alias(\"a\", \"b\")\n")]
    #[case::has_pasted(COMPUTED_HAS, "#if PASTE(__has_, include)(\"a.h\")\n")]
    #[case::has_pasted_early(COMPUTED_HAS, "#if PASTE(__, has_include)(\"a.h\")\n")]
    #[case::has_pasted_between(COMPUTED_HAS, "#if PASTE(__has, _include)(\"a.h\")\n")]
    #[case::has_pasted_next(COMPUTED_HAS, "#if PASTE(__has_inc, lude_next)(\"a.h\")\n")]
    #[case::has_pasted_late(COMPUTED_HAS, "#if PASTE(__ha, s_embed)(\"a.h\")\n")]
    #[case::has_macro(COMPUTED_HAS, "#if __has_include(HEADER)\n")]
    #[case::has_alias(ALIAS, "#define HAS(x) __has_include(x)\n")]
    #[case::has_renamed(ALIAS, "#define HAS __has_include\n")]
    #[case::has_by_glibc(COMPUTED_HAS, "#if __glibc_has_include(HEADER)\n")]
    #[case::line_macro(COMPUTED_HAS, "#line LINE\n")]
    #[case::line_file_macro(COMPUTED_HAS, "#line 7 FILE\n")]
    #[case::line_escape(COMPUTED_HAS, "#line 7 \"a\\\\b\"\n")]
    #[case::incbin(INCBIN, "asm(\".incbin \\\"x\\\"\");")]
    #[case::incbin_capital(INCBIN, "asm(\".IncBin \\\"x\\\"\");")]
    #[case::incbin_built(INCBIN, "asm(\".\" \"incbin x\");")]
    #[case::asm_include(INCBIN, "asm(\".include \\\"x\\\"\");")]
    #[case::date(DATE_TIME, "char *d = __DATE__;")]
    #[case::time(DATE_TIME, "char *d = __TIME__;")]
    #[case::time_split(DATE_TIME, "char *d = __TI\\\nME__;")]
    #[case::timestamp(TIMESTAMP, "char *d = __TIMESTAMP__;")]
    #[case::once(ONCE, "#pragma once\n")]
    #[case::once_spaced(ONCE, "# pragma /* */ once\n")]
    #[case::once_operator(ONCE, "_Pragma(\"once\")\n")]
    #[case::once_import(ONCE, "#import <a.h>\n")]
    #[case::pch(PCH, "#pragma GCC pch_preprocess \"x\"\n")]
    #[case::dependency(DEPENDENCY, "#pragma GCC dependency \"x\"\n")]
    #[case::dependency_commented(DEPENDENCY, "#pragma GCC /**/ dependency \"x\"\n")]
    #[case::dependency_operator(DEPENDENCY, "_Pragma(\"GCC dependency \\\"x\\\"\")\n")]
    #[case::import(MODULES, "import std;\n")]
    #[case::import_header(MODULES, "export import <vector>;\n")]
    #[case::module(MODULES, "module;\n")]
    #[case::export_module(MODULES, "  export module a.b:c;\n")]
    fn the_flag_is_set(#[case] flag: Flag, #[case] source: &str) {
        assert!(flag(&scan(source.as_bytes())));
    }

    #[rstest]
    #[case::defined("#if defined __has_include && defined(__has_include)\n")]
    #[case::ifdef("#ifdef __has_include\n#endif\n")]
    #[case::glibc(
        "#ifdef __has_include\n# define __glibc_has_include(header)\t__has_include (header)\n\
         #else\n# define __glibc_has_include(header)\t0\n#endif\n"
    )]
    #[case::pieces_of_names(
        "struct __has_##_NTYPE; void include_next(int include); f(included, _include_dir);\n"
    )]
    #[case::words("int include, import_x, modules, xincbi; a.inc = b.in; x__has_includes(A);\n")]
    #[case::in_comments(
        "/* #include's text\n   #include it, __has_include, .incbin,\n#include X\nimport y;\n\
         __DATE__ */ // __TIME__ has __has_include(X)\n"
    )]
    #[case::member("x = a.import; module = 1;\nf(module);\n")]
    #[case::continued_macro("#define A(x) \\\n  do { x; } \\\n  while (0)\n")]
    fn no_flag_is_set(#[case] source: &str) {
        assert_eq!(scan(source.as_bytes()), Scan::default());
    }

    #[test]
    fn no_source_makes_the_scanner_panic_at_its_end() {
        let source = b"#/* %: ??/\n #include __has_include( <a \\\r\n#line 1 \"x\" export import\\";
        for end in 0..=source.len() {
            for start in 0..=end {
                scan(&source[start..end]);
            }
        }
    }

    #[rstest]
    #[case::object("#define HAS __has_include\n", "HAS")]
    #[case::call("# define HAS(x) __has_include( x ) // why\n", "HAS")]
    fn an_alias_is_noticed_and_its_uses_are_found(#[case] definition: &str, #[case] alias: &str) {
        let found = scan(definition.as_bytes());
        assert_eq!(found.has_include_aliases, [alias.as_bytes()]);
        assert!(!found.computed_has_include);
        let uses = |text: &str| has_include_uses(text.as_bytes(), alias.as_bytes());
        let plain = uses(
            "/* HAS */\n#ifndef HAS\n#define HAS(x) 0\n#endif\n#if HAS(<a.h>) || HAS(\"b.h\")\nHAS_NOT\n",
        );
        let names: Vec<_> = plain
            .includes
            .iter()
            .map(|include| include.name.as_slice())
            .collect();
        assert_eq!((names, plain.undecided), (vec![&b"a.h"[..], b"b.h"], false));
        assert!(uses("#if HAS(NAME)\n").undecided);
        assert_eq!(uses("#define ALSO HAS\n").aliases, [b"ALSO"]);
        assert!(uses("#define ALSO HAS + 1\n").undecided);
    }
}
