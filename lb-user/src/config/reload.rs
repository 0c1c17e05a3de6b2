//! The configuration file, read again beside the same command line: what takes effect at once, and what waits.
//!
//! Some keys are facts of loaded programs or decide which tasks there are. They keep the values that the agent was
//! started with; the others are taken as they stand in the file now.

use std::path::{Path, PathBuf};

use clap::{ArgMatches, Args, Command, FromArgMatches};
use ipnet::IpNet;

use super::{
    Config, ConfigError, Flags, LocalDelivery, ServiceSettings,
    file::{self, FileError},
    keys::{KeyChange, Keys},
    log::{LogFlags, LogLevelError},
};
use crate::loader::pattern::Pattern;

/// Keys that take effect at once. What a [`Live`] has follows from them.
const LIVE: [&str; 10] = [
    "uplink",
    "pod-device",
    "pod-cidr",
    "nodeport-addresses",
    "algorithm",
    "zone",
    "service-node-port-range",
    "strict",
    "local-delivery",
    "log-level",
];

/// What can change while the agent runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// Uplinks; none given: found out from the routes.
    pub uplinks: Option<Vec<Pattern>>,
    /// Pod devices; none given: pairs that lead into other namespaces.
    pub pod_devices: Option<Vec<Pattern>>,
    /// Prefixes of pods beside those of the Node objects.
    pub pod_cidrs: Vec<IpNet>,
    /// What services are given, and where they answer.
    pub services: ServiceSettings,
    /// How pods of this node are handed packets.
    pub local_delivery: LocalDelivery,
}

impl Config {
    /// What of it can change while the agent runs.
    pub fn live(&self) -> Live {
        Live {
            uplinks: self.uplinks.clone(),
            pod_devices: self.pod_devices.clone(),
            pod_cidrs: self.pod_cidrs.clone(),
            services: self.services.clone(),
            local_delivery: self.local_delivery,
        }
    }
}

