//! Nanoseconds of single programs on packets that the kernel is given (`BPF_PROG_TEST_RUN`), each restored before it: the
//! project's own, one that does nothing, and those of [`crate::programs`].

use std::{net::IpAddr, os::fd::AsFd as _};

use anyhow::{Result, ensure};
use lb_common::net::addr::{Addr as _, Addr4};
use lb_tests::{
    bench::{Bench, Effort, Host, Measured, Peer, What},
    signals::Signals,
};

use crate::{
    measure::Measure,
    programs::{LruFib, Stateless, To},
    report::Samples,
    scale::Scale,
};

/// Measures everything.
pub(crate) fn sample(scale: &Scale, signals: &Signals, samples: &mut Samples) -> Result<()> {
    let hits = [Measure::RunHitOne, Measure::RunHitMany, Measure::RunHitMost];
    let mut runs = vec![
        (Measure::RunPass, What::Pass),
        (Measure::RunMiss, What::Miss),
        (Measure::RunOpen, What::Open),
    ];
    runs.extend(hits.into_iter().zip(scale.run_flows.map(What::Hit)));
    for host in [Host::Xdp, Host::Tc] {
        for (measure, what) in &runs {
            signals.check()?;
            one(host, *measure, *what, scale.runs, samples)?;
        }
    }
    Ok(())
}

fn one(
    host: Host,
    measure: Measure,
    what: What,
    effort: Effort,
    samples: &mut Samples,
) -> Result<()> {
    let bench = Bench::<Addr4>::new(host, what)?;
    let [client, service, backend] = bench.ends();
    let mut to: To = [0; 8];
    to[..6].copy_from_slice(&end(backend));
    let stateless = Stateless::new(host, end(service), to)?;
    let (_, send) = host.verdicts();
    let mut peers = Vec::new();
    if !matches!(what, What::Pass | What::Miss) {
        peers.push(("stateless", stateless.program.as_fd()));
    }
    let mut with_table = None;
    if let What::Hit(bits) = what {
        let table = with_table.insert(LruFib::new(
            host,
            1 << (bits + 1).max(17),
            end(service),
            to,
        )?);
        let (from, towards) = (end(client), end(service));
        for (last, port) in sources(from, bits) {
            let ends = [
                from[0], from[1], from[2], last, towards[0], towards[1], towards[2], towards[3],
            ];
            table.open(ends, [port[0], port[1], towards[4], towards[5]])?;
        }
        peers.push(("lru-fib", table.program.as_fd()));
        peers.push(("service-lru-fib", table.after_service.as_fd()));
    }
    let programs: Vec<Peer<'_>> = peers
        .iter()
        .map(|(_, program)| Peer {
            program: *program,
            verdict: send,
        })
        .collect();
    let measured = bench.measure(effort, &programs)?;
    let names: Vec<&str> = peers.iter().map(|(name, _)| *name).collect();
    note(host, measure, &measured, &names, samples);
    if let Some(table) = &with_table {
        // Both programs counted.
        let wanted = 2 * effort.runs(what);
        let found = table.found()?;
        ensure!(
            found == wanted,
            "the program with a hash map found {found} connections of {wanted}"
        );
    }
    Ok(())
}

/// Notes what the programs took more than one that does nothing, and what that one took.
fn note(host: Host, measure: Measure, measured: &Measured, peers: &[&str], samples: &mut Samples) {
    let name = match host {
        Host::Xdp => "xdp",
        Host::Tc => "tc",
    };
    for (round, empty) in measured
        .empty
        .iter()
        .map(|time| f64::from(*time))
        .enumerate()
    {
        let net = |times: &[u32]| times.get(round).map(|time| f64::from(*time) - empty);
        let mut add = |name: &str, sample| samples.add(measure, name, 0, sample);
        add(&format!("{name} empty"), empty);
        if let Some(own) = net(&measured.target) {
            add(name, own);
        }
        for (peer, times) in peers.iter().zip(&measured.peers) {
            if let Some(theirs) = net(times) {
                add(&format!("{name} {peer}"), theirs);
            }
        }
    }
}

/// Address and port as they stand in packets.
fn end((addr, port): (Addr4, u16)) -> [u8; 6] {
    let mut end = [0; 6];
    if let IpAddr::V4(ip) = addr.to_ip() {
        end[..4].copy_from_slice(&ip.octets());
    }
    end[4..].copy_from_slice(&port.to_be_bytes());
    end
}

/// The last byte of the address and the port of each flow.
fn sources(from: [u8; 6], bits: u8) -> Box<dyn Iterator<Item = (u8, [u8; 2])>> {
    if bits == 0 {
        return Box::new(std::iter::once((from[3], [from[4], from[5]])));
    }
    // Up to sixteen bits the port tells all of them.
    let mask = 1_u8
        .checked_shl(u32::from(bits.saturating_sub(16)))
        .unwrap_or(0)
        .wrapping_sub(1);
    let lasts = (0..=mask).map(move |number| {
        if bits > 16 {
            from[3] & !mask | number
        } else {
            from[3]
        }
    });
    Box::new(lasts.flat_map(|last| (0..=u16::MAX).map(move |port| (last, port.to_be_bytes()))))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn there_are_as_many_sources_as_flows() {
        let from = [198, 18, 0, 200, 0x9c, 0x40];
        for (bits, n) in [(0, 1), (16, 65_536), (18, 262_144)] {
            let sources: BTreeSet<_> = sources(from, bits).collect();
            assert_eq!(sources.len(), n, "{bits}");
        }
        assert_eq!(sources(from, 0).next(), Some((200, [0x9c, 0x40])));
    }
}
