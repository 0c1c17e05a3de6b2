//! What is measured, by name, unit and sense: one list for rows, plots and the bar.

use serde::{Deserialize, Serialize};

/// One kind of figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Measure {
    /// CPU time of a packet, few established flows.
    EstablishedFew,
    /// The same, many of them.
    EstablishedMany,
    /// CPU time of the first packet of a flow.
    FirstPacket,
    /// CPU time of a TCP connection.
    Connection,
    /// How long `connect` takes, the middle.
    ConnectMiddle,
    /// The same, one in a hundred takes longer.
    ConnectTail,
    /// Bits of a TCP stream for each second of one CPU.
    Stream,
    /// A program on a packet that is none of IP.
    RunPass,
    /// On one that belongs to no service.
    RunMiss,
    /// On one that opens a flow.
    RunOpen,
    /// On one of one flow.
    RunHitOne,
    /// On one of many flows.
    RunHitMany,
    /// On one of a great many flows.
    RunHitMost,
    /// Manifests in JSON: from the first byte that is read to objects.
    ParseJson,
    /// The same in YAML.
    ParseYaml,
    /// From objects to what the tables should say.
    Compile,
    /// To find out what is to be written.
    Plan,
    /// To write it.
    Write,
    /// From parsed objects to the last write of a map.
    Load,
    /// From the agent's start, or that of the peer's tool, to its readiness.
    Ready,
    /// As [`Self::Load`], when one endpoint changes, but to where packets see all of it.
    Seen,
    /// As [`Self::Load`], when one endpoint changes.
    Change,
    /// From the change of the file to the last write.
    Followed,
    /// As [`Self::Seen`], when a service comes or goes.
    ServiceSeen,
    /// As [`Self::Change`], when a service comes or goes.
    ServiceChange,
    /// Memory of the agent's own that is resident.
    Memory,
    /// The same for each endpoint.
    MemoryEach,
    /// The most that was resident, with what of its tables was mapped.
    MemoryPeak,
    /// Memory of the tables.
    Tables,
}

impl Measure {
    /// In the order of the report.
    pub(crate) const ALL: [Self; 29] = [
        Self::EstablishedFew,
        Self::EstablishedMany,
        Self::FirstPacket,
        Self::Connection,
        Self::ConnectMiddle,
        Self::ConnectTail,
        Self::Stream,
        Self::RunPass,
        Self::RunMiss,
        Self::RunOpen,
        Self::RunHitOne,
        Self::RunHitMany,
        Self::RunHitMost,
        Self::ParseJson,
        Self::ParseYaml,
        Self::Compile,
        Self::Plan,
        Self::Write,
        Self::Load,
        Self::Ready,
        Self::Seen,
        Self::Change,
        Self::Followed,
        Self::ServiceSeen,
        Self::ServiceChange,
        Self::Memory,
        Self::MemoryEach,
        Self::MemoryPeak,
        Self::Tables,
    ];

    /// What it is, in words.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::EstablishedFew => "UDP packet, 1,024 established flows",
            Self::EstablishedMany => "UDP packet, 65,536 established flows",
            Self::FirstPacket => "UDP packet, the first of its flow",
            Self::Connection => "TCP connection",
            Self::ConnectMiddle => "TCP connect, p50",
            Self::ConnectTail => "TCP connect, p99",
            Self::Stream => "TCP stream, per CPU",
            Self::RunPass => "program run: passed, not IP",
            Self::RunMiss => "program run: passed, no service",
            Self::RunOpen => "program run: opens a flow",
            Self::RunHitOne => "program run: hit, 1 flow",
            Self::RunHitMany => "program run: hit, 65,536 flows",
            Self::RunHitMost => "program run: hit, 1,048,576 flows",
            Self::ParseJson => "load services: parse JSON",
            Self::ParseYaml => "load services: parse YAML",
            Self::Compile => "load services: compile",
            Self::Plan => "load services: plan",
            Self::Write => "load services: write maps",
            Self::Load => "load services: parsed to last write",
            Self::Ready => "load services: from start to ready",
            Self::Seen => "change one endpoint: parsed to seen by packets",
            Self::Change => "change one endpoint: parsed to last write",
            Self::Followed => "change one endpoint: file to last write",
            Self::ServiceSeen => "a service comes or goes: parsed to seen by packets",
            Self::ServiceChange => "a service comes or goes: parsed to last write",
            Self::Memory => "agent, own memory",
            Self::MemoryEach => "agent, own memory per endpoint",
            Self::MemoryPeak => "agent, at most, with mapped tables",
            Self::Tables => "tables in the kernel",
        }
    }

    /// In what it is counted.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::EstablishedFew | Self::EstablishedMany | Self::FirstPacket => "ns CPU",
            Self::Connection => "us CPU",
            Self::ConnectMiddle | Self::ConnectTail => "us",
            Self::Stream => "Gbit/s",
            Self::RunPass
            | Self::RunMiss
            | Self::RunOpen
            | Self::RunHitOne
            | Self::RunHitMany
            | Self::RunHitMost => "ns",
            Self::ParseJson
            | Self::ParseYaml
            | Self::Compile
            | Self::Plan
            | Self::Write
            | Self::Load
            | Self::Ready
            | Self::Seen
            | Self::Change
            | Self::Followed
            | Self::ServiceSeen
            | Self::ServiceChange => "ms",
            Self::MemoryEach => "B",
            Self::Memory | Self::MemoryPeak | Self::Tables => "MiB",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_whole_and_in_order() {
        assert!(Measure::ALL.is_sorted());
        assert_eq!(Measure::ALL.last(), Some(&Measure::Tables));
        assert_eq!(Measure::ALL.len(), Measure::Tables as usize + 1);
    }
}