/// Why what is given cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GivenError {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The flags of the file and the command line together are none for clap.
    #[error("{0}")]
    Flags(#[from] clap::Error),
    /// A flag has a value that cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The log cannot have that level.
    #[error(transparent)]
    LogLevel(#[from] LogLevelError),
}

/// All flags of the agent.
#[derive(Args, Debug)]
pub struct AllFlags {
    #[command(flatten)]
    /// What to serve and how.
    pub flags: Flags,
    #[command(flatten)]
    /// What is logged, and how.
    pub log: LogFlags,
}

/// The command line that the agent was started with, and the file that it names.
#[derive(Debug)]
pub struct Given {
    command: Command,
    line: Keys,
    path: Option<PathBuf>,
    /// What was given at the start.
    started: Keys,
    /// What holds now: as at the start, but for the keys that take effect at once.
    running: Keys,
    /// What was told to wait for the next start.
    waiting: Vec<KeyChange>,
}

/// What the file says when it is read again.
#[derive(Debug)]
pub struct Reloaded {
    /// What holds from now on.
    pub live: Live,
    /// The least level to log from now on.
    pub log_level: String,
    /// What takes effect.
    pub changes: Vec<KeyChange>,
    /// What of it waits for the next start, and did not before.
    pub news: Vec<KeyChange>,
    /// What waited for the next start, and is again as it runs.
    pub withdrawn: Vec<KeyChange>,
}

impl Given {
    /// What was given, with the file read for the first time; and all flags.
    pub fn new(matches: &ArgMatches) -> Result<(Self, AllFlags), GivenError> {
        let command = AllFlags::augment_args(Command::new("run"));
        let line = Keys::given(&command, matches);
        let path = AllFlags::from_arg_matches(matches)?.flags.config;
        let mut given = Self {
            command,
            line,
            path,
            started: Keys::default(),
            running: Keys::default(),
            waiting: Vec::new(),
        };
        given.started = given.read()?;
        given.running = given.started.clone();
        let flags = given.flags(&given.started)?;
        Ok((given, flags))
    }

    /// The file, if there is one.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// What waits for the next start.
    pub fn waiting(&self) -> &[KeyChange] {
        &self.waiting
    }

    /// Reads the file again. With an error everything stays as it was.
    pub fn reload(&mut self) -> Result<Reloaded, GivenError> {
        let new = self.read()?;
        // All of it must be good, also what waits.
        self.check(&new)?;
        let mut running = self.started.with(&LIVE, &new);
        if self.check(&running).is_err() {
            // What is new does not go with what was there at the start: all of it waits.
            running = self.running.clone();
        }
        let (live, log_level) = self.check(&running)?;
        let changes = self.running.changes(&self.command, &running);
        let waiting = running.changes(&self.command, &new);
        let beside = |these: &[KeyChange], those: &[KeyChange]| {
            let these = these.iter().filter(|change| !those.contains(change));
            these.cloned().collect::<Vec<_>>()
        };
        let news = beside(&waiting, &self.waiting);
        let mut withdrawn = beside(&self.waiting, &waiting);
        withdrawn.retain(|old| waiting.iter().all(|change| change.key != old.key));
        self.running = running;
        self.waiting = waiting;
        Ok(Reloaded {
            live,
            log_level,
            changes,
            news,
            withdrawn,
        })
    }

    /// The keys of the command line, and of the file those that are not there.
    fn read(&self) -> Result<Keys, FileError> {
        let line = self.line.clone();
        match &self.path {
            Some(path) => Ok(line.or(file::read(path, &self.command)?)),
            None => Ok(line),
        }
    }

    fn flags(&self, keys: &Keys) -> Result<AllFlags, clap::Error> {
        let command = self.command.clone().no_binary_name(true);
        let matches = command.try_get_matches_from(keys.arguments(&self.command))?;
        AllFlags::from_arg_matches(&matches)
    }

    fn check(&self, keys: &Keys) -> Result<(Live, String), GivenError> {
        let AllFlags { flags, log } = self.flags(keys)?;
        log.check()?;
        Ok((flags.check()?.live(), log.log_level))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    /// A file with this text, and what is given with it and with further flags.
    fn given(text: &str, line: &str) -> (TempDir, Given) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("config.yaml");
        fs::write(&path, text).expect("written");
        let command = AllFlags::augment_args(Command::new("run"));
        let path = path.to_str().expect("UTF-8");
        let words = ["run", "--config", path, "--node-name", "n1"];
        let words = words.into_iter().chain(line.split_whitespace());
        let matches = command.try_get_matches_from(words).expect("valid flags");
        let (given, flags) = Given::new(&matches).expect("a valid file");
        flags.flags.check().expect("valid flags");
        (dir, given)
    }

    fn rewrite(dir: &TempDir, text: &str) {
        fs::write(dir.path().join("config.yaml"), text).expect("written");
    }

    fn keys(changes: &[KeyChange]) -> Vec<&str> {
        changes.iter().map(|change| change.key.as_str()).collect()
    }

    #[test]
    fn what_can_change_takes_effect_and_the_rest_waits() {
        let (dir, mut given) = given("manifests: a\nuplink: eth0\n", "");
        rewrite(
            &dir,
            "manifests: a\nuplink: [eth0, eth1]\ntimeout-udp: 7s\n",
        );
        let reloaded = given.reload().expect("valid");
        let uplinks = reloaded.live.uplinks.expect("named");
        assert_eq!(uplinks.len(), 2);
        let change = |key: &str, old: &str, new: &str| KeyChange {
            key: key.to_owned(),
            old: old.to_owned(),
            new: new.to_owned(),
        };
        assert_eq!(reloaded.changes, [change("uplink", "eth0", "eth0,eth1")]);
        assert_eq!(reloaded.news, [change("timeout-udp", "30s", "7s")]);
        let again = given.reload().expect("valid");
        assert_eq!((again.changes.len(), again.news.len()), (0, 0), "told once");
        assert_eq!(given.waiting(), [change("timeout-udp", "30s", "7s")]);
        rewrite(&dir, "manifests: a\nuplink: [eth0, eth1]\n");
        let back = given.reload().expect("valid");
        assert_eq!(keys(&back.withdrawn), ["timeout-udp"]);
        assert_eq!((back.news.len(), given.waiting().len()), (0, 0));
    }

    #[test]
    fn what_the_command_line_says_no_file_changes() {
        let (dir, mut given) = given("manifests: a\n", "--uplink eth0 --zone z");
        rewrite(&dir, "manifests: a\nuplink: eth1\nzone: y\nstrict: true\n");
        let reloaded = given.reload().expect("valid");
        assert_eq!(keys(&reloaded.changes), ["strict"]);
        assert_eq!(reloaded.live.services.zone.as_deref(), Some("z"));
    }

    #[test]
    fn a_file_with_an_error_changes_nothing() {
        let (dir, mut given) = given("manifests: a\nuplink: eth0\n", "");
        for (text, message) in [
            (
                "manifests: a\nuplink: eth1\nzoen: b\n",
                "config.yaml:3: unknown key",
            ),
            ("uplink: eth1\n", "--manifests"),
            (
                "manifests: a\nuplink: a/b\n",
                "--uplink \"a/b\": a device name",
            ),
            (
                "manifests: a\nuplink: eth1\nlog-level: a=b\n",
                "--log-level \"a=b\"",
            ),
        ] {
            rewrite(&dir, text);
            let error = given.reload().expect_err(text).to_string();
            assert!(error.contains(message), "{text:?}: {error}");
        }
        rewrite(&dir, "manifests: a\nuplink: eth0\n");
        assert_eq!(keys(&given.reload().expect("valid").changes), [""; 0]);
    }

    #[test]
    fn what_does_not_go_with_what_runs_waits_as_a_whole() {
        let (dir, mut given) = given("manifests: a\n", "");
        rewrite(
            &dir,
            "manifests: a\npod-cidr: 10.96.0.0/16\nservice-cidr: 10.97.0.0/16\nzone: z\n",
        );
        let reloaded = given.reload().expect("valid by itself");
        assert_eq!(keys(&reloaded.changes), [""; 0]);
        assert_eq!(keys(&reloaded.news), ["service-cidr", "pod-cidr", "zone"]);
    }

    /// Which keys take effect at once is said here, and in what a `Live` has.
    #[test]
    fn every_key_that_takes_effect_at_once_does_and_no_other() {
        let command = AllFlags::augment_args(Command::new("run"));
        let of_command: Vec<&str> = command
            .get_arguments()
            .filter_map(clap::Arg::get_long)
            .collect();
        for key in LIVE {
            assert!(of_command.contains(&key), "{key}");
        }
        for (key, value) in [
            ("uplink", "eth0"),
            ("pod-device", "veth0"),
            ("pod-cidr", "10.1.0.0/16"),
            ("nodeport-addresses", "primary"),
            ("zone", "z"),
            ("service-node-port-range", "20000-20100"),
            ("strict", "true"),
            ("local-delivery", "device"),
            ("log-level", "debug"),
            ("masquerade", "all"),
            ("mode", "xdp"),
            ("forward", "stack"),
            ("service-cidr", "10.97.0.0/16"),
            ("node-ip", "192.0.2.1"),
            ("probe", "true"),
            ("timeout-udp", "9s"),
            ("flow-table-size", "65536"),
        ] {
            let (dir, mut given) = given("manifests: a\n", "");
            let before = given.reload().expect("valid");
            rewrite(&dir, &format!("manifests: a\n{key}: {value}\n"));
            let after = given.reload().expect(key);
            let is_live = LIVE.contains(&key);
            let has_changed = before.live != after.live || before.log_level != after.log_level;
            assert_eq!(has_changed, is_live, "{key}");
            assert_eq!(after.changes.len(), usize::from(is_live), "{key}");
            assert_eq!(after.news.len(), usize::from(!is_live), "{key}");
        }
    }
}
