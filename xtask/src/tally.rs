//! The tally of a test run: the result lines of libtest, summed up while the output streams through.

use std::{
    fmt,
    io::{self, BufRead, Write},
    ops::AddAssign,
};

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) n_passed: u64,
    pub(crate) n_failed: u64,
}

impl Tally {
    /// Copies `output` to `copy`, line by line, and sums up its result lines.
    pub(crate) fn stream(mut output: impl BufRead, mut copy: impl Write) -> io::Result<Self> {
        let mut tally = Self::default();
        let mut line = Vec::new();
        while output.read_until(b'\n', &mut line)? > 0 {
            copy.write_all(&line)?;
            copy.flush()?;
            if let Some(result) = Self::of_line(&String::from_utf8_lossy(&line)) {
                tally += result;
            }
            line.clear();
        }
        Ok(tally)
    }

    /// The numbers of a line as `test result: ok. 3 passed; 0 failed; 0 ignored; ...`.
    fn of_line(line: &str) -> Option<Self> {
        let (_verdict, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let count_of = |name: &str| {
            counts
                .split("; ")
                .find_map(|count| count.trim_end().strip_suffix(name)?.trim_end().parse().ok())
        };
        Some(Self {
            n_passed: count_of("passed")?,
            n_failed: count_of("failed")?,
        })
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.n_passed += other.n_passed;
        self.n_failed += other.n_failed;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.n_passed, self.n_failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 2 tests
test a ... ok
test b ... FAILED

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s

running 40 tests
the test result: ok. 7 passed; 7 failed is a line that a test printed
test result: ok. 40 passed; 0 failed; 2 ignored; 0 measured; 3 filtered out; finished in 1.20s
";

    #[test]
    fn the_result_lines_of_all_suites_are_summed_up() {
        let tally = Tally::stream(OUTPUT.as_bytes(), io::sink()).unwrap();
        assert_eq!(
            tally,
            Tally {
                n_passed: 41,
                n_failed: 1
            }
        );
        assert_eq!(tally.to_string(), "41 passed, 1 failed");
    }

    #[test]
    fn every_byte_of_the_output_is_copied_even_if_it_is_not_text() {
        let mut output = OUTPUT.as_bytes().to_vec();
        output.extend_from_slice(b"\xff\xfe no newline at the end");
        let mut copy = Vec::new();
        Tally::stream(output.as_slice(), &mut copy).unwrap();
        assert_eq!(copy, output);
    }

    #[test]
    fn a_line_without_numbers_counts_nothing() {
        assert_eq!(Tally::of_line("test result: ok. some text"), None);
        assert_eq!(Tally::of_line("test some::test ... ok"), None);
    }
}
