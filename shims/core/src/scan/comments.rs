//! Where a source is certainly a comment.
//!
//! Only what the scanner cannot decide is looked up here: prose such as "`#include` it twice" must
//! not count as a computed include, since the C library's own headers have it. Where C and C++,
//! their versions, or the compilers could read the text differently, the rest of the source is
//! taken for code.

use memchr::memmem;
use memchr::{memchr, memchr3, memrchr};

use super::scanner::{continuation, is_blank, is_word};

/// The comments of a text, up to the first place that cannot be read with certainty.
#[derive(Default)]
pub(super) struct Comments {
    /// Start and end, sorted.
    regions: Vec<(usize, usize)>,
}

impl Comments {
    pub(super) fn contain(&self, at: usize) -> bool {
        let after = self.regions.partition_point(|&(start, _)| start <= at);
        after > 0 && at < self.regions[after - 1].1
    }

    pub(super) fn of(text: &[u8]) -> Self {
        let mut comments = Self::default();
        let mut at = 0;
        while let Some(found) = memchr3(b'/', b'"', b'\'', &text[at..]) {
            let start = at + found;
            let end = match (text[start], text.get(start + 1)) {
                (b'/', Some(b'*')) => block(text, start),
                (b'/', Some(b'/')) => line(text, start),
                (b'/', _) => {
                    at = start + 1;
                    continue;
                }
                _ => {
                    match literal(text, start) {
                        Some(end) => at = end,
                        None => break,
                    }
                    continue;
                }
            };
            match end {
                Some(end) => {
                    comments.regions.push((start, end));
                    at = end;
                }
                None => break,
            }
        }
        comments
    }
}

/// The end of the `/*` comment at `start`.
fn block(text: &[u8], start: usize) -> Option<usize> {
    // In `#include <a/*b>` it is none. The line may go on from a continued one.
    let from = memrchr(b'\n', &text[..start]).map_or(0, |newline| newline + 1);
    let before = &text[from..start];
    let open = memrchr(b'<', before) > memrchr(b'>', before);
    let directive = before.trim_ascii_start().starts_with(b"#") || before.contains(&b'%');
    let continued = text[..from].trim_ascii_end().ends_with(b"\\");
    if open && (directive || continued) {
        return None;
    }
    memmem::find(&text[start + 2..], b"*/").map(|length| start + length + 4)
}

/// The end of the `//` comment at `start`, which is code in C90: a `/*` in it would matter.
fn line(text: &[u8], start: usize) -> Option<usize> {
    let end = line_end(text, start);
    memmem::find(&text[start..end], b"/*")
        .is_none()
        .then_some(end)
}

/// The end of the string or character constant at `start`.
fn literal(text: &[u8], start: usize) -> Option<usize> {
    let quote = text[start];
    let mut word = start;
    while word > 0 && is_word(text[word - 1]) {
        word -= 1;
    }
    match &text[word..start] {
        b"" | b"L" | b"u" | b"U" | b"u8" => {}
        // A raw string in some languages.
        prefix if quote == b'"' && prefix.ends_with(b"R") => return None,
        // A digit separator in some languages.
        prefix if quote == b'\'' && prefix[0].is_ascii_digit() => return None,
        _ => {}
    }
    let end = line_end(text, start);
    let mut at = start + 1;
    while at < end {
        match text[at] {
            b'\\' => at += continuation(text, at).max(2),
            byte if byte == quote => return Some(at + 1),
            _ => at += 1,
        }
    }
    // Unclosed, as in `#error don't`: it ends with the line, whatever is in it.
    memmem::find(&text[start..end], b"/*")
        .is_none()
        .then_some(end)
}

/// The newline that ends the logical line of `start`.
fn line_end(text: &[u8], start: usize) -> usize {
    let mut at = start;
    while let Some(length) = memchr(b'\n', &text[at..]) {
        let newline = at + length;
        let mut last = newline;
        while last > start && is_blank(text[last - 1]) {
            last -= 1;
        }
        if last == start || text[last - 1] != b'\\' {
            return newline;
        }
        at = newline + 1;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// Whether the `@` in the text is certainly in a comment.
    fn is_comment(text: &str) -> bool {
        Comments::of(text.as_bytes()).contain(text.find('@').unwrap())
    }

    #[rstest]
    #[case::block("/* @ */")]
    #[case::lines("/*\n * @\n */")]
    #[case::line("int x; // @\n")]
    #[case::continued("// \\\n @\n")]
    #[case::after_a_string("\"/*\" /* @ */")]
    #[case::after_a_quote("'\"' /* @ */")]
    #[case::after_an_escape("\"\\\"\" /* @ */")]
    #[case::after_a_wide_string("L\"x\" u8'x' /* @ */")]
    #[case::after_an_apostrophe("#error don't\n/* @ */")]
    #[case::after_an_include("#include <a.h> /* @ */")]
    #[case::after_a_comparison("if (a < b) /* @ */")]
    fn it_is_a_comment(#[case] text: &str) {
        assert!(is_comment(text));
    }

    #[rstest]
    #[case::before("@ /* */")]
    #[case::after("/* */ @")]
    #[case::after_a_line("// x\n@")]
    #[case::after_a_line_with_an_opening("// /*\n@ */")]
    #[case::in_a_string("\"/* @ */\"")]
    #[case::in_a_raw_string("R\"(\"/* @ */)\"")]
    #[case::in_a_prefixed_raw_string("u8R\"x(\"/* @ */)x\"")]
    #[case::in_a_header_name("#include <a/*@*/b>")]
    #[case::in_a_continued_name("#if \\\n __has_include(<a/*@*/b>)")]
    #[case::after_a_digit_separator("x = 1'0; y = '/*'; @ '*/'")]
    #[case::after_an_unclosed_quote("don't /*\n @ */")]
    #[case::unclosed("/* @")]
    fn it_may_be_code(#[case] text: &str) {
        assert!(!is_comment(text));
    }
}
