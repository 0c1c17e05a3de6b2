//! `fulcrum` of a release to come, whose flow slots are laid out otherwise: for the tests of an upgrade.

use std::process::ExitCode;

fn main() -> ExitCode {
    lb_user::cli::main()
}
