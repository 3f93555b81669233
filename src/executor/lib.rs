//! Plans and runs derivations, and the children that their compiler calls become.
//!
//! One [`Executor`] serves one store. [`Executor::build`] walks the graph of
//! derivations ([`state`], pure; `dispatcher`, its threads) and realises each in a
//! sandbox (`unit`, `attempt`, `outputs`). While a builder runs, its shims ask for children
//! over a socket ([`child`]), and, where it requires `recursive-nix`, any Nix client
//! asks for builds over another (`restricted`).
//!
//! What an executor needs of its process: a [`Spawner`](droste_sandbox::Spawner), started while
//! there is one thread; the programs of [`Embedded`], without which it can build, but make no
//! children and run no builtin builders; and somebody who [serves](ServeStore) recursive builds. How
//! it builds is in [`Settings`], who is told in a [`Monitor`]. What fails is part of a
//! [`UnitOutcome`]; an `Err` means that it could not be found out.
//!
//! Beside building, an executor answers clients ([`Executor::build_for_client`]), says what a build
//! would do ([`Executor::missing`]), serves compiler calls of this machine
//! ([`Executor::open_host_shims`]) and repairs what a verification has found broken
//! ([`Executor::repair`]).
//!
//! # Example
//!
//! Builds a derivation of a store, without children.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use droste_executor::{Embedded, Executor, Settings, Unmonitored};
//! use droste_sandbox::Spawner;
//! use store_api::BuildMode;
//! use store_local::LocalStore;
//! use store_types::{DerivedPath, OutputsSpec, StoreDir};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let spawner = Spawner::start()?;
//!     let store = LocalStore::open("/tmp/root".as_ref(), StoreDir::default())?;
//!     let settings = Settings {
//!         memo: false,
//!         ..Settings::new("/tmp/droste".into())
//!     };
//!     let embedded = Embedded {
//!         shim_cc: &[],
//!         shim_nix: &[],
//!         runner: &[],
//!         builtins: &[],
//!     };
//!     let executor = Executor::open(
//!         Arc::new(store),
//!         settings,
//!         spawner,
//!         embedded,
//!         Box::new(|_socket, _store| Err(std::io::ErrorKind::Unsupported.into())),
//!     )?;
//!     let drv = "/nix/store/0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-hello.drv";
//!     let wanted = DerivedPath::Built {
//!         drv: executor.store_dir().parse(drv)?.into(),
//!         outputs: OutputsSpec::All,
//!     };
//!     for outcome in executor.build(&[wanted], BuildMode::Normal, &Unmonitored)? {
//!         for (name, path) in &outcome.outputs {
//!             println!("{name}: {}", executor.store().physical_path(path).display());
//!         }
//!         if let Some(error) = &outcome.error {
//!             eprintln!("{}", error.chain());
//!         }
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # Invariants
//!
//! 1. Nothing that a build says is believed: every input of a child is read and
//!    hashed here, and every child is run here from just those inputs.
//! 2. A path is registered only when it is complete under its final name.
//! 3. What is not understood runs in place, and is counted with its reason.

mod attempt;
mod auto_gc;
mod build_dir;
mod builder_env;
mod builtin;
pub mod child;
mod context;
mod dispatcher;
mod error;
mod executor;
mod external;
mod graphs;
mod hooks;
mod interpose;
mod jobs;
mod log;
mod log_message;
mod nix_settings;
mod output_checks;
mod outputs;
mod programs;
mod repair;
mod restricted;
mod seen;
mod settings;
pub mod state;
pub mod statistics;
mod submitted;
mod tokens;
mod unit;
mod users;
mod workplace;

pub use builder_env::BuilderStart;
pub use child::service::Shims;
pub use context::ChildCounts;
pub use droste_sandbox::Exit;
pub use error::{BuildError, chain};
pub use executor::{Embedded, Executor, OpenError, ServeStore, droste_state_dir};
pub use external::{ExternalBuild, TakeOutput};
pub use repair::{RepairError, RepairReport};
pub use settings::{Downloads, SandboxMode, SandboxPath, SettingError, Settings, THIS_SYSTEM};
pub use unit::UnitOutcome;
pub use users::BuildUsers;

use std::collections::BTreeSet;

use store_api::{BuildMode, BuildProgress, BuilderMessage, StoreError};
use store_types::StorePath;

/// Who is told nothing, and waits until the end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unmonitored;

impl Monitor for Unmonitored {
    fn started(&self, _drv: &StorePath, _mode: BuildMode) {}
    fn log_line(&self, _drv: &StorePath, _line: &[u8]) {}
    fn post_build_line(&self, _drv: &StorePath, _line: &[u8]) {}
    fn finished(&self, _outcome: &UnitOutcome) {}
    fn note(&self, _text: &str) {}
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Who is told what happens during builds, from any thread.
pub trait Monitor: Sync {
    /// A builder starts, in this mode.
    fn started(&self, drv: &StorePath, mode: BuildMode);

    /// A derivation is built as another: with the outputs of its input derivations in their place.
    fn resolved(&self, _drv: &StorePath, _resolved: &StorePath) {}

    /// A builder wrote a line to its log; the line's end is not part of it.
    fn log_line(&self, drv: &StorePath, line: &[u8]);

    /// A builder wrote a line to its log that is none, but a message of this meaning.
    fn builder_message(&self, _drv: &StorePath, _message: &BuilderMessage, _line: &[u8]) {}

    /// How far all that was asked for is.
    fn progress(&self, _progress: BuildProgress) {}

    /// A derivation has failed that was not asked for, but is needed for what was.
    fn dependency_failed(&self, _outcome: &UnitOutcome) {}

    /// Outputs are valid, and the `post-build-hook` is about to be told: whoever keeps them in another
    /// store has them there first.
    ///
    /// # Errors
    /// If they cannot be had there; that fails the build.
    fn outputs_made(&self, _outputs: &BTreeSet<StorePath>) -> Result<(), StoreError> {
        Ok(())
    }

    /// The `post-build-hook` wrote a line; the line's end is not part of it.
    fn post_build_line(&self, drv: &StorePath, line: &[u8]);

    /// A derivation that was to be realised is, or has failed.
    fn finished(&self, outcome: &UnitOutcome);

    /// Something worth a line to the user.
    fn note(&self, text: &str);

    /// What the one who waits wants instead of the executor's own settings: `None` for nothing.
    fn settings(&self) -> Option<&Settings> {
        None
    }

    /// Whether nobody waits any more, so that builders are to be killed.
    fn is_cancelled(&self) -> bool;
}
