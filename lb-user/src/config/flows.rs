//! Flags that say how connections are kept: how many, for how long, and what is done at their edges.

use std::{fmt, time::Duration};

use clap::{Args, ValueEnum};
use lb_common::{
    abi::{capacity, node::features},
    flow::clock::Timeouts,
};

use super::{ConfigError, machine};
use crate::alloc::PortRange;

/// Fewer flows than this are of no use; more do not fit into a map of 64-byte values on any node.
const FLOW_TABLE_SIZES: std::ops::RangeInclusive<u32> = 64..=1 << 24;
/// The table may grow to so many times its size, unless a flag says otherwise.
const GROWTH: u32 = 4;
/// Below are the ports of servers.
const FIRST_SNAT_PORT: u16 = 1_024;
/// How long a lifetime may be, seconds: a tick is compared modulo 2.3 years.
const LIFETIMES_S: std::ops::RangeInclusive<u64> = 1..=365 * 24 * 3600;

/// How connections are kept.
#[expect(
    clippy::doc_markdown,
    reason = "the fields' documentation is help text for a terminal"
)]
#[derive(Args, Clone, Debug)]
pub struct FlowFlags {
    /// Places in each family's flow table, a power of two; a connection takes two [default: both tables together take
    /// a 64th of the memory, 65536 to 4194304 places]
    ///
    /// The memory is the machine's or the least limit of the control groups that the agent is in. A place takes 64
    /// bytes for IPv4 and 128 for IPv6, whether it is used or not. `fulcrum status` says what was chosen.
    #[arg(long, value_name = "N")]
    pub flow_table_size: Option<u32>,

    /// Places that a flow table may grow to, a power of two [default: 4 times --flow-table-size]
    #[arg(long, value_name = "N")]
    pub flow_table_max: Option<u32>,

    /// Clients per family whose backend is remembered for services with sessionAffinity
    #[arg(long, value_name = "N", default_value_t = capacity::AFFINITY)]
    pub affinity_size: u32,

    /// Answer echo requests (ping) to service addresses
    #[arg(long, value_enum, value_name = "yes|no", default_value_t)]
    pub ping: Ping,

    /// What becomes of a TCP connection whose backend has left the service
    #[arg(long, value_enum, default_value_t)]
    pub tcp_after_removal: TcpAfterRemoval,

    /// Source ports for masqueraded connections whose own port is taken; apart from node ports, and from those that the
    /// kernel gives to the node's own connections (net.ipv4.ip_local_port_range)
    #[arg(long, value_name = "FIRST-LAST", default_value = "61000-65535")]
    pub snat_ports: PortRange,

    #[command(flatten)]
    /// How long they live.
    pub timeouts: TimeoutFlags,
}

/// How long connections live after their last packet: 1s to 365d.
#[expect(
    clippy::struct_field_names,
    reason = "the fields' names are those of the flags"
)]
#[derive(Args, Clone, Copy, Debug)]
pub struct TimeoutFlags {
    /// Life of an open TCP connection after its last packet (RFC 5382 asks for 2h4m at least)
    #[arg(long, value_name = "TIME", default_value_t = Lifetime(Timeouts::DEFAULT.tcp_established))]
    pub timeout_tcp_established: Lifetime,

    /// Life of a TCP connection that is not yet open
    #[arg(long, value_name = "TIME", default_value_t = Lifetime(Timeouts::DEFAULT.tcp_half_open))]
    pub timeout_tcp_half_open: Lifetime,

    /// Life of a TCP connection of which one side has finished
    #[arg(long, value_name = "TIME", default_value_t = Lifetime(Timeouts::DEFAULT.tcp_close_wait))]
    pub timeout_tcp_close_wait: Lifetime,

    /// Life of UDP of which the client has not gone on after an answer
    #[arg(long, value_name = "TIME", default_value_t = Lifetime(Timeouts::DEFAULT.udp))]
    pub timeout_udp: Lifetime,

