//! Who users and groups are, by `/etc/passwd` and `/etc/group` and nothing else.
//!
//! Nix asks the C library, and so whatever `/etc/nsswitch.conf` names: a directory over the
//! network, `systemd`. That runs code of others in the daemon, can hang, and can differ from one
//! connection to the next. Users and groups that decide about trust are read from the two files
//! here; somebody who is not in them is known by number, as in Nix.
//!
//! Source: passwd(5), group(5).

use std::io;
use std::path::Path;

use crate::file::Content;
use crate::sources::read_file;

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The number.
    pub uid: u32,
    /// The number of the primary group.
    pub gid: u32,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The name.
    pub name: String,
    /// The number.
    pub gid: u32,
    /// The names of the users that have it as a further group.
    pub members: Vec<String>,
}

/// All users and groups of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    users: Vec<User>,
    groups: Vec<Group>,
}

impl Accounts {
    /// Those of this machine. A file that is not there has none.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn read() -> io::Result<Self> {
        let read = |path: &str| match read_file(Path::new(path)) {
            Content::Bytes(bytes) => Ok(bytes),
            Content::Missing => Ok(Vec::new()),
            Content::Unreadable(error) => Err(error),
        };
        Ok(Self::parse(&read("/etc/passwd")?, &read("/etc/group")?))
    }

    /// Those of two files' texts. Lines that are none are passed over.
    pub fn parse(passwd: &[u8], group: &[u8]) -> Self {
        let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
        let lines = |bytes: &[u8]| -> Vec<Vec<String>> {
            bytes
                .split(|byte| *byte == b'\n')
                .filter_map(|line| str::from_utf8(line).ok())
                .filter(|line| !line.starts_with(['#', '+', '-']))
                .map(fields)
                .collect()
        };
        let user = |line: Vec<String>| {
            let [name, _, uid, gid, ..] = &line[..] else {
                return None;
            };
            Some(User {
                name: Some(name.clone()).filter(|name| !name.is_empty())?,
                uid: number(uid)?,
                gid: number(gid)?,
            })
        };
        let group_of = |line: Vec<String>| {
            let [name, _, gid, members] = &line[..] else {
                return None;
            };
            Some(Group {
                name: Some(name.clone()).filter(|name| !name.is_empty())?,
                gid: number(gid)?,
                members: members
                    .split(',')
                    .map(str::trim)
                    .filter(|member| !member.is_empty())
                    .map(str::to_owned)
                    .collect(),
            })
        };
        Self {
            users: lines(passwd).into_iter().filter_map(user).collect(),
            groups: lines(group).into_iter().filter_map(group_of).collect(),
        }
    }

    /// The first user of this name.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.iter().find(|user| user.name == name)
    }

    /// The first group of this name.
    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.name == name)
    }

    /// The name of a user, or the number of one without.
    pub fn user_name(&self, uid: u32) -> String {
        let found = self.users.iter().find(|user| user.uid == uid);
        found.map_or_else(|| uid.to_string(), |user| user.name.clone())
    }

    /// The name of a group, or the number of one without.
    pub fn group_name(&self, gid: u32) -> String {
        let found = self.groups.iter().find(|group| group.gid == gid);
        found.map_or_else(|| gid.to_string(), |group| group.name.clone())
    }

    /// Whether a process of this user and primary group is meant by a list such as
    /// `trusted-users`: by the user's name, by `@` and a group's name, or by `*`.
    pub fn is_listed(&self, uid: u32, gid: u32, list: &[String]) -> bool {
        let user = self.user_name(uid);
        let group = self.group_name(gid);
        list.iter().any(|entry| match entry.strip_prefix('@') {
            Some(name) => {
                let is_member = |group: &Group| group.members.contains(&user);
                name == group || self.group(name).is_some_and(is_member)
            }
            None => entry == "*" || *entry == user,
        })
    }
}

/// A number of digits alone.
fn number(text: &str) -> Option<u32> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    fn accounts() -> Accounts {
        Accounts::parse(
            b"root:x:0:0:root:/root:/bin/sh\n# ann:x:9:9::/:/x\nann:x:1000:100:,,,:/home/ann:/bin/sh\nbob:x:1001:1001::/:/x\nbroken\nx:x:-1:+1::/:/x\n",
            b"root:x:0:\nusers:x:100:\nwheel:x:10:ann, bob\nbob:x:1001:\nstar:x:11:*\n",
        )
    }

    #[rstest]
    #[case::by_name(1000, 100, "ann", true)]
    #[case::by_another_name(1000, 100, "bob", false)]
    #[case::by_primary_group(1000, 100, "@users", true)]
    #[case::by_further_group(1001, 1001, "@wheel", true)]
    #[case::by_another_group(1001, 1001, "@users", false)]
    #[case::by_a_group_that_is_not_there(1000, 100, "@no", false)]
    #[case::everybody(4242, 4242, "*", true)]
    #[case::by_number_without_an_account(4242, 4242, "4242", true)]
    #[case::by_number_with_an_account(1000, 100, "1000", false)]
    #[case::group_by_number_without_an_account(1000, 4242, "@4242", true)]
    #[case::group_name_without_at(1000, 100, "wheel", false)]
    #[case::user_name_with_at(1000, 100, "@ann", false)]
    #[case::nobody(0, 0, "", false)]
    #[case::a_member_called_star(1000, 100, "@star", false)]
    fn a_list_means_users_and_groups(
        #[case] uid: u32,
        #[case] gid: u32,
        #[case] entry: &str,
        #[case] want: bool,
    ) {
        assert_eq!(accounts().is_listed(uid, gid, &[entry.to_owned()]), want);
        assert!(!accounts().is_listed(uid, gid, &[]));
    }

    #[test]
    fn comments_and_broken_lines_are_nobody() {
        let accounts = accounts();
        assert_eq!(accounts.user_name(9), "9");
        assert_eq!(accounts.user("x"), None);
        assert_eq!(accounts.users.len(), 3);
    }

    proptest! {
        #[test]
        fn no_text_is_worth_a_panic(passwd: Vec<u8>, group: Vec<u8>, uid: u32, entry: String) {
            Accounts::parse(&passwd, &group).is_listed(uid, uid, &[entry]);
        }
    }
}
