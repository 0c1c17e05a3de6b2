//! Device patterns: a name, or a glob with `*` (any run of characters) and `?` (one character).
//!
//! Matches names only; what a device is decides [`super::device`].

use std::{fmt, str::FromStr};

/// Bytes of a device name, without the terminating zero (`IFNAMSIZ` in `linux/if.h`).
const MAX_NAME_BYTES: usize = 15;

/// Which devices a flag means.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern(String);

/// Why a text is no device pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Nothing was given.
    #[error("a device name or pattern must not be empty")]
    Empty,
    /// No device can have this name.
    #[error("a device name has no blank, slash or control character")]
    Character,
    /// No device can have this name.
    #[error("a device name has at most {MAX_NAME_BYTES} bytes")]
    TooLong,
}

impl Pattern {
    /// The pattern that means the device of this name and no other.
    pub fn exact(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// Whether `name` is meant.
    pub fn matches(&self, name: &str) -> bool {
        matches(self.0.as_bytes(), name.as_bytes())
    }

    fn is_glob(text: &str) -> bool {
        text.contains(['*', '?'])
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || c == '/')
        {
            return Err(PatternError::Character);
        }
        if text.len() > MAX_NAME_BYTES && !Self::is_glob(text) {
            return Err(PatternError::TooLong);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Backtracks to the last star only, so that the work is bounded by the product of the lengths.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((star_p, star_n)) = star else {
                    return false;
                };
                star = Some((star_p, star_n + 1));
                p = star_p + 1;
                n = star_n + 1;
            }
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_names() {
        for (pattern, name, expected) in [
            ("eth0", "eth0", true),
            ("eth0", "eth00", false),
            ("eth*", "eth", true),
            ("eth*", "veth1", false),
            ("*", "anything", true),
            ("e?h*1", "eth0.1", true),
            ("e?h*1", "eth0.2", false),
            ("*a*a", "aba", true),
            ("*a*a", "ab", false),
            ("?", "", false),
        ] {
            let parsed: Pattern = pattern.parse().expect("valid pattern");
            assert_eq!(parsed.matches(name), expected, "{pattern} against {name}");
        }
    }

    #[test]
    fn what_no_device_can_be_called_is_refused() {
        for (text, error) in [
            ("", PatternError::Empty),
            ("a b", PatternError::Character),
            ("a/b", PatternError::Character),
            ("sixteen-letters!", PatternError::TooLong),
        ] {
            assert_eq!(text.parse::<Pattern>(), Err(error), "{text}");
        }
        assert!("a-long-pattern-with-*".parse::<Pattern>().is_ok());
    }
}
