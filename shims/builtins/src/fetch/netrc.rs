//! Credentials by host (netrc(5), as curl reads it).

use std::path::Path;

/// One host's, or everybody's.
#[derive(Debug, Default, PartialEq, Eq)]
struct Entry {
    /// `None` for `default`.
    machine: Option<String>,
    login: String,
    password: String,
}

/// All that is known.
#[derive(Debug, Default)]
pub struct Netrc(Vec<Entry>);

impl Netrc {
    /// From a file; nothing if there is none.
    pub fn read(path: &Path) -> Self {
        std::fs::read_to_string(path).map_or_else(|_| Self::default(), |text| Self::parse(&text))
    }

    /// What is malformed counts as far as it goes: a host with half of its credentials has none
    /// of another's.
    pub fn parse(text: &str) -> Self {
        let mut entries: Vec<Entry> = Vec::new();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let mut words = Words(line);
            while let Some(word) = words.next() {
                let mut value = || words.next().unwrap_or_default();
                match &*word {
                    "machine" => entries.push(Entry {
                        machine: Some(value().to_ascii_lowercase()),
                        ..Entry::default()
                    }),
                    "default" => entries.push(Entry::default()),
                    "login" | "password" | "account" => {
                        let value = value();
                        let Some(entry) = entries.last_mut() else {
                            continue;
                        };
                        match &*word {
                            "login" => entry.login = value,
                            "password" => entry.password = value,
                            _ => {}
                        }
                    }
                    "macdef" => {
                        // Up to an empty line.
                        lines.by_ref().find(|line| line.trim().is_empty());
                        break;
                    }
                    comment if comment.starts_with('#') => break,
                    _ => {}
                }
            }
        }
        Self(entries)
    }

    /// Login and password for a host, with this login if one is asked for.
    pub fn find(&self, host: &str, login: Option<&str>) -> Option<(&str, &str)> {
        let entry = self.0.iter().find(|entry| {
            let is_host = entry
                .machine
                .as_deref()
                .is_none_or(|machine| machine == host);
            is_host && login.is_none_or(|login| login == entry.login)
        })?;
        Some((&entry.login, &entry.password))
    }
}

/// The words of a line; with `"` around them they may have spaces.
struct Words<'a>(&'a str);

impl Iterator for Words<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let rest = self.0.trim_start();
        let Some(quoted) = rest.strip_prefix('"') else {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            let (word, rest) = rest.split_at(end);
            self.0 = rest;
            return (!word.is_empty()).then(|| word.to_owned());
        };
        let mut word = String::new();
        let mut chars = quoted.chars();
        while let Some(char) = chars.next() {
            match char {
                '"' => break,
                '\\' => match chars.next() {
                    Some('n') => word.push('\n'),
                    Some('r') => word.push('\r'),
                    Some('t') => word.push('\t'),
                    Some(other) => word.push(other),
                    None => {}
                },
                char => word.push(char),
            }
        }
        self.0 = chars.as_str();
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_entry_of_a_host_counts_and_default_is_for_those_without_one() {
        let netrc = Netrc::parse(
            "# comment machine x\n\
             machine A.example login u password p # login z\n\
             machine a.example login v password q\n\
             machine b.example\n  login \"with space\"\n  password \"\\\"quoted\\\"\"\n\
             macdef init\ncd /\nmachine evil login e password e\n\n\
             default login anonymous password me",
        );
        assert_eq!(netrc.find("a.example", None), Some(("u", "p")));
        assert_eq!(netrc.find("a.example", Some("v")), Some(("v", "q")));
        assert_eq!(
            netrc.find("b.example", None),
            Some(("with space", "\"quoted\""))
        );
        assert_eq!(netrc.find("evil", None), Some(("anonymous", "me")));
        assert_eq!(netrc.find("evil", Some("e")), None);
    }

    #[test]
    fn other_hosts_have_none() {
        let netrc = Netrc::parse("machine a login u password p");
        for host in ["aa", "b.a", "a.b", ""] {
            assert_eq!(netrc.find(host, None), None);
        }
        assert_eq!(
            Netrc::parse("login u password p machine").find("x", None),
            None
        );
    }
}
