//! JSON text as Nix's library writes it.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

/// A text as a JSON string.
pub(crate) fn quote(text: &str) -> String {
    Value::from(text).to_string()
}

/// Texts as a JSON array of strings.
pub(crate) fn quote_all<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> String {
    let texts: Vec<String> = texts.into_iter().map(|t| quote(t.as_ref())).collect();
    format!("[{}]", texts.join(","))
}

/// An object of these members: compact, members sorted on every level, numbers
/// as Nix prints them.
pub(crate) fn print_object<'a>(
    members: impl IntoIterator<Item = (&'a String, &'a Value)>,
) -> String {
    let mut out = String::new();
    print_members(&mut out, members, None);
    out
}

/// A value, members sorted on every level, numbers as Nix prints them: compact, or with
/// a line for each member and item, indented by two spaces a level.
pub(crate) fn print(value: &Value, is_pretty: bool) -> String {
    let mut out = String::new();
    print_to(&mut out, value, is_pretty.then_some(0));
    out
}

/// Recurses as deep as the value, which its parser limits. `indent` is how far the line
/// is indented that the value is on; `None` prints no lines.
fn print_to(out: &mut String, value: &Value, indent: Option<usize>) {
    match value {
        Value::Object(members) => print_members(out, members, indent),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                let indent = next_line(out, indent, INDENT);
                print_to(out, item, indent);
            }
            if !items.is_empty() {
                next_line(out, indent, 0);
            }
            out.push(']');
        }
        Value::Number(number) if number.is_f64() => {
            let number = number.as_f64().expect("it was found to be one");
            print_float(out, number);
        }
        other => write!(out, "{other}").expect("writing to a string cannot fail"),
    }
}

/// What a level is indented by.
const INDENT: usize = 2;

/// Begins a line that is indented further by `more`, where lines are printed; returns
/// how far it is indented.
fn next_line(out: &mut String, indent: Option<usize>, more: usize) -> Option<usize> {
    let indent = indent? + more;
    out.push('\n');
    out.extend(std::iter::repeat_n(' ', indent));
    Some(indent)
}

fn print_members<'a>(
    out: &mut String,
    members: impl IntoIterator<Item = (&'a String, &'a Value)>,
    indent: Option<usize>,
) {
    let sorted: BTreeMap<_, _> = members.into_iter().collect();
    let is_empty = sorted.is_empty();
    out.push('{');
    for (i, (name, value)) in sorted.into_iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        let indent = next_line(out, indent, INDENT);
        out.push_str(&quote(name));
        out.push_str(if indent.is_some() { ": " } else { ":" });
        print_to(out, value, indent);
    }
    if !is_empty {
        next_line(out, indent, 0);
    }
    out.push('}');
}

/// The shortest digits that mean this number, always with a point or an
/// exponent: `1.0`, `0.0001`, `1e+100`, `1.5e-07`.
fn print_float(out: &mut String, number: f64) {
    // Where the point is written out, counted from before the first digit.
    const PLAIN: std::ops::RangeInclusive<i32> = -3..=15;

    let scientific = format!("{:e}", number.abs());
    let (mantissa, exponent) = scientific
        .split_once('e')
        .expect("this format always has an exponent");
    let digits = mantissa.replace('.', "");
    let exponent: i32 = exponent.parse().expect("an exponent is a number");
    let point = exponent + 1;

    if number.is_sign_negative() {
        out.push('-');
    }
    if PLAIN.contains(&point) && point <= 0 {
        out.push_str("0.");
        out.extend(std::iter::repeat_n('0', point.unsigned_abs() as usize));
        out.push_str(&digits);
    } else if PLAIN.contains(&point) {
        let point = point.unsigned_abs() as usize;
        let (whole, fraction) = digits.split_at(point.min(digits.len()));
        out.push_str(whole);
        out.extend(std::iter::repeat_n('0', point - whole.len()));
        out.push('.');
        out.push_str(if fraction.is_empty() { "0" } else { fraction });
    } else {
        let (first, others) = digits.split_at(1);
        out.push_str(first);
        if !others.is_empty() {
            out.push('.');
            out.push_str(others);
        }
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(out, "e{sign}{:02}", exponent.unsigned_abs())
            .expect("writing to a string cannot fail");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The right side as `nix eval --expr 'builtins.toJSON (builtins.fromJSON "…")'`
    /// of 2.34 gives it (but for the largest integer, which expressions cannot have).
    #[rstest::rstest]
    #[case("0.0", "0.0")]
    #[case("1.0", "1.0")]
    #[case("-1.5", "-1.5")]
    #[case("123456.789", "123456.789")]
    #[case("0.001", "0.001")]
    #[case("0.0001", "0.0001")]
    #[case("0.00001", "1e-05")]
    #[case("1.5e-7", "1.5e-07")]
    #[case("1e14", "100000000000000.0")]
    #[case("1e15", "1e+15")]
    #[case("1e100", "1e+100")]
    #[case("-1.25e300", "-1.25e+300")]
    #[case("18446744073709551615", "18446744073709551615")]
    #[case("-5", "-5")]
    fn numbers_are_printed_as_nix_prints_them(#[case] text: &str, #[case] printed: &str) {
        let value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(print(&value, false), printed);
    }

    #[test]
    fn members_are_sorted_and_nothing_is_spaced() {
        let text = r#"{ "b": [1, {"d": null, "c": true}], "a": "\u0001\n/ü" }"#;
        let value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(
            print(&value, false),
            r#"{"a":"\u0001\n/ü","b":[1,{"c":true,"d":null}]}"#
        );
    }

    #[test]
    fn a_pretty_value_has_lines_for_all_but_what_is_empty() {
        let text = r#"{"b":[1,{"c":[]}],"a":{}}"#;
        let value: Value = serde_json::from_str(text).unwrap();
        let expected = concat!(
            "{\n  \"a\": {},\n  \"b\": [\n    1,\n    {\n",
            "      \"c\": []\n    }\n  ]\n}"
        );
        assert_eq!(print(&value, true), expected);
    }
}
