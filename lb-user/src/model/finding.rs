//! What was found wrong, or worth knowing, about one object: a value, reported once per scan.
//!
//! A finding never stops anything. It names the place, the object, the field and the value, and says
//! what to do.

use std::fmt;

use serde::Serialize;

use super::object::{Located, ObjectRef, Origin};

/// One remark about one place of a manifest. Sorted by place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The file as the user named it; `-` for standard input.
    pub file: String,
    /// Line in the file, from 1; 0 where the whole file is meant.
    pub line: usize,
    /// Document in the file, from 1; 0 where the whole file is meant.
    pub document: usize,
    /// How bad it is.
    pub severity: Severity,
    /// Kind, namespace and name, as far as they are known; else empty.
    pub object: String,
    /// The field, as `spec.ports[0].port`; empty where the whole object is meant.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// How bad a finding is, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object, or the named part of it, is not used.
    Error,
    /// It is used, and probably not as meant.
    Warning,
    /// Worth knowing.
    Notice,
}

impl Finding {
    /// A finding about an object that was read.
    pub fn about<T>(
        severity: Severity,
        (reference, located): (&ObjectRef, &Located<T>),
        field: &str,
        message: impl Into<String>,
    ) -> Self {
        Self::at(
            severity,
            &located.origin,
            reference.to_string(),
            field,
            message,
        )
    }

    /// A finding at a place.
    pub fn at(
        severity: Severity,
        origin: &Origin,
        object: String,
        field: &str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            file: origin.file.to_string(),
            line: origin.line,
            document: origin.document,
            severity,
            object,
            field: field.to_owned(),
            message: message.into(),
        }
    }

    /// A finding about a file as a whole.
    pub fn about_file(severity: Severity, file: &str, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: 0,
            document: 0,
            severity,
            object: String::new(),
            field: String::new(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Finding {
    /// `FILE:LINE: SEVERITY: OBJECT: FIELD: MESSAGE`, unknown parts left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}: ", self.severity)?;
        for part in [&self.object, &self.field] {
            if !part.is_empty() {
                write!(f, "{}: ", Printable(part))?;
            }
        }
        Printable(&self.message).fmt(f)
    }
}

/// A text of a manifest as it may go to a terminal: on one line, and nothing in it is invisible or
/// steers the terminal. Displays such characters as `\n` or `\u{200b}`.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(pub &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '"' | '\'' | '\\' => write!(f, "{c}")?,
                _ => write!(f, "{}", c.escape_debug())?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Notice => "notice",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_spelt_out() {
        let message = "`we\u{200b}b\n\u{1b}[2J` is \"no\" `C:\\x`, é";
        let finding = Finding::about_file(Severity::Error, "f", message);
        assert_eq!(
            finding.to_string(),
            "f: error: `we\\u{200b}b\\n\\u{1b}[2J` is \"no\" `C:\\x`, é"
        );
    }
}
