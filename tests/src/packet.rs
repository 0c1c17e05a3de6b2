//! Ethernet frames: what a test gives to a program and what it expects back.
//!
//! The packets inside are made by [`lb_common::fake::PacketSpec`]; a frame adds MACs and `EtherType`, and shows itself as
//! a hex dump when two of them differ.

use std::fmt;

use lb_common::{
    fake::PacketSpec,
    net::{
        addr::Addr,
        eth::{Ethernet, LEN},
        ip::IpHeader,
    },
};

/// A station's address.
pub type Mac = [u8; 6];

/// Bytes of a frame from the destination MAC on.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame(pub Vec<u8>);

impl Frame {
    /// The frame that carries the packet of `spec`.
    pub fn of<A: Addr>(macs: Macs, spec: &PacketSpec<A>) -> Self {
        Self::new(macs, A::Header::ETHER_TYPE, spec.packet().bytes())
    }

    /// Any frame.
    pub fn new(macs: Macs, ether_type: u16, payload: &[u8]) -> Self {
        let Macs { dst, src } = macs;
        let header = Ethernet {
            dst,
            src,
            ether_type: ether_type.to_be_bytes(),
        };
        Self([bytes_of(&header), payload].concat())
    }

    /// The bytes, from the destination MAC on.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The packet inside, from its IP header on.
    pub fn packet(&self) -> &[u8] {
        self.0.get(LEN as usize..).unwrap_or_default()
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())?;
        for (row, bytes) in self.0.chunks(16).enumerate() {
            write!(f, "\n  {:04x} ", row * 16)?;
            bytes.iter().try_for_each(|byte| write!(f, " {byte:02x}"))?;
        }
        Ok(())
    }
}

/// To whom a frame goes, and from whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Macs {
    /// The receiver.
    pub dst: Mac,
    /// The sender.
    pub src: Mac,
}

fn bytes_of(header: &Ethernet) -> &[u8] {
    bytemuck::bytes_of(header)
}

#[cfg(test)]
mod tests {
    use lb_common::{fake::Transport, net::addr::Addr4};

    use super::*;

    const MACS: Macs = Macs {
        dst: [1; 6],
        src: [2; 6],
    };

    #[test]
    fn a_frame_is_its_header_and_its_packet() {
        let ends = [Addr4 { be32: 1 }, Addr4 { be32: 2 }];
        let spec = PacketSpec::new((ends[0], 1), (ends[1], 2), Transport::Udp);
        let frame = Frame::of(MACS, &spec);
        assert_eq!(
            frame.bytes()[..14],
            [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 8, 0]
        );
        assert_eq!(frame.packet(), spec.packet().bytes());
    }

    #[test]
    fn a_frame_shows_itself_as_rows_of_sixteen_bytes() {
        let frame = Frame::new(MACS, 0x0806, &[0xab, 0xcd, 0xef]);
        let expected =
            "17 bytes\n  0000  01 01 01 01 01 01 02 02 02 02 02 02 08 06 ab cd\n  0010  ef";
        assert_eq!(format!("{frame:?}"), expected);
    }
}
