//! The configuration file: YAML, its keys are the long names of the flags.
//!
//! Each value is tried by itself as clap would take it, while the YAML library still knows in which line it stands.

use std::{
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
};

use clap::{Arg, Command};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::keys::{self, Keys};
use crate::source::{dir, spelling};

/// The flag that names the file, which no file can name.
const OWN: &str = "config";
/// Flags of all verbs: a file that only `run` knows cannot say them.
const OF_ALL_VERBS: [&str; 2] = ["run-dir", "bpffs"];
/// What YAML has for no value at all.
const SPELLED_NULL: [&str; 3] = ["", "~", "null"];

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// It says something that no flag takes.
    #[error("{}:{line}: {message}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Counted from one.
        line: usize,
        /// The key, and what is wrong with it.
        message: String,
    },
}

/// What the file says that `path` names, for the flags of `command`.
pub fn read(path: &Path, command: &Command) -> Result<Keys, FileError> {
    let bytes = dir::read(path).map_err(|source| FileError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&bytes, command).map_err(|(line, message)| FileError::Content {
        path: path.to_owned(),
        line,
        message,
    })
}

/// The keys of a text, or a line and what is wrong there.
fn parse(bytes: &[u8], command: &Command) -> Result<Keys, (usize, String)> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = before.split(|byte| *byte == b'\n').count();
        (line, "is not UTF-8".to_owned())
    })?;
    let has_content = |line: &str| !matches!(line.trim_start().chars().next(), None | Some('#'));
    if !text.lines().any(has_content) {
        return Ok(Keys::default());
    }
    Document { command }
        .deserialize(serde_yaml::Deserializer::from_str(text))
        .map_err(|error| placed(&error))
}

/// The line of an error, and its text without the place.
fn placed(error: &serde_yaml::Error) -> (usize, String) {
    let message = error.to_string();
    let Some(place) = error.location() else {
        return (1, message);
    };
    let (line, column) = (place.line(), place.column());
    let message = message.replace(&format!(" at line {line} column {column}"), "");
    (line, message)
}

/// The whole file.
struct Document<'a> {
    command: &'a Command,
}

impl<'de> DeserializeSeed<'de> for Document<'_> {
    type Value = Keys;

    fn deserialize<D: Deserializer<'de>>(self, yaml: D) -> Result<Keys, D::Error> {
        yaml.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Document<'_> {
    type Value = Keys;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("flags as keys, as in `uplink: [eth0]`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
        let mut keys = Keys::default();
        let mut seen = Vec::new();
        let command = self.command;
        while let Some((key, arg)) = map.next_key_seed(Key {
            command,
            seen: &seen,
        })? {
            let value = Value {
                command,
                key,
                arg,
                is_element: false,
            };
            keys.insert(key, map.next_value_seed(value)?);
            seen.push(key);
        }
        Ok(keys)
    }
}

/// A key, which stands for a flag.
struct Key<'a, 's> {
    command: &'a Command,
    seen: &'s [&'a str],
}

impl<'de, 'a> DeserializeSeed<'de> for Key<'a, '_> {
    type Value = (&'a str, &'a Arg);

    fn deserialize<D: Deserializer<'de>>(self, yaml: D) -> Result<Self::Value, D::Error> {
        yaml.deserialize_str(self)
    }
}

impl<'a> Visitor<'_> for Key<'a, '_> {
    type Value = (&'a str, &'a Arg);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        if self.seen.contains(&text) {
            return Err(E::custom(format!("key `{text}` stands twice; remove one")));
        }
        if text == OWN || OF_ALL_VERBS.contains(&text) {
            let message = format!("key `{text}` can only be given on the command line");
            return Err(E::custom(message));
        }
        let known = || keys::keyed(self.command).filter(|(key, _)| *key != OWN);
        known().find(|(key, _)| *key == text).ok_or_else(|| {
            let hint = spelling::hint(text, known().map(|(key, _)| key));
            E::custom(format!("unknown key `{text}`{hint}"))
        })
    }
}

/// The values of a key, or one of the elements of its list.
#[derive(Clone, Copy)]
struct Value<'a> {
    command: &'a Command,
    key: &'a str,
    arg: &'a Arg,
    is_element: bool,
}

