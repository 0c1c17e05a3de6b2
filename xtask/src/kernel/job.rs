//! What is run in the virtual machine: test programs that cargo has built, as lines of a shell.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::run;

/// One test program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    /// The suite.
    pub(super) name: String,
    /// Where cargo would run it: the directory of its package.
    dir: PathBuf,
    /// The program.
    pub(super) program: PathBuf,
}

impl Job {
    /// Builds what a `cargo test` command would run.
    pub(super) fn build(mut test: Command) -> Result<Vec<Self>> {
        test.args(["--no-run", "--message-format=json-render-diagnostics"]);
        let context = || format!("cannot run `{}`", run::shown(&test));
        let mut command = Command::new(test.get_program());
        command.args(test.get_args());
        command.current_dir(test.get_current_dir().unwrap_or_else(|| Path::new(".")));
        command.stdout(Stdio::piped());
        let child = command.spawn().with_context(context)?;
        let output = child.wait_with_output().with_context(context)?;
        if !output.status.success() {
            bail!("`{}` failed: {}", run::shown(&test), output.status);
        }
        let messages = String::from_utf8_lossy(&output.stdout);
        Ok(messages.lines().filter_map(Self::of_message).collect())
    }

    /// The test program that a message of cargo's is about, if it is about one.
    fn of_message(line: &str) -> Option<Self> {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_test = message["profile"]["test"].as_bool()?;
        let manifest = Path::new(message["manifest_path"].as_str()?);
        let program = message["executable"].as_str().filter(|_| is_test)?;
        Some(Self {
            name: message["target"]["name"].as_str()?.to_owned(),
            dir: manifest.parent()?.to_owned(),
            program: program.into(),
        })
    }

    /// The line that runs it.
    pub(super) fn line(&self, arguments: &[String]) -> String {
        let words = [&self.dir, &self.program].map(|path| quoted(&path.to_string_lossy()));
        let mut line = format!("suite {} {}", quoted(&self.name), words.join(" "));
        for argument in arguments {
            line.push(' ');
            line.push_str(&quoted(argument));
        }
        line + "\n"
    }
}

/// A word that a shell takes as it is.
pub(super) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tests_are_run_and_where_cargo_runs_them() {
        let line = |is_test, executable| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/w/tests/Cargo.toml","target":{{"name":"agents"}},"profile":{{"test":{is_test}}},"executable":{executable}}}"#
            )
        };
        let job = Job::of_message(&line(true, r#""/w/target/agents-1""#)).unwrap();
        assert_eq!(
            job.line(&["--exact".to_owned(), "it's".to_owned()]),
            "suite 'agents' '/w/tests' '/w/target/agents-1' '--exact' 'it'\\''s'\n"
        );
        assert_eq!(
            Job::of_message(&line(false, r#""/w/target/fulcrum""#)),
            None
        );
        assert_eq!(Job::of_message(&line(true, "null")), None);
        assert_eq!(Job::of_message(r#"{"reason":"build-finished"}"#), None);
    }
}
