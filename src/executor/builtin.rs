//! Builders that are no programs of the derivation's own: `builtin:buildenv` and the like.
//!
//! What does their work is a program that Droste carries in itself. It runs in the sandbox in
//! which any other builder of that derivation would run, as the same user, with the same
//! limits, log and treatment of outputs ([adr/0013](../../docs/adr/0013-builtin-builders.md)).
//!
//! ```text
//! /.droste/builtins     the program, read-only
//! /.droste/derivation   the derivation, resolved
//! ```

use std::path::Path;

use bstr::BString;
use droste_sandbox::{Mount, Node, Request};
use store_types::{Derivation, StorePath};

use crate::Executor;
use crate::build_dir::BuildDir;
use crate::error::{BuildError, environment};
use crate::programs::write_program;

/// What the name of such a builder begins with.
const PREFIX: &[u8] = b"builtin:";

/// Where the sandbox has the program.
const PROGRAM: &str = "/.droste/builtins";

/// Where the sandbox has the derivation.
const DERIVATION: &str = "/.droste/derivation";

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
        dir: &BuildDir,
    ) -> Result<(), BuildError> {
        let program = dir.own().join("builtins");
        write_program(&program, self.embedded.builtins)
            .map_err(environment(text, "write the builtin builders"))?;
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
        Ok(())
    }
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
