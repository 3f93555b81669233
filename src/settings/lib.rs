//! `nix.conf`: Nix's settings, where they are read, and what their values mean.
//!
//! [`Config`] knows every setting of Nix 2.8, 2.26 and 2.34 ([`KNOWN`]), by name and alias,
//! with the value it has now and where that comes from. [`load`] reads the files and
//! variables that Nix reads, in Nix's order. What a setting does to a build is not known
//! here: values go out by name and kind.
//!
//! Files are read by a function that the caller gives; everything else is pure.
//!
//! Source: the manual's page on `nix.conf`; nix `src/libutil/configuration.cc`,
//! `src/libstore/globals.cc`.

mod accounts;
mod config;
mod file;
mod known;
mod sources;
mod value;

pub use accounts::{Accounts, Group, User};
pub use config::{Assigned, Config, ConfigError, Origin};
pub use file::{Assignment, Content, FILE_LEN_MAX, FileError, INCLUDES_MAX, parse};
pub use known::{Default, KNOWN, Kind, Known, experimental_features, find};
pub use sources::{Environment, load, read_file};
pub use value::{SandboxPath, Value, ValueError};
