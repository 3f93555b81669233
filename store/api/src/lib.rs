//! What a store can be asked for, whoever answers: a local store, a restricted
//! view of one, or a client of a daemon.
//!
//! The trait is what a server of the worker protocol needs. All calls block;
//! no call holds a lock that outlives it, except temporary roots.

mod build;
mod error;
mod inside;
mod maintenance;
mod settings;
mod store;

pub use build::{
    BuildMode, BuildObserver, BuildProgress, BuildResult, BuildStatus, BuilderMessage,
    KeyedBuildResult, MessageField, Silent, UnknownNumber,
};
pub use error::{BoxError, StoreError};
pub use inside::BuildStore;
pub use maintenance::{GcAction, GcRequest, GcResult, MessageLevel, Roots, Tell, VerifyRequest};
pub use settings::ClientSettings;
pub use store::{Missing, Store};
