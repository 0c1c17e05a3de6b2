//! A UDP socket of both families that answers from the address that it was asked at.
//!
//! A node has several addresses; an answer by an unbound socket would come from the one that suits its way back, and the
//! client would not know it. The kernel says of each datagram which address it went to (RFC 3542, section 6).

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{Ipv6Addr, SocketAddrV6, UdpSocket},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use nix::{
    cmsg_space,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt,
        sockopt,
    },
};

/// See the module.
#[derive(Debug)]
pub(crate) struct DatagramSocket {
    socket: UdpSocket,
    /// Where the kernel notes which address a datagram went to.
    control: Vec<u8>,
}

/// Who sent a datagram, and to which of our addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    /// The sender; IPv4 in IPv6's clothes.
    pub(crate) from: SocketAddrV6,
    to: libc::in6_pktinfo,
}

impl DatagramSocket {
    /// A socket of both families on this port; it does not block.
    pub(crate) fn bind(port: u16) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        Ok(Self {
            socket,
            control: cmsg_space!(libc::in6_pktinfo),
        })
    }

    /// The next datagram that waits, its length, and who sent it.
    pub(crate) fn receive(&mut self, datagram: &mut [u8]) -> io::Result<(usize, Question)> {
        let mut parts = [IoSliceMut::new(datagram)];
        let message = recvmsg::<SockaddrIn6>(
            self.socket.as_raw_fd(),
            &mut parts,
            Some(&mut self.control),
            MsgFlags::empty(),
        )?;
        let to = message.cmsgs()?.find_map(|note| match note {
            ControlMessageOwned::Ipv6PacketInfo(to) => Some(to),
            _ => None,
        });
        let (Some(from), Some(mut to)) = (message.address, to) else {
            return Err(io::Error::other("a datagram without addresses"));
        };
        // The answer leaves by whatever device leads to the sender.
        to.ipi6_ifindex = 0;
        let from = SocketAddrV6::from(from);
        Ok((message.bytes, Question { from, to }))
    }

    /// Sends the sender of `question` an answer, from the address that he asked.
    pub(crate) fn answer(&self, question: &Question, answer: &[u8]) -> io::Result<()> {
        let note = [ControlMessage::Ipv6PacketInfo(&question.to)];
        let to = SockaddrIn6::from(question.from);
        let (fd, parts) = (self.socket.as_raw_fd(), [IoSlice::new(answer)]);
        sendmsg(fd, &parts, &note, MsgFlags::empty(), Some(&to))?;
        Ok(())
    }
}

impl AsFd for DatagramSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
