//! Real C sources out of crates that ship them.
//!
//! `cargo` fetches and verifies them, from whatever registry or mirror the
//! machine's cargo is set up for, and from cargo's own cache without any
//! network when the crate is there already.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::SourceError;
use crate::error::{CommandError, run};

/// The directory of a crate's sources, fetched if `cache_dir` has them not.
///
/// It is `cache_dir/<name>-<version>`; it appears whole or not at all, and
/// nobody should write to it. The version is exact, without build metadata.
pub fn fetch_crate(name: &str, version: &str, cache_dir: &Path) -> Result<PathBuf, SourceError> {
    let plain = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    if !plain(name) || !plain(version) {
        return Err(SourceError::Name {
            name: name.into(),
            version: version.into(),
        });
    }
    let dir = cache_dir.join(format!("{name}-{version}"));
    if dir.is_dir() {
        return Ok(dir);
    }
    fs::create_dir_all(cache_dir).map_err(io_error("create", cache_dir))?;
    let scratch = tempfile::tempdir_in(cache_dir).map_err(io_error("write to", cache_dir))?;
    let project = scratch.path();
    for (file, content) in [
        ("Cargo.toml", manifest(name, version)),
        ("lib.rs", String::new()),
    ] {
        let path = project.join(file);
        fs::write(&path, content).map_err(io_error("write", &path))?;
    }
    let cargo = |error| SourceError::Cargo {
        name: name.into(),
        version: version.into(),
        source: error,
    };
    match vendor(project, true) {
        Err(CommandError::Failed { .. }) => vendor(project, false).map_err(cargo)?,
        result => result.map_err(cargo)?,
    }
    let vendored = project.join("vendor").join(name);
    match fs::rename(&vendored, &dir) {
        // Somebody else was faster.
        Err(_) if dir.is_dir() => Ok(dir),
        result => result.map(|()| dir).map_err(io_error("rename", &vendored)),
    }
}

/// A project that needs nothing but this one crate.
fn manifest(name: &str, version: &str) -> String {
    format!(
        "[package]\nname = \"sources\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
         [lib]\npath = \"lib.rs\"\n[workspace]\n[dependencies]\n{name} = \"={version}\"\n"
    )
}

fn vendor(project: &Path, offline: bool) -> Result<(), CommandError> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["vendor", "--quiet"]);
    if offline {
        command.arg("--offline");
    }
    run(command.arg("vendor").current_dir(project)).map(drop)
}

pub(crate) fn io_error<'a>(
    operation: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> SourceError + 'a {
    move |source| SourceError::Io {
        operation,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_cache_is_not_fetched_again() {
        let cache = tempfile::tempdir().unwrap();
        let dir = cache.path().join("no-such-crate-1.0.0");
        fs::create_dir(&dir).unwrap();
        assert_eq!(
            fetch_crate("no-such-crate", "1.0.0", cache.path()).unwrap(),
            dir
        );
    }

    #[test]
    fn a_name_that_is_a_path_is_refused() {
        let cache = tempfile::tempdir().unwrap();
        for (name, version) in [("../x", "1.0.0"), ("x", "1\""), ("", "1.0.0")] {
            let result = fetch_crate(name, version, cache.path());
            assert!(matches!(result, Err(SourceError::Name { .. })), "{name}");
        }
    }
}