    /// Life of UDP of which both sides go on (RFC 4787 asks for 2m at least)
    #[arg(long, value_name = "TIME", default_value_t = Lifetime(Timeouts::DEFAULT.udp_stream))]
    pub timeout_udp_stream: Lifetime,

    /// Life of an open SCTP association; longer than several of its heartbeats, which come every 30s
    #[arg(long, value_name = "TIME", default_value_t = Lifetime(Timeouts::DEFAULT.sctp_established))]
    pub timeout_sctp: Lifetime,
}

/// A lifetime in whole seconds, spelt as in `1h 30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime(pub u32);

/// Whether echo requests to service addresses are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Ping {
    /// They are
    #[default]
    Yes,
    /// They are dropped, or passed on where the address is the node's own
    No,
}

/// What becomes of a TCP connection whose backend has left the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TcpAfterRemoval {
    /// It goes on until it ends
    #[default]
    Keep,
    /// Its client is told to end it
    Reset,
}

/// How connections are kept, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowSettings {
    /// Clients per family that affinity is remembered of.
    pub affinity_size: u32,
    /// Whether echo requests to service addresses are answered.
    pub ping: Ping,
    /// What becomes of a TCP connection whose backend has left the service.
    pub tcp_after_removal: TcpAfterRemoval,
    /// Source ports for masqueraded connections.
    pub snat_ports: PortRange,
    /// How long connections live.
    pub timeouts: Timeouts,
}

/// How large the flow tables are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowTableSizes {
    /// Positions per family, a power of two.
    pub size: u32,
    /// Positions per family that there may be one day, a power of two.
    pub max: u32,
    /// Whether a flag says the size, so that tables that an earlier agent left must have it.
    pub is_given: bool,
}

impl FlowTableSizes {
    /// Whether a flow table can have so many positions.
    pub fn is_fit(positions: u32) -> bool {
        positions.is_power_of_two() && FLOW_TABLE_SIZES.contains(&positions)
    }

    /// How many positions a table shall have that an earlier agent left with `found` of them: as many as it has, but for
    /// a size that a flag asks for and that it has not grown out of as far as it may.
    pub fn of_earlier(&self, found: u32) -> u32 {
        if self.is_given && !(self.size..=self.max).contains(&found) {
            self.size
        } else {
            found
        }
    }
}

impl Default for FlowSettings {
    fn default() -> Self {
        Self {
            affinity_size: capacity::AFFINITY,
            ping: Ping::default(),
            tcp_after_removal: TcpAfterRemoval::default(),
            snat_ports: PortRange::SNAT,
            timeouts: Timeouts::DEFAULT,
        }
    }
}

impl FlowSettings {
    /// The bits of [`features`] that are switched on.
    pub fn features(&self) -> u32 {
        let ping = match self.ping {
            Ping::Yes => features::ECHO,
            Ping::No => 0,
        };
        let removal = match self.tcp_after_removal {
            TcpAfterRemoval::Keep => 0,
            TcpAfterRemoval::Reset => features::RESET_GONE,
        };
        ping | removal
    }
}

impl FlowFlags {
    /// The settings, or what is wrong with the flags; `node_ports` are given to services.
    pub(super) fn check(&self, node_ports: PortRange) -> Result<FlowSettings, ConfigError> {
        let snat_ports = self.snat_ports;
        if snat_ports.first() < FIRST_SNAT_PORT {
            return Err(ConfigError::SnatServers { snat_ports });
        }
        if snat_ports.overlaps(node_ports) {
            return Err(ConfigError::SnatNodePorts {
                snat_ports,
                node_ports,
            });
        }
        if self.affinity_size == 0 {
            return Err(ConfigError::AffinitySize);
        }
        Ok(FlowSettings {
            affinity_size: self.affinity_size,
            ping: self.ping,
            tcp_after_removal: self.tcp_after_removal,
            snat_ports,
            timeouts: self.timeouts.into(),
        })
    }

