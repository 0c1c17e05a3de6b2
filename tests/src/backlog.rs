//! What the kernel dropped because nobody came to take it: packets between devices wait in a queue per CPU, and on a machine that
//! is far too slow, or emulated, that is full. Who loses a packet then has not lost it by what is tested.

use anyhow::{Context, Result};

/// Packets that were dropped so since the machine has started, in all network namespaces.
pub fn dropped() -> Result<u64> {
    let path = "/proc/net/softnet_stat";
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    sum(&text)
}

/// Of a line per CPU, whose second number it is (`softnet_seq_show` of `net/core/net-procfs.c`).
fn sum(text: &str) -> Result<u64> {
    let of_cpu = |line: &str| -> Result<u64> {
        let number = line.split_whitespace().nth(1).context("a second number")?;
        u64::from_str_radix(number, 16).with_context(|| format!("read {number:?}"))
    };
    text.lines().map(of_cpu).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_of_all_cpus_are_summed_up() {
        let text = "0000a1b2 0000000f 00000003 00000000\n00000001 00000010 00000000 00000000\n";
        assert_eq!(sum(text).unwrap(), 31);
        assert!(sum("00000001\n").is_err());
        assert!(dropped().is_ok());
    }
}