impl Value<'_> {
    /// One value, if the flag takes it.
    fn one<E: Error>(self, text: String) -> Result<Vec<OsString>, E> {
        let value = vec![OsString::from(text)];
        // A line that lacks nothing else.
        let mut line = vec![OsString::from(format!("--{OWN}=-"))];
        line.extend(keys::arguments(self.arg, self.key, &value));
        let command = self.command.clone().no_binary_name(true);
        match command.try_get_matches_from(line) {
            Ok(_) => Ok(value),
            Err(error) => Err(E::custom(first_part(&error))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = Vec<OsString>;

    fn deserialize<D: Deserializer<'de>>(self, yaml: D) -> Result<Self::Value, D::Error> {
        if !keys::takes_value(self.arg) {
            yaml.deserialize_bool(self)
        } else if keys::is_list(self.arg) && !self.is_element {
            yaml.deserialize_any(self)
        } else {
            // As it is spelled, whatever YAML would take it for: a zone may be called 1.10.
            yaml.deserialize_str(self)
        }
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = Vec<OsString>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match () {
            () if !keys::takes_value(self.arg) => "true or false",
            () if keys::is_list(self.arg) && !self.is_element => "a text or a list of texts",
            () => "a text or a number",
        })
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Err(E::custom("has no value; give one or remove the key"))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        self.one(value.to_string())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        self.one(value.to_string())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        if SPELLED_NULL.contains(&text) {
            return self.visit_unit();
        }
        self.one(text.to_owned())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let element = Self {
            is_element: true,
            ..self
        };
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(element)? {
            values.extend(value);
        }
        Ok(values)
    }
}

/// What clap says is wrong, in one line and without its advice about the command line.
fn first_part(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().take_while(|line| !line.is_empty());
    let lines: Vec<&str> = lines.map(str::trim).collect();
    let text = lines.join(" ");
    text.strip_prefix("error: ").unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use clap::Args;

    use super::*;
    use crate::config::Flags;

    fn command() -> Command {
        Flags::augment_args(Command::new("run"))
    }

    fn arguments(text: &str) -> Result<Vec<String>, String> {
        let keys = parse(text.as_bytes(), &command())
            .map_err(|(line, message)| format!("{line}: {message}"))?;
        let arguments = keys.arguments(&command()).into_iter();
        Ok(arguments
            .map(|argument| argument.into_string().expect("UTF-8"))
            .collect())
    }

    #[test]
    fn keys_are_flags_and_lists_repeat_them() {
        let text = "\
# The node's devices.
manifests: /etc/fulcrum/manifests
uplink: [eth0, 'wg*']
pod-device: veth*
service-cidr:
- 10.96.0.0/12
- fd00:10:96::/112
timeout-udp: 30s
flow-table-size: 65536
zone: 1.10
ping: yes
probe: true
strict: false
pod-cidr: []
";
        let expected = [
            "--manifests=/etc/fulcrum/manifests",
            "--uplink=eth0",
            "--uplink=wg*",
            "--pod-device=veth*",
            "--service-cidr=10.96.0.0/12",
            "--service-cidr=fd00:10:96::/112",
            "--zone=1.10",
            "--flow-table-size=65536",
            "--ping=yes",
            "--timeout-udp=30s",
            "--probe",
        ];
        assert_eq!(arguments(text), Ok(expected.map(str::to_owned).into()));
        for empty in ["", "# nothing\n", "\n\n", "{}\n"] {
            assert_eq!(arguments(empty), Ok(Vec::new()), "{empty:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_line_and_key() {
        for (text, message) in [
            (
                "zone: a\nuplnk: eth0\n",
                "2: unknown key `uplnk` (did you mean `uplink`?)",
            ),
            ("manifest-dir: a\n", "1: unknown key `manifest-dir`"),
            ("zone: a\n\nzone: b\n", "3: key `zone` stands twice"),
            ("config: a\n", "1: key `config` can only be given on"),
            ("run-dir: /run/a\n", "1: key `run-dir` can only be given on"),
            ("zone:\n", "1: zone: has no value"),
            ("uplink:\n", "1: uplink: has no value"),
            ("probe: ~\n", "1: probe: invalid type"),
            ("uplink:\n- a\n-\n", "uplink[1]: has no value"),
            ("zone: [a]\n", "1: zone: invalid type: sequence"),
            ("probe: maybe\n", "1: probe: invalid type: string \"maybe\""),
            (
                "timeout-udp: soon\n",
                "1: timeout-udp: invalid value 'soon' for '--timeout-udp <TIME>': ",
            ),
            (
                "mode: xdq\n",
                "1: mode: invalid value 'xdq' for '--mode <[DEVICE=]MODE>': \"xdq\" is no mode; the modes are auto, xdp, \
                 xdp-generic and tc",
            ),
            (
                "pod-cidr:\n- 10.1.0.0/16\n- eth0\n",
                "3: pod-cidr[1]: invalid value 'eth0' for '--pod-cidr <CIDR>': ",
            ),
            ("uplink: {a: b}\n", "1: uplink: invalid type: map"),
            ("- a\n", "1: invalid type: sequence, expected flags as keys"),
            ("zone: a\n--- \nzone: b\n", "more than one document"),
        ] {
            let error = arguments(text).expect_err(text);
            assert!(error.contains(message), "{text:?}: {error}");
            assert!(!error.contains(" at line "), "{error}");
        }
        let error = arguments("zone: a\nuplink: [a\nprobe: true\n").expect_err("an open list");
        assert!(error.starts_with("3: did not find expected"), "{error}");
        let (line, message) = parse(b"zone: a\nprobe: \xff\n", &command()).expect_err("no text");
        assert_eq!((line, message.as_str()), (2, "is not UTF-8"));
    }
}
