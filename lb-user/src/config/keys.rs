//! Flags as they are written, on the command line or in the configuration file, by key.
//!
//! Nothing here knows a flag by name: what keys there are, and what each takes, is what clap knows of the command. So a
//! new flag is a new key.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
};

use clap::{Arg, ArgAction, ArgMatches, Command, parser::ValueSource};

/// What a flag without value has for one.
const YES: &str = "true";
const NO: &str = "false";
/// What stands for a value that nobody has given, and that has no default one.
const UNSET: &str = "(default)";

/// What is given, by key: the long name of a flag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys(BTreeMap<String, Vec<OsString>>);

/// A key whose value is another one now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// The key.
    pub key: String,
    /// Its value so far; the default one where none was given.
    pub old: String,
    /// Its value now.
    pub new: String,
}

impl Keys {
    /// What stands on the command line itself.
    pub fn given(command: &Command, matches: &ArgMatches) -> Self {
        let mut keys = Self::default();
        for (key, arg) in keyed(command) {
            let id = arg.get_id().as_str();
            if matches.value_source(id) == Some(ValueSource::CommandLine) {
                let values = matches.get_raw(id).into_iter().flatten();
                keys.insert(key, values.map(OsStr::to_owned).collect());
            }
        }
        keys
    }

    /// Sets the values of a key. A list without any is as good as no key.
    pub fn insert(&mut self, key: &str, values: Vec<OsString>) {
        if !values.is_empty() {
            self.0.insert(key.to_owned(), values);
        }
    }

    /// These keys, and of the others those that are not among them.
    #[must_use]
    pub fn or(mut self, others: Self) -> Self {
        for (key, values) in others.0 {
            self.0.entry(key).or_insert(values);
        }
        self
    }

    /// These keys, but those of `taken` as they are in `others`.
    #[must_use]
    pub fn with(&self, taken: &[&str], others: &Self) -> Self {
        let is_taken = |key: &String| taken.contains(&key.as_str());
        let own = self.0.iter().filter(|(key, _)| !is_taken(key));
        let theirs = others.0.iter().filter(|(key, _)| is_taken(key));
        let both = own.chain(theirs);
        Self(
            both.map(|(key, values)| (key.clone(), values.clone()))
                .collect(),
        )
    }

    /// The same as a command line has it, without the command's name.
    pub fn arguments(&self, command: &Command) -> Vec<OsString> {
        keyed(command)
            .filter_map(|(key, arg)| Some(arguments(arg, key, self.0.get(key)?)))
            .flatten()
            .collect()
    }

    /// What differs, in the order of the command's flags.
    pub fn changes(&self, command: &Command, new: &Self) -> Vec<KeyChange> {
        keyed(command)
            .map(|(key, arg)| KeyChange {
                key: key.to_owned(),
                old: self.value(key, arg),
                new: new.value(key, arg),
            })
            .filter(|change| change.old != change.new)
            .collect()
    }

    /// The value of a key, or what holds without it, in one line.
    fn value(&self, key: &str, arg: &Arg) -> String {
        if let Some(values) = self.0.get(key) {
            return joined(values.iter().map(OsString::as_os_str));
        }
        if !takes_value(arg) {
            return NO.to_owned();
        }
        match arg.get_default_values() {
            [] => UNSET.to_owned(),
            defaults => joined(defaults.iter().map(|value| &**value)),
        }
    }
}

/// The command's flags that have a long name.
pub(super) fn keyed(command: &Command) -> impl Iterator<Item = (&str, &Arg)> {
    let arguments = command.get_arguments();
    arguments.filter_map(|arg| Some((arg.get_long()?, arg)))
}

/// Whether a flag takes a value; else it is there or not.
pub(super) fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

/// Whether a flag may be repeated.
pub(super) fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

/// One flag with its values, as a command line has it.
pub(super) fn arguments(arg: &Arg, key: &str, values: &[OsString]) -> Vec<OsString> {
    if !takes_value(arg) {
        let is_there = values.iter().any(|value| value == YES);
        let flag = is_there.then(|| format!("--{key}").into());
        return flag.into_iter().collect();
    }
    let spelled = |value: &OsString| {
        let mut argument = OsString::from(format!("--{key}="));
        argument.push(value);
        argument
    };
    values.iter().map(spelled).collect()
}

fn joined<'a>(values: impl Iterator<Item = &'a OsStr>) -> String {
    let values: Vec<_> = values.map(OsStr::to_string_lossy).collect();
    values.join(",")
}

#[cfg(test)]
mod tests {
    use clap::{Args, Parser};

    use super::*;
    use crate::config::Flags;

    fn command() -> Command {
        Flags::augment_args(Command::new("run"))
    }

    fn given(line: &str) -> Keys {
        let words = std::iter::once("run").chain(line.split_whitespace());
        let matches = command().try_get_matches_from(words).expect("valid flags");
        Keys::given(&command(), &matches)
    }

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    #[test]
    fn what_is_given_can_be_given_again() {
        let line = "-f - --uplink eth0,eth1 --uplink wg* --nodeport-addresses 192.0.2.0/24 2001:db8::/32 --strict \
                    --timeout-udp 10s";
        let keys = given(line);
        let again = keys.arguments(&command());
        assert_eq!(
            again,
            [
                "--manifests=-",
                "--uplink=eth0",
                "--uplink=eth1",
                "--uplink=wg*",
                "--strict",
                "--nodeport-addresses=192.0.2.0/24",
                "--nodeport-addresses=2001:db8::/32",
                "--timeout-udp=10s",
            ]
        );
        let words = std::iter::once("run".into()).chain(again);
        let line = Line::try_parse_from(words).expect("valid flags");
        assert_eq!(line.flags.uplink, ["eth0", "eth1", "wg*"]);
        assert_eq!(line.flags.services.nodeport_addresses.len(), 2);
    }

    #[test]
    fn the_first_keys_win_whole() {
        let line = given("-f a --uplink eth0");
        let file = given("-f b --uplink eth1,eth2 --zone z --probe");
        let both = line.or(file).arguments(&command());
        assert_eq!(
            both,
            ["--manifests=a", "--uplink=eth0", "--zone=z", "--probe"]
        );
    }

    #[test]
    fn a_change_says_what_was_and_what_is_and_a_default_that_is_given_is_none() {
        let old = given("-f a --uplink eth0 --mode tc --zone z");
        let new = given("-f a --uplink eth0,eth1 --probe --timeout-udp 7s");
        let changes = old.changes(&command(), &new);
        let told: Vec<String> = changes
            .into_iter()
            .map(|KeyChange { key, old, new }| format!("{key}: {old} > {new}"))
            .collect();
        assert_eq!(
            told,
            [
                "uplink: eth0 > eth0,eth1",
                "zone: z > (default)",
                "timeout-udp: 30s > 7s",
                "mode: tc > auto",
                "probe: false > true",
            ]
        );
    }
}
