//! One builder's run for a Nix that has planned it, laid out its files, and takes the outputs
//! itself: what its `external-builders` are for.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use bstr::BString;
use droste_sandbox::Exit;
use store_api::{BoxError, BuildMode, BuildResult, BuildStatus};
use store_local::Canonicaliser;
use store_types::{Derivation, DerivationKind, DerivationOutput, Hash, HashAlgorithm, StorePath};

use crate::attempt::Attempt;
use crate::builder_env::BuilderStart;
use crate::error::{BuildError, environment};
use crate::unit::{Asked, Tally};
use crate::{ChildCounts, Executor, Monitor};

/// A builder that another Nix wants to be run.
#[derive(Debug)]
pub struct ExternalBuild {
    /// The program.
    pub builder: BString,
    /// What it runs on.
    pub system: String,
    /// Its environment, its arguments after `argv[0]`, and the files of the build directory.
    pub start: BuilderStart,
    /// All that it may read; valid paths.
    pub inputs: BTreeSet<StorePath>,
    /// Where it is to put each output.
    pub outputs: BTreeMap<String, StorePath>,
    /// Whether the output's content is known beforehand: then the builder may use the network.
    pub is_fixed: bool,
}

/// Takes an output, named, which is the entry of that name in a directory.
pub type TakeOutput<'a> = dyn FnMut(&str, BorrowedFd<'_>, &OsStr) -> Result<(), BoxError> + 'a;

impl Executor {
    /// Runs the builder in a sandbox, with shims as any other. Its outputs, if it succeeds, are
    /// handed to `take`, canonical, and then removed: none is registered. How the builder has
    /// ended is returned.
    ///
    /// # Errors
    /// Why there was no run, or none to its end; an output that is missing, or `take`'s own.
    pub fn build_external(
        self: &Arc<Self>,
        build: &ExternalBuild,
        monitor: &dyn Monitor,
        take: &mut TakeOutput<'_>,
    ) -> Result<Exit, BuildError> {
        let (name, path) = self.name_external(build)?;
        let drv = Derivation {
            outputs: build
                .outputs
                .iter()
                .map(|(name, path)| (name.clone(), DerivationOutput::InputAddressed(path.clone())))
                .collect(),
            input_srcs: build.inputs.clone(),
            input_drvs: BTreeMap::new(),
            system: build.system.clone().into(),
            builder: build.builder.clone(),
            args: build.start.args.clone(),
            env: build.start.env.clone(),
        };
        let kind = match build.is_fixed {
            true => DerivationKind::Fixed,
            false => DerivationKind::InputAddressed,
        };
        let text = self.store_dir().display(&path);
        let asked = Asked::new(self.jobs.share(self.settings_for(monitor).max_jobs));
        let mode = BuildMode::Normal;
        let attempt = Attempt::new(self, &path, &name, &drv, kind, mode, (&asked, monitor))?
            .started_with(&build.start);
        attempt.check_buildable()?;
        if attempt.has_socket() {
            // Its socket would have to be the other Nix's.
            return Err(BuildError::Rejected {
                drv: text,
                why: "an external build has no socket to ask for builds".into(),
            });
        }
        let mut tally = Tally {
            result: BuildResult::new(BuildStatus::Built, ""),
            children: ChildCounts::default(),
            started: None,
        };
        attempt.run_builder(&BTreeSet::new(), &mut tally, |run, ran, _| {
            run.check_ended(ran)?;
            if !ran.status.success() {
                return Ok(ran.status.exit);
            }
            let made = run.open_made()?;
            let uid = run.setting.user.uid;
            let mut canonicaliser = Canonicaliser::new(Some(uid..=uid));
            let bad = |output: &str, source: BoxError| BuildError::BadOutput {
                drv: text.clone(),
                output: output.to_owned(),
                log: ran.log.for_error(),
                source,
            };
            let mut there = Vec::new();
            for (output, path) in &build.outputs {
                let name = OsStr::new(path.base_name());
                // What is missing is for the other Nix to tell.
                if store_nar::fs::stat_if_exists(made.as_fd(), name)
                    .map_err(environment(&text, "examine the outputs"))?
                    .is_some()
                {
                    canonicaliser
                        .tree(made.as_fd(), name)
                        .map_err(|source| bad(output, source.into()))?;
                    there.push((output, name));
                }
            }
            for (output, name) in there {
                take(output, made.as_fd(), name)
                    .map_err(environment(&text, "hand over the outputs"))?;
            }
            Ok(ran.status.exit)
        })
    }

    /// A derivation's name and path, for messages: the true ones are not told.
    fn name_external(&self, build: &ExternalBuild) -> Result<(String, StorePath), BuildError> {
        let malformed = |source: BoxError| BuildError::Malformed {
            drv: "an external build".to_owned(),
            source,
        };
        let Some((output, path)) = build
            .outputs
            .get_key_value("out")
            .or_else(|| build.outputs.first_key_value())
        else {
            return Err(malformed("it has no outputs".into()));
        };
        let name = match output.as_str() {
            "out" => path.name(),
            output => path
                .name()
                .strip_suffix(output)
                .and_then(|name| name.strip_suffix('-'))
                .unwrap_or(path.name()),
        };
        let zero = Hash::new(HashAlgorithm::Sha256, &[0; 32]).expect("a SHA-256 has 32 bytes");
        let made = self
            .store_dir()
            .make_path(
                &format!("external:{}", path.base_name()),
                &zero,
                &format!("{name}.drv"),
            )
            .map_err(|source| malformed(source.into()))?;
        Ok((name.to_owned(), made))
    }
}