    /// How large the tables are; what no flag says follows the memory, if that is known, bytes.
    pub(super) fn sizes(&self, memory: Option<u64>) -> Result<FlowTableSizes, ConfigError> {
        let chosen = || machine::flow_table_size(memory);
        let size = fitting(
            "flow-table-size",
            self.flow_table_size.unwrap_or_else(chosen),
        )?;
        let max = match self.flow_table_max {
            Some(max) => fitting("flow-table-max", max)?,
            None => size.saturating_mul(GROWTH).min(*FLOW_TABLE_SIZES.end()),
        };
        if max < size {
            return Err(ConfigError::FlowTableMax { size, max });
        }
        let is_given = self.flow_table_size.is_some();
        Ok(FlowTableSizes {
            size,
            max,
            is_given,
        })
    }
}

fn fitting(flag: &'static str, size: u32) -> Result<u32, ConfigError> {
    if FlowTableSizes::is_fit(size) {
        return Ok(size);
    }
    Err(ConfigError::FlowTableSize {
        flag,
        size,
        least: *FLOW_TABLE_SIZES.start(),
        most: *FLOW_TABLE_SIZES.end(),
    })
}

impl From<TimeoutFlags> for Timeouts {
    fn from(flags: TimeoutFlags) -> Self {
        Self {
            tcp_half_open: flags.timeout_tcp_half_open.0,
            tcp_established: flags.timeout_tcp_established.0,
            tcp_close_wait: flags.timeout_tcp_close_wait.0,
            udp: flags.timeout_udp.0,
            udp_stream: flags.timeout_udp_stream.0,
            sctp_established: flags.timeout_sctp.0,
        }
    }
}

impl fmt::Display for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = humantime::format_duration(Duration::from_secs(self.0.into())).to_string();
        // One word, as a shell takes it.
        f.write_str(&text.replace(' ', ""))
    }
}

