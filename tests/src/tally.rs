//! What came of many exchanges: which server answered how often, what failed and why, and whether the spread is uniform.

use std::{collections::BTreeMap, fmt, time::SystemTime};

use anyhow::{Result, bail, ensure};

/// Failures that a message lists; the others are only counted.
const MAX_SHOWN: usize = 5;

/// The results of a run.
#[derive(Clone, Debug)]
pub struct Tally {
    title: String,
    n_wanted: usize,
    hits: BTreeMap<String, usize>,
    failures: Vec<String>,
}

impl Tally {
    /// A run of `n_wanted` exchanges; `title` says which.
    pub fn new(title: String, n_wanted: usize) -> Self {
        Self {
            title,
            n_wanted,
            hits: BTreeMap::new(),
            failures: Vec::new(),
        }
    }

    /// Takes the result of the next exchange, which ended now.
    pub fn count(&mut self, result: Result<String>) {
        self.count_at(SystemTime::now(), result);
    }

    fn count_at(&mut self, end: SystemTime, result: Result<String>) {
        match result {
            Ok(server) => *self.hits.entry(server).or_default() += 1,
            Err(error) => {
                let number = self.n_counted() + 1;
                // As the agents' logs say it.
                let end = humantime::format_rfc3339_millis(end);
                self.failures
                    .push(format!("exchange {number} until {end}: {error:#}"));
            }
        }
    }

    /// Whether all exchanges of the run were counted.
    pub fn is_done(&self) -> bool {
        self.n_counted() >= self.n_wanted
    }

    /// How often each server answered.
    pub fn hits(&self) -> &BTreeMap<String, usize> {
        &self.hits
    }

    /// What failed, in order.
    pub fn failures(&self) -> &[String] {
        &self.failures
    }

    /// Fails unless every exchange of the run succeeded.
    pub fn complete(&self) -> Result<&Self> {
        ensure!(
            self.failures.is_empty() && self.n_hits() == self.n_wanted,
            "not every exchange succeeded; {self}"
        );
        Ok(self)
    }

    /// Fails unless each of these servers answered at least once, and no other did.
    pub fn spread_over(&self, servers: &[&str]) -> Result<&Self> {
        let answered = self.hits.keys().map(String::as_str);
        let mut expected = servers.to_vec();
        expected.sort_unstable();
        ensure!(
            answered.eq(expected.iter().copied()),
            "not exactly {} answered; {self}",
            expected.join(", ")
        );
        Ok(self)
    }

    /// Fails unless the hits are spread over exactly these servers as uniform and independent choices are: by a
    /// chi-square test that such choices fail once in 10^9 runs, as the kernel's random numbers cannot be seeded.
    pub fn uniform_over(&self, servers: &[&str]) -> Result<&Self> {
        self.spread_over(servers)?;
        let counts: Vec<usize> = self.hits.values().copied().collect();
        let (statistic, limit) = (chi_square(&counts), chi_square_limit(counts.len() - 1));
        if statistic > limit {
            bail!("the spread is not uniform: chi-square {statistic:.1} above {limit:.1}; {self}");
        }
        Ok(self)
    }

    fn n_hits(&self) -> usize {
        self.hits.values().sum()
    }

    fn n_counted(&self) -> usize {
        self.n_hits() + self.failures.len()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.title)?;
        for (server, n) in &self.hits {
            write!(f, " {server} {n}")?;
        }
        write!(f, "; {} failures", self.failures.len())?;
        for failure in self.failures.iter().take(MAX_SHOWN) {
            write!(f, "\n  {failure}")?;
        }
        let n_more = self.failures.len().saturating_sub(MAX_SHOWN);
        if n_more > 0 {
            write!(f, "\n  and {n_more} more")?;
        }
        Ok(())
    }
}

/// Pearson's statistic of these counts against equal ones.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a test are far below 2^52"
)]
pub fn chi_square(counts: &[usize]) -> f64 {
    let expected = counts.iter().sum::<usize>() as f64 / counts.len() as f64;
    counts
        .iter()
        .map(|count| (*count as f64 - expected).powi(2) / expected)
        .sum()
}

/// The value that Pearson's statistic exceeds with probability 10^-9, for these degrees of freedom.
///
/// Of 10,000 choices among four, a share that is two hundredths too large still shows. Beyond the table by the
/// approximation of Wilson and Hilferty (1931), which is at most 4 % too large there.
#[expect(
    clippy::cast_precision_loss,
    reason = "degrees of freedom are servers of a test"
)]
pub fn chi_square_limit(n_degrees: usize) -> f64 {
    /// The quantiles for one to ten degrees of freedom.
    const TABLE: [f64; 10] = [
        37.325, 41.447, 44.841, 47.879, 50.692, 53.345, 55.875, 58.308, 60.660, 62.945,
    ];
    /// The quantile of the normal distribution.
    const NORMAL: f64 = 5.997_807;
    if let Some(limit) = TABLE.get(n_degrees.saturating_sub(1)) {
        return *limit;
    }
    let n = n_degrees as f64;
    let spread = 2.0 / (9.0 * n);
    n * (1.0 - spread + NORMAL * spread.sqrt()).powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(hits: &[(&str, usize)]) -> Tally {
        let mut tally = Tally::new("test".to_owned(), hits.iter().map(|(_, n)| n).sum());
        for (server, n) in hits {
            for _ in 0..*n {
                tally.count(Ok((*server).to_owned()));
            }
        }
        tally
    }

    #[test]
    fn limits_beyond_the_table_are_close_and_none_is_below_its_predecessor() {
        // Quantiles of the chi-square distribution at 1 - 10^-9.
        for (n_degrees, quantile) in [(11, 65.173), (15, 73.630), (30, 101.697)] {
            let excess = chi_square_limit(n_degrees) / quantile - 1.0;
            assert!((0.0..0.04).contains(&excess), "{n_degrees}: {excess}");
        }
        let limits: Vec<f64> = (1..40).map(chi_square_limit).collect();
        assert!(limits.is_sorted(), "{limits:?}");
    }

    #[test]
    fn a_spread_as_by_chance_is_uniform_and_a_skewed_one_is_not() {
        let servers = ["a", "b", "c", "d"];
        tally(&[("a", 2450), ("b", 2550), ("c", 2480), ("d", 2520)])
            .uniform_over(&servers)
            .unwrap();
        let skewed = tally(&[("a", 2250), ("b", 2750), ("c", 2480), ("d", 2520)]);
        let error = skewed.uniform_over(&servers).unwrap_err().to_string();
        assert!(
            error.starts_with("the spread is not uniform: chi-square 50.3 above 44.8"),
            "{error}"
        );
    }

    #[test]
    fn the_servers_must_be_exactly_the_expected_ones() {
        let tally = tally(&[("a", 1), ("b", 1)]);
        tally.spread_over(&["b", "a"]).unwrap();
        assert!(tally.spread_over(&["a"]).is_err());
        assert!(tally.spread_over(&["a", "b", "c"]).is_err());
    }

    #[test]
    fn a_run_is_complete_when_all_succeeded() {
        let mut tally = Tally::new("two".to_owned(), 2);
        tally.count(Ok("a".to_owned()));
        assert!(tally.complete().is_err());
        let error = anyhow::anyhow!("refused").context("connect");
        tally.count_at(SystemTime::UNIX_EPOCH, Err(error));
        assert!(tally.is_done());
        let error = tally.complete().unwrap_err().to_string();
        assert!(
            error.contains(
                "a 1; 1 failures\n  exchange 2 until 1970-01-01T00:00:00.000Z: connect: refused"
            ),
            "{error}"
        );
    }
}
