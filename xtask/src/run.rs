//! Commands that this program runs: cargo of the outer toolchain, and whatever setup needs.
//!
//! A command that fails is an error that shows it as it can be typed again.

use std::{env, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::workspace;

/// The cargo that runs us, in the root of the workspace.
pub(crate) fn cargo<'a>(args: impl IntoIterator<Item = &'a str>) -> Command {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(workspace::root()).args(args);
    command
}

/// Runs it to its end; anything but success is an error.
pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// The command with the variables set for it, as it is typed in a shell.
pub(crate) fn shown(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let program = program.rsplit('/').next().unwrap_or_default().to_owned();
    let variables = command.get_envs().filter_map(|(name, value)| {
        Some(format!(
            "{}={}",
            name.to_string_lossy(),
            value?.to_string_lossy()
        ))
    });
    let args = command
        .get_args()
        .map(|arg| arg.to_string_lossy().into_owned());
    let words: Vec<_> = variables.chain([program]).chain(args).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_is_shown_with_its_variables() {
        let mut command = Command::new("/bin/sh");
        command.env("ANSWER", "42").args(["-c", "exit 3"]);
        let error = succeed(&mut command).unwrap_err().to_string();
        assert_eq!(error, "`ANSWER=42 sh -c exit 3` failed: exit status: 3");
    }

    #[test]
    fn a_command_that_does_not_exist_is_named() {
        let error = succeed(&mut Command::new("/nonexistent/tool")).unwrap_err();
        assert_eq!(error.to_string(), "cannot run `tool`");
    }
}
