//! Structured attributes: the derivation's attributes as JSON, in one
//! environment variable, and the two files that a builder finds them in.
//!
//! Source: nix 2.34 `src/libstore/parsed-derivations.cc`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Derivation, DerivationOptionsError};
use crate::json;

/// The environment variable that holds the JSON.
pub(super) const STRUCTURED_ATTRS_NAME: &[u8] = b"__json";

/// A derivation's structured attributes.
#[derive(Clone, Debug, PartialEq)]
pub struct StructuredAttrs {
    attributes: BTreeMap<String, Value>,
}

impl StructuredAttrs {
    /// Those of a derivation; `None` if it has none.
    pub fn of(drv: &Derivation) -> Result<Option<Self>, DerivationOptionsError> {
        let Some(text) = drv.env.get(STRUCTURED_ATTRS_NAME) else {
            return Ok(None);
        };
        let attributes =
            serde_json::from_slice(text).map_err(DerivationOptionsError::StructuredAttrs)?;
        Ok(Some(Self { attributes }))
    }

    /// An attribute.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.attributes.get(name)
    }

    /// As the builder finds them: with the paths of the outputs in the place of
    /// their names, and with the graphs of `exportReferencesGraph`.
    ///
    /// `outputs` are output names and full paths; `graphs` are arrays of
    /// [`PathInfo::to_graph_json`](crate::PathInfo::to_graph_json). Placeholders in
    /// other attributes are left, to be replaced in the printed text.
    pub fn for_builder(
        &self,
        outputs: &BTreeMap<String, String>,
        graphs: BTreeMap<String, Value>,
    ) -> Self {
        let mut attributes = self.attributes.clone();
        let outputs = outputs
            .iter()
            .map(|(name, path)| (name.clone(), Value::from(path.as_str())));
        attributes.insert("outputs".to_owned(), Value::Object(outputs.collect()));
        attributes.extend(graphs);
        Self { attributes }
    }

    /// The content of `.attrs.json`: compact, sorted.
    pub fn to_json(&self) -> String {
        json::print_object(&self.attributes)
    }

    /// All of them.
    pub fn into_json(self) -> Value {
        Value::Object(self.attributes.into_iter().collect())
    }

    /// The content of `.attrs.sh`: a `declare` for each attribute that is simple,
    /// or an array or object of simple ones, and whose name bash can take.
    pub fn to_shell(&self) -> String {
        let mut script = String::new();
        for (name, value) in &self.attributes {
            if is_shell_name(name) {
                script.extend(declaration(name, value));
            }
        }
        script
    }
}

fn declaration(name: &str, value: &Value) -> Option<String> {
    match value {
        Value::Array(items) => {
            let items: Option<String> =
                items.iter().map(|item| Some(simple(item)? + " ")).collect();
            Some(format!("declare -a {name}=({})\n", items?))
        }
        Value::Object(members) => {
            let sorted: BTreeMap<_, _> = members.iter().collect();
            let members: Option<String> = sorted
                .into_iter()
                .map(|(key, item)| Some(format!("[{}]={} ", quote(key), simple(item)?)))
                .collect();
            Some(format!("declare -A {name}=({})\n", members?))
        }
        _ => Some(format!("declare {name}={}\n", simple(value)?)),
    }
}

/// A value as a word of the shell; `None` for arrays, objects and numbers that
/// are not whole.
fn simple(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(quote(text)),
        Value::Null => Some("''".to_owned()),
        Value::Bool(true) => Some("1".to_owned()),
        Value::Bool(false) => Some(String::new()),
        Value::Number(number) => {
            // Nix asks a 32-bit float whether the number is whole, and prints it
            // as a 32-bit integer. Scripts depend on what they were given.
            let float = number.as_f64()? as f32;
            let whole = float.ceil() == float;
            let printed = match (number.as_i64(), number.as_u64(), number.as_f64()) {
                (Some(integer), ..) => integer as i32,
                (None, Some(integer), _) => integer as i32,
                (None, None, Some(float)) if float > i32::MIN.into() && float < i32::MAX.into() => {
                    float as i32
                }
                _ => i32::MIN,
            };
            whole.then(|| printed.to_string())
        }
        Value::Array(_) | Value::Object(_) => None,
    }
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn is_shell_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attrs(json: &str) -> StructuredAttrs {
        let mut drv = Derivation::default();
        drv.env.insert("__json".into(), json.into());
        StructuredAttrs::of(&drv).unwrap().unwrap()
    }

    #[test]
    fn the_builder_finds_its_outputs_and_everything_sorted() {
        let attrs = attrs(r#"{"outputs":["out"],"z":1,"a":{"c":2,"b":1.5}}"#);
        let outputs = [("out".to_owned(), "/nix/store/x".to_owned())].into();
        let graphs = [("graph".to_owned(), Value::Array(vec![]))].into();
        assert_eq!(
            attrs.for_builder(&outputs, graphs).to_json(),
            r#"{"a":{"b":1.5,"c":2},"graph":[],"outputs":{"out":"/nix/store/x"},"z":1}"#
        );
    }

    #[rstest::rstest]
    #[case::text(r#""it's $x""#, "declare k='it'\\''s $x'\n")]
    #[case::integer("5", "declare k=5\n")]
    #[case::whole_float("2.0", "declare k=2\n")]
    #[case::fraction("1.5", "")]
    #[case::beyond_32_bits("4294967297", "declare k=1\n")]
    #[case::beyond_32_bit_floats("1e100", "declare k=-2147483648\n")]
    #[case::null("null", "declare k=''\n")]
    #[case::yes("true", "declare k=1\n")]
    #[case::no("false", "declare k=\n")]
    #[case::array(r#"["a",1,null]"#, "declare -a k=('a' 1 '' )\n")]
    #[case::empty_array("[]", "declare -a k=()\n")]
    #[case::nested_array("[[1]]", "")]
    #[case::object(r#"{"b":"2","a b":1}"#, "declare -A k=(['a b']=1 ['b']='2' )\n")]
    #[case::nested_object(r#"{"a":{}}"#, "")]
    fn simple_attributes_are_declared(#[case] value: &str, #[case] script: &str) {
        assert_eq!(attrs(&format!(r#"{{"k":{value}}}"#)).to_shell(), script);
    }

    #[test]
    fn attributes_that_bash_cannot_name_are_left_out() {
        let attrs = attrs(r#"{"":1,"1a":1,"a-b":1,"ü":1,"_A1":1}"#);
        assert_eq!(attrs.to_shell(), "declare _A1=1\n");
    }
}
