//! Plans and runs derivations, and the children that their compiler calls become.
//!
//! One [`Executor`] serves one store. [`Executor::build`] walks the graph of
//! derivations ([`state`], pure; `dispatcher`, its threads) and realises each in a
//! sandbox (`unit`, `attempt`, `outputs`). While a builder runs, its shims ask for children
//! over a socket ([`child`]), and, where it requires `recursive-nix`, any Nix client
//! asks for builds over another (`restricted`).
//!
//! # Invariants
//!
//! 1. Nothing that a build says is believed: every input of a child is read and
//!    hashed here, and every child is run here from just those inputs.
//! 2. A path is registered only when it is complete under its final name.
//! 3. What is not understood runs in place, and is counted with its reason.

mod attempt;
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
mod nix_settings;
mod output_checks;
mod outputs;
mod programs;
mod restricted;
mod settings;
pub mod state;
pub mod statistics;
mod submitted;
mod tokens;
mod unit;
mod users;

pub use builder_env::BuilderStart;
pub use child::service::Shims;
pub use context::ChildCounts;
pub use droste_sandbox::Exit;
pub use error::BuildError;
pub use executor::{Embedded, Executor, OpenError, ServeStore};
pub use external::{ExternalBuild, TakeOutput};
pub use settings::{Downloads, SandboxMode, SandboxPath, SettingError, Settings, THIS_SYSTEM};
pub use unit::UnitOutcome;
pub use users::BuildUsers;

use store_types::StorePath;

/// Who is told what happens during builds, from any thread.
pub trait Monitor: Sync {
    /// A builder starts.
    fn started(&self, drv: &StorePath);

    /// A builder wrote a line to its log; the line's end is not part of it.
    fn log_line(&self, drv: &StorePath, line: &[u8]);

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
