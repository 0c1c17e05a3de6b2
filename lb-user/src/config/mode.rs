//! Where the packets of uplinks are met, by device.

use std::{fmt, str::FromStr};

use clap::ValueEnum;

use crate::loader::pattern::{Pattern, PatternError};

/// Where the packets of an uplink are met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// In the driver (native XDP) and at TC where the driver can and checksums are whole, else at TC alone.
    Auto,
    /// In the driver as well; what XDP cannot do itself goes on to TC.
    Xdp,
    /// Before the stack by generic XDP, which any driver has, as well: for trying, it is slower than TC.
    XdpGeneric,
    /// At TC alone.
    Tc,
}

/// One word of `--mode`: a mode for all uplinks, or for those that a pattern means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModeRule {
    device: Option<Pattern>,
    mode: Mode,
}

/// What is no [`ModeRule`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModeError {
    /// No mode of this name.
    #[error("{0:?} is no mode; the modes are auto, xdp, xdp-generic and tc")]
    Mode(String),
    /// No device can be meant.
    #[error("{device:?}: {reason}")]
    Device {
        /// What stands before the equals sign.
        device: String,
        /// What is wrong with it.
        reason: PatternError,
    },
}

impl FromStr for ModeRule {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        let (device, mode) = match text.split_once('=') {
            Some((device, mode)) => (Some(device), mode),
            None => (None, text),
        };
        let mode = Mode::from_str(mode, false).map_err(|_| ModeError::Mode(mode.to_owned()))?;
        let device = device.map(|device| {
            device.parse().map_err(|reason| ModeError::Device {
                device: device.to_owned(),
                reason,
            })
        });
        Ok(Self {
            device: device.transpose()?,
            mode,
        })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Xdp => "xdp",
            Self::XdpGeneric => "xdp-generic",
            Self::Tc => "tc",
        })
    }
}

/// The modes of all uplinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Modes(Vec<ModeRule>);

impl Modes {
    /// At TC alone, whatever the device.
    pub const TC: Self = Self(Vec::new());

    /// By these words, of which the first that means a device counts, and one without a device only where none does.
    pub fn new(rules: &[ModeRule]) -> Self {
        Self(rules.to_vec())
    }

    /// That of a device.
    pub fn of(&self, device: &str) -> Mode {
        let means = |rule: &&ModeRule| {
            let pattern = rule.device.as_ref();
            pattern.is_some_and(|pattern| pattern.matches(device))
        };
        let named = self.0.iter().find(means);
        let general = || self.0.iter().find(|rule| rule.device.is_none());
        match (named.or_else(general), self.0.is_empty()) {
            (Some(rule), _) => rule.mode,
            (None, true) => Mode::Tc,
            // Words for other devices leave this one to the default.
            (None, false) => Mode::Auto,
        }
    }

    /// Whether an uplink is asked to be met before the stack, whatever it can.
    pub fn ask_for_xdp(&self) -> bool {
        let mut modes = self.0.iter().map(|rule| rule.mode);
        modes.any(|mode| matches!(mode, Mode::Xdp | Mode::XdpGeneric))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modes(words: &[&str]) -> Modes {
        let rules: Vec<_> = words
            .iter()
            .map(|word| word.parse().expect("a mode"))
            .collect();
        Modes::new(&rules)
    }

    #[test]
    fn a_word_with_a_device_goes_before_one_without() {
        let modes = modes(&["tc", "eth0=xdp", "eth*=xdp-generic"]);
        for (device, mode) in [
            ("eth0", Mode::Xdp),
            ("eth1", Mode::XdpGeneric),
            ("wg0", Mode::Tc),
        ] {
            assert_eq!(modes.of(device), mode, "{device}");
        }
        assert!(modes.ask_for_xdp());
    }

    #[test]
    fn devices_that_no_word_means_are_left_to_what_they_can() {
        let modes = modes(&["eth0=tc"]);
        assert_eq!(modes.of("eth1"), Mode::Auto);
        assert!(!modes.ask_for_xdp());
        assert_eq!(Modes::TC.of("eth1"), Mode::Tc);
    }

    #[test]
    fn what_is_no_mode_is_refused_by_its_name() {
        for (word, error) in [
            (
                "xdq",
                "\"xdq\" is no mode; the modes are auto, xdp, xdp-generic and tc",
            ),
            (
                "eth0=",
                "\"\" is no mode; the modes are auto, xdp, xdp-generic and tc",
            ),
            ("=tc", "\"\": a device name or pattern must not be empty"),
        ] {
            let refused = word.parse::<ModeRule>().expect_err("no mode");
            assert_eq!(refused.to_string(), error);
        }
    }

    #[test]
    fn each_mode_is_read_as_it_is_written() {
        for mode in Mode::value_variants() {
            let rule: ModeRule = mode.to_string().parse().expect("a mode");
            assert_eq!(rule.mode, *mode);
        }
    }
}
