//! Errors in one line: what went wrong, and what that came from.

/// An error's message, and those of its causes after it.
pub fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        // Some libraries print the cause in their own message, too.
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Outer {
        text: &'static str,
        source: io::Error,
    }

    #[test]
    fn each_cause_is_told_once() {
        for (text, line) in [
            ("cannot open x", "cannot open x: no room"),
            (
                "cannot open x: no room; make some",
                "cannot open x: no room; make some",
            ),
        ] {
            let error = Outer {
                text,
                source: io::Error::other("no room"),
            };
            assert_eq!(with_causes(&error), line);
        }
    }
}
