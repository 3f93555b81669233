//! Builders that are no programs of the derivation's own: `builtin:buildenv` and the like.
//!
//! What does their work is a program that Droste carries in itself. It runs in the sandbox in
//! which any other builder of that derivation would run, as the same user, with the same
//! limits, log and treatment of outputs ([adr/0015](../../docs/adr/0015-builtin-builders.md)).
//!
//! ```text
//! /.droste/builtins            the program, read-only
//! /.droste/derivation          the derivation, resolved
//! /build/netrc                 only for `builtin:fetchurl`: the user's credentials
//! /build/ca-certificates.crt   and those who may vouch for servers
//! ```

use std::io::Read;
use std::path::{Path, PathBuf};

use bstr::BString;
use droste_sandbox::{Mount, Node, Owner, Request};
use store_types::{Derivation, StorePath};

use crate::Executor;
use crate::build_dir::BuildDir;
use crate::builder_env::BUILD_DIR;
use crate::error::{BuildError, environment};
use crate::programs::write_program;
use crate::settings::Downloads;

/// What the name of such a builder begins with.
const PREFIX: &[u8] = b"builtin:";

/// Where the sandbox has the program.
const PROGRAM: &str = "/.droste/builtins";

/// Where the sandbox has the derivation.
const DERIVATION: &str = "/.droste/derivation";

/// The longest file of credentials in bytes: tens of thousands of hosts.
const NETRC_BYTES_MAX: u64 = 1 << 20;

/// The longest file of certificates in bytes: some hundred times what the world trusts.
const SSL_CERT_BYTES_MAX: u64 = 32 << 20;

/// The name of a derivation's builtin builder, which runs on every system; `None` if its
/// builder is a program.
pub(crate) fn builtin_name(drv: &Derivation) -> Option<&[u8]> {
    drv.builder.strip_prefix(PREFIX)
}

impl Executor {
    /// Has the sandbox run a builtin builder instead of a program.
    pub(crate) fn add_builtin<'a>(
        &self,
        request: &mut Request,
        text: &str,
        (name, drv): (&[u8], &Derivation),
        outputs: impl IntoIterator<Item = (&'a String, &'a StorePath)>,
        (dir, downloads): (&BuildDir, &Downloads),
    ) -> Result<(), BuildError> {
        let write = || -> std::io::Result<PathBuf> {
            let program = dir.own()?.join("builtins");
            write_program(&program, self.embedded.builtins)?;
            Ok(program)
        };
        let program = write().map_err(environment(text, "write the builtin builders"))?;
        request.program = Path::new(PROGRAM).into();
        request.argv0 = "builtins".into();
        request.mounts.push(Mount::input(program, PROGRAM));
        let aterm = drv.to_aterm(self.store_dir());
        request.nodes.push(Node::file(DERIVATION, 0o444, aterm));
        let mut args: Vec<BString> = vec![
            name.into(),
            format!("derivation={DERIVATION}").into(),
            format!("store={}", self.store_dir()).into(),
        ];
        for (output, path) in outputs {
            let path = self.store_dir().display(path);
            args.push(format!("output.{output}={path}").into());
        }
        request.args = args;
        if name == b"fetchurl" {
            add_downloads(request, downloads);
        }
        Ok(())
    }
}

/// What a fetching builder needs of the user's. What cannot be read is not there, as in
/// Nix: then servers refuse it, or are refused.
fn add_downloads(request: &mut Request, downloads: &Downloads) {
    let mut file = |name: &str, outside: &Path, bytes_max: u64| {
        if let Ok(contents) = read_limited(outside, bytes_max) {
            request.nodes.push(Node::File {
                path: Path::new(BUILD_DIR).join(name),
                mode: 0o600,
                owner: Owner::Build,
                contents: contents.into(),
            });
        }
    };
    file("netrc", &downloads.netrc_file, NETRC_BYTES_MAX);
    if let Some(certificates) = &downloads.ssl_cert_file {
        file("ca-certificates.crt", certificates, SSL_CERT_BYTES_MAX);
    }
    let mirrors = downloads.hashed_mirrors.iter();
    request
        .args
        .extend(mirrors.map(|mirror| format!("hashed-mirror={mirror}").into()));
    for (name, number) in [
        ("connect-timeout", downloads.connect_timeout_seconds),
        (
            "stalled-download-timeout",
            downloads.stalled_download_timeout_seconds,
        ),
        ("download-attempts", downloads.download_attempts),
    ] {
        request.args.push(format!("{name}={number}").into());
    }
}

/// A whole file, if it is no longer than that.
fn read_limited(path: &Path, bytes_max: u64) -> std::io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    std::fs::File::open(path)?
        .take(bytes_max + 1)
        .read_to_end(&mut contents)?;
    if contents.len() as u64 > bytes_max {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builder_tells_and_not_the_system() {
        let drv = |system: &str, builder: &str| Derivation {
            system: system.into(),
            builder: builder.into(),
            ..Derivation::default()
        };
        assert_eq!(
            builtin_name(&drv("x86_64-linux", "builtin:x")),
            Some(&b"x"[..])
        );
        assert_eq!(builtin_name(&drv("builtin", "/bin/sh")), None);
    }
}
