//! What builders say to Nix in their logs: `@nix {"action":"setPhase","phase":"buildPhase"}`.
//!
//! What is no such message, or none that can be understood, is a line like all others.
//!
//! Source: nix `src/libutil/logging.cc` (`handleJSONLogMessage`).

use serde_json::Value;
use store_api::{BuilderMessage, MessageField};

/// How such a line begins.
const PREFIX: &[u8] = b"@nix ";

/// Nix's number of the one kind of activity that it takes from builders: a download.
const ACTIVITY_FILE_TRANSFER: u64 = 101;

/// The message that a line is; `None` if it is a line of the log.
pub(crate) fn parse(line: &[u8]) -> Option<BuilderMessage> {
    let message: Value = serde_json::from_slice(line.strip_prefix(PREFIX)?).ok()?;
    let text = |name: &str| message.get(name)?.as_str().map(str::to_owned);
    let number = |name: &str| message.get(name)?.as_u64();
    Some(match message.get("action")?.as_str()? {
        "setPhase" => BuilderMessage::Phase(text("phase")?),
        "msg" => BuilderMessage::Text {
            level: number("level")?,
            text: text("msg")?,
        },
        "start" if number("type")? != ACTIVITY_FILE_TRANSFER => BuilderMessage::Ignored,
        "start" => BuilderMessage::Start {
            id: number("id")?,
            level: number("level")?,
            text: text("text")?,
            fields: fields(message.get("fields")?)?,
        },
        "stop" => BuilderMessage::Stop { id: number("id")? },
        "result" => BuilderMessage::Result {
            id: number("id")?,
            kind: number("type")?,
            fields: fields(message.get("fields")?)?,
        },
        _ => BuilderMessage::Ignored,
    })
}

fn fields(value: &Value) -> Option<Vec<MessageField>> {
    let field = |value: &Value| match value {
        Value::Number(number) => number.as_u64().map(MessageField::Number),
        Value::String(text) => Some(MessageField::Text(text.clone())),
        _ => None,
    };
    value.as_array()?.iter().map(field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_builder_says_to_nix_is_told_from_lines_of_its_log() {
        let phase = BuilderMessage::Phase("buildPhase".into());
        for (line, message) in [
            (
                r#"@nix {"action":"setPhase","phase":"buildPhase"}"#,
                Some(phase),
            ),
            (
                r#"@nix {"action":"msg","level":1,"msg":"careful"}"#,
                Some(BuilderMessage::Text {
                    level: 1,
                    text: "careful".into(),
                }),
            ),
            (
                r#"@nix {"action":"start","id":3,"level":4,"type":101,"text":"x","fields":["url"]}"#,
                Some(BuilderMessage::Start {
                    id: 3,
                    level: 4,
                    text: "x".into(),
                    fields: vec![MessageField::Text("url".into())],
                }),
            ),
            (
                r#"@nix {"action":"result","id":3,"type":105,"fields":[1,2]}"#,
                Some(BuilderMessage::Result {
                    id: 3,
                    kind: 105,
                    fields: vec![MessageField::Number(1), MessageField::Number(2)],
                }),
            ),
            (
                r#"@nix {"action":"stop","id":3}"#,
                Some(BuilderMessage::Stop { id: 3 }),
            ),
            // That it builds something is not for a builder to say.
            (
                r#"@nix {"action":"start","id":3,"level":0,"type":105,"text":"x","fields":[]}"#,
                Some(BuilderMessage::Ignored),
            ),
            (r#"@nix {"action":"dance"}"#, Some(BuilderMessage::Ignored)),
            (r#"@nix {"action":"setPhase"}"#, None),
            (
                r#"@nix {"action":"result","id":3,"type":105,"fields":[[]]}"#,
                None,
            ),
            ("@nix {", None),
            ("@nix", None),
            (r#" @nix {"action":"stop","id":3}"#, None),
        ] {
            assert_eq!(parse(line.as_bytes()), message, "{line}");
        }
    }
}
