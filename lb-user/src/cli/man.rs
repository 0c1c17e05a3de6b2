//! `fulcrum man`: the command line as manual pages.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;

use super::{CommandLine, output};

/// Flags of `man`.
#[derive(Args, Debug)]
pub(super) struct ManArgs {
    /// Where to write them; made if it is not there. Without it, the page of the whole goes to standard output
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn man(args: &ManArgs) -> anyhow::Result<ExitCode> {
    let pages = pages()?;
    let Some(dir) = &args.dir else {
        let whole = pages.first().map(|(_, text)| text.as_str());
        output::print(whole.unwrap_or_default())?;
        return Ok(ExitCode::SUCCESS);
    };
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for (name, text) in pages {
        let path = dir.join(&name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// File names and texts: the whole command first, then one per verb.
fn pages() -> anyhow::Result<Vec<(String, String)>> {
    let mut command = CommandLine::command().disable_help_subcommand(true);
    // Gives every verb its full name, and the flags that all have.
    command.build();
    let verbs: Vec<Command> = command.get_subcommands().cloned().collect();
    std::iter::once(command).chain(verbs).map(page).collect()
}

fn page(command: Command) -> anyhow::Result<(String, String)> {
    let man = Man::new(command);
    let mut text = Vec::new();
    man.render(&mut text)?;
    Ok((man.get_filename(), String::from_utf8(text)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page_with_its_flags() {
        let pages = pages().expect("pages");
        let command = CommandLine::command();
        assert_eq!(pages.len(), 1 + command.get_subcommands().count());
        for verb in command.get_subcommands() {
            let file = format!("fulcrum-{}.1", verb.get_name());
            let page = pages.iter().find(|(name, _)| *name == file);
            let (_, text) = page.unwrap_or_else(|| panic!("no {file}"));
            let about = verb.get_about().expect("a help text").to_string();
            let first_word = about.split(' ').next().unwrap_or_default();
            assert!(text.contains(first_word), "{file}: {first_word}");
            for flag in verb.get_arguments().filter_map(clap::Arg::get_long) {
                let flag = format!("\\-\\-{}", flag.replace('-', "\\-"));
                assert!(text.contains(&flag), "{file}: {flag}");
            }
            assert!(
                text.contains("\\-\\-run\\-dir"),
                "{file}: the flags that all have"
            );
        }
    }

    #[test]
    fn pages_are_written_into_a_directory_that_is_made() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let target = dir.path().join("man/man1");
        man(&ManArgs {
            dir: Some(target.clone()),
        })
        .expect("writable");
        let page = fs::read_to_string(target.join("fulcrum-get.1")).expect("the page of a verb");
        assert!(page.starts_with(".ie") || page.contains(".TH"), "{page}");
    }
}
