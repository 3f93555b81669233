//! The `droste` command.

mod cli;
mod embedded;
mod external;
mod open_store;
mod proxy_store;
mod shared_store;
mod wiring;

use std::process::ExitCode;

fn main() -> ExitCode {
    // The sandboxes' helper process is this executable, too.
    droste_sandbox::run_if_spawner();
    cli::main()
}
