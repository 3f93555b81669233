//! What becomes of one compiler call.

use std::borrow::Cow;
use std::fmt;

/// Why a call runs in place, exactly as without Droste: a short stable name in
/// kebab case, by which it is counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InPlace(Cow<'static, str>);

impl InPlace {
    /// A reason known at compile time.
    pub const fn new(reason: &'static str) -> Self {
        Self(Cow::Borrowed(reason))
    }

    /// A reason that carries a detail, such as a flag.
    pub fn with_detail(reason: &str, detail: impl fmt::Display) -> Self {
        Self(Cow::Owned(format!("{reason}:{detail}")))
    }

    /// A reason by the name it had before.
    pub fn named(name: String) -> Self {
        Self(Cow::Owned(name))
    }

    /// The name without a detail.
    pub fn name(&self) -> &str {
        self.0.split_once(':').map_or(&self.0, |(name, _)| name)
    }

    /// The reason's name, and its detail.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A file that a child left, relative to its output's `files/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildFile {
    /// The absolute path at which the call left it, without the leading slash.
    pub path: Vec<u8>,
    /// Whether its owner may execute it.
    pub executable: bool,
    /// Its length in bytes.
    pub len: u64,
}

/// What a child's output says about the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildResult {
    /// The exit status; `None` if the call cannot be replayed (it was killed, it
    /// changed its inputs, it left something other than files).
    pub status: Option<u8>,
    /// Bytes on standard output.
    pub stdout_len: u64,
    /// Bytes on standard error.
    pub stderr_len: u64,
    /// The files it left.
    pub files: Vec<ChildFile>,
}

impl ChildResult {
    /// Whether all went well, and nothing was said about it.
    pub fn is_silent(&self) -> bool {
        self.status == Some(0) && self.stdout_len == 0 && self.stderr_len == 0
    }
}