impl std::str::FromStr for Lifetime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = "not a time as in 30s, 5m or 1h30m";
        let time = humantime::parse_duration(text).map_err(|_| form.to_owned())?;
        let seconds = time.as_secs();
        if time.subsec_nanos() != 0 || !LIFETIMES_S.contains(&seconds) {
            return Err("must be whole seconds, from 1s to 365d".to_owned());
        }
        u32::try_from(seconds)
            .map(Self)
            .map_err(|_| form.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flags: FlowFlags,
    }

    const GIB: u64 = 1 << 30;

    fn flags(line: &str) -> Result<FlowFlags, String> {
        let words = std::iter::once("run").chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        Ok(line.flags)
    }

    fn check(line: &str) -> Result<(FlowSettings, FlowTableSizes), String> {
        let flags = flags(line)?;
        let settings = flags.check(PortRange::default());
        let sizes = flags.sizes(Some(GIB));
        match (settings, sizes) {
            (Ok(settings), Ok(sizes)) => Ok((settings, sizes)),
            (Err(error), _) | (_, Err(error)) => Err(error.to_string()),
        }
    }

    #[test]
    fn nothing_given_is_what_the_documentation_says() {
        let sizes = FlowTableSizes {
            size: 65_536,
            max: 262_144,
            is_given: false,
        };
        assert_eq!(check(""), Ok((FlowSettings::default(), sizes)));
        assert_eq!(FlowSettings::default().features(), features::ECHO);
    }

    #[test]
    fn what_is_given_is_what_is_set() {
        let (settings, sizes) = check(
            "--flow-table-size 1024 --flow-table-max 2048 --affinity-size 7 --ping no --tcp-after-removal reset \
             --snat-ports 20000-20001 --timeout-tcp-established 3h --timeout-tcp-half-open 11s \
             --timeout-tcp-close-wait 12s --timeout-udp 13s --timeout-udp-stream 14s --timeout-sctp 1m30s",
        )
        .expect("valid");
        let expected = FlowSettings {
            affinity_size: 7,
            ping: Ping::No,
            tcp_after_removal: TcpAfterRemoval::Reset,
            snat_ports: "20000-20001".parse().expect("literal"),
            timeouts: Timeouts {
                tcp_half_open: 11,
                tcp_established: 3 * 3600,
                tcp_close_wait: 12,
                udp: 13,
                udp_stream: 14,
                sctp_established: 90,
            },
        };
        assert_eq!(settings, expected);
        assert_eq!(settings.features(), features::RESET_GONE);
        let expected = FlowTableSizes {
            size: 1_024,
            max: 2_048,
            is_given: true,
        };
        assert_eq!(sizes, expected);
    }

    #[test]
    fn a_size_that_is_given_does_not_follow_the_memory() {
        let sizes = |line, memory| flags(line).expect("valid").sizes(memory).expect("valid");
        assert_eq!(sizes("--flow-table-size 64", Some(64 * GIB)).max, 256);
        let largest = sizes("--flow-table-size 16777216", None);
        assert_eq!((largest.size, largest.max), (1 << 24, 1 << 24));
        let fixed = sizes("--flow-table-size 64 --flow-table-max 64", None);
        assert_eq!((fixed.size, fixed.max), (64, 64));
    }

    #[test]
    fn a_table_that_is_there_keeps_its_size_unless_another_is_asked_for() {
        let sizes = |line| flags(line).expect("valid").sizes(Some(GIB)).expect("valid");
        for (line, found, expected) in [
            ("", 64, 64),
            ("", 1 << 24, 1 << 24),
            ("--flow-table-max 131072", 262_144, 262_144),
            ("--flow-table-size 1024", 1_024, 1_024),
            ("--flow-table-size 1024", 4_096, 4_096),
            ("--flow-table-size 1024", 8_192, 1_024),
            ("--flow-table-size 1024 --flow-table-max 1024", 2_048, 1_024),
            ("--flow-table-size 1024", 512, 1_024),
            ("--flow-table-size 1024 --flow-table-max 4096", 2_048, 2_048),
            ("--flow-table-size 1024 --flow-table-max 4096", 4_096, 4_096),
            ("--flow-table-size 1024 --flow-table-max 4096", 8_192, 1_024),
        ] {
            assert_eq!(sizes(line).of_earlier(found), expected, "{line} {found}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_named_with_its_flag_and_value() {
        for (line, message) in [
            (
                "--flow-table-size 1000",
                "--flow-table-size 1000: must be a power of two from 64 to 16777216",
            ),
            (
                "--flow-table-size 32",
                "--flow-table-size 32: must be a power of two",
            ),
            (
                "--flow-table-max 33554432",
                "--flow-table-max 33554432: must be a power of two",
            ),
            (
                "--flow-table-size 128 --flow-table-max 64",
                "--flow-table-max 64: is less than --flow-table-size 128",
            ),
            (
                "--snat-ports 32000-33000",
                "--snat-ports 32000-33000 overlaps --service-node-port-range 30000-32767",
            ),
            (
                "--snat-ports 1000-2000",
                "--snat-ports 1000-2000: ports below 1024",
            ),
            ("--snat-ports 5", "not of the form FROM-TO"),
            ("--affinity-size 0", "--affinity-size 0"),
            ("--timeout-udp 0s", "from 1s to 365d"),
            ("--timeout-udp 366d", "from 1s to 365d"),
            ("--timeout-udp 1500ms", "whole seconds"),
            ("--timeout-udp 30", "not a time as in 30s"),
            ("--ping maybe", "--ping"),
        ] {
            let error = check(line).expect_err(line);
            assert!(error.contains(message), "{line}: {error}");
        }
    }

    #[test]
    fn lifetimes_are_spelt_as_they_are_read() {
        for text in ["1s", "1m", "3m30s", "1h", "1day", "365d"] {
            let lifetime: Lifetime = text.parse().expect(text);
            assert_eq!(lifetime.to_string().parse(), Ok(lifetime), "{text}");
        }
        assert_eq!(Lifetime(210).to_string(), "3m30s");
    }
}
