//! The numbers that node ports are taken from.

use std::{fmt, ops::RangeInclusive, str::FromStr};

/// A range that is not larger has no static band; also the band's smallest size.
const MIN_BAND: u16 = 16;
/// The band's largest size.
const MAX_BAND: u16 = 128;
/// One of so many numbers is in the band.
const BAND_SHARE: u16 = 32;

/// Numbers from one to another, both included; spelt `FROM-TO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    from: u16,
    to: u16,
}

impl Default for PortRange {
    /// That of clusters which are not told otherwise.
    fn default() -> Self {
        Self {
            from: 30_000,
            to: 32_767,
        }
    }
}

impl PortRange {
    /// Beyond the default ranges of the kernel's own connections (32768 to 60999) and of node ports.
    pub const SNAT: Self = Self {
        from: 61_000,
        to: u16::MAX,
    };

    /// The first number.
    pub fn first(self) -> u16 {
        self.from
    }

    /// The last number.
    pub fn last(self) -> u16 {
        self.to
    }

    /// Whether both have a number in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.from <= other.to && other.from <= self.to
    }

    /// Whether it has a number.
    pub fn contains(self, number: u16) -> bool {
        (self.from..=self.to).contains(&number)
    }

    /// How many numbers of the range come before those that are given out first: they stay free for numbers
    /// chosen by hand, while others are left (KEP-3682).
    pub(super) fn static_band(self) -> u16 {
        let size = (self.to - self.from).saturating_add(1);
        if size <= MIN_BAND {
            0
        } else {
            (size / BAND_SHARE).clamp(MIN_BAND, MAX_BAND)
        }
    }

    /// The parts of the range in the order in which they are used up.
    pub(super) fn bands(self) -> impl Iterator<Item = RangeInclusive<u16>> {
        let first = self.from + self.static_band();
        let lower = (first > self.from).then(|| self.from..=first - 1);
        std::iter::once(first..=self.to).chain(lower)
    }
}

/// Why a text is no range of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortRangeError {
    /// It has no such form.
    #[error("not of the form FROM-TO, as in 30000-32767")]
    Form,
    /// A part is no port.
    #[error("{0:?} is no port number; use 1 to 65535")]
    Port(String),
    /// It goes backwards.
    #[error("begins at {0} and ends at {1}, which comes before it; exchange them")]
    Backwards(u16, u16),
}

impl FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (from, to) = text.split_once('-').ok_or(PortRangeError::Form)?;
        let port = |text: &str| {
            let number = text.trim().parse().ok().filter(|port: &u16| *port > 0);
            number.ok_or_else(|| PortRangeError::Port(text.trim().to_owned()))
        };
        let (from, to) = (port(from)?, port(to)?);
        if from > to {
            return Err(PortRangeError::Backwards(from, to));
        }
        Ok(Self { from, to })
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.from, self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_they_are_spelt() {
        let range: PortRange = "30000-32767".parse().expect("a range");
        assert_eq!(range, PortRange::default());
        assert_eq!(range.to_string(), "30000-32767");
        for (text, error) in [
            ("30000", "not of the form FROM-TO"),
            ("", "not of the form FROM-TO"),
            ("0-10", "\"0\" is no port number; use 1 to 65535"),
            ("1-65536", "\"65536\" is no port number"),
            ("a-b", "\"a\" is no port number"),
            ("200-100", "begins at 200 and ends at 100"),
        ] {
            let told = text.parse::<PortRange>().expect_err(text).to_string();
            assert!(told.contains(error), "{text}: {told}");
        }
    }

    #[test]
    fn ranges_overlap_where_they_share_a_number() {
        let range = |text: &str| text.parse::<PortRange>().expect("a range");
        for (a, b, shared) in [
            ("1-5", "5-9", true),
            ("1-5", "6-9", false),
            ("1-9", "3-4", true),
        ] {
            assert_eq!(range(a).overlaps(range(b)), shared, "{a} {b}");
            assert_eq!(range(b).overlaps(range(a)), shared, "{b} {a}");
        }
        assert_eq!(range("61000-65535"), PortRange::SNAT);
    }

    #[test]
    fn bands_are_those_of_a_cluster() {
        for (text, band) in [
            ("30000-32767", 86),
            ("30000-30015", 0),
            ("30000-30016", 16),
            ("1-65535", 128),
            ("30000-34095", 128),
            ("30000-30512", 16),
            ("5-5", 0),
        ] {
            let range: PortRange = text.parse().expect("a range");
            assert_eq!(range.static_band(), band, "{text}");
        }
        let range: PortRange = "100-149".parse().expect("a range");
        let bands: Vec<_> = range.bands().collect();
        assert_eq!(bands, [116..=149, 100..=115]);
    }
}
