//! A netlink socket that is asked one thing at a time and answers before the call returns.
//!
//! For changes: what was asked for has happened or has not, whatever becomes of the task that asked, and
//! it works while values are dropped. Listings that may be long are [`super::netlink`]'s.

use std::{fmt, io, marker::PhantomData};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// See the module; `M` is the family's message.
pub(crate) struct Channel<M> {
    socket: Socket,
    sequence: u32,
    message: PhantomData<M>,
}

impl<M> Channel<M>
where
    M: NetlinkSerializable + NetlinkDeserializable,
{
    /// A socket of this netlink protocol (`NETLINK_ROUTE`, ...) in the thread's network namespace.
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
            message: PhantomData,
        })
    }

    /// Asks for a change; `flags` are `NLM_F_*` beside those of any request.
    pub(crate) fn change(&mut self, message: M, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.receive(drop)
    }

    /// Asks for one thing, of which `take` gets the answer.
    pub(crate) fn ask(&mut self, message: M, take: impl FnMut(M)) -> io::Result<()> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK)?;
        self.receive(take)
    }

    /// Asks for a listing.
    pub(crate) fn list(&mut self, message: M) -> io::Result<Vec<M>> {
        let mut found = Vec::new();
        self.each(message, |message| found.push(message))?;
        Ok(found)
    }

    /// Asks for a listing that may be long, of which `take` gets one message after the other.
    pub(crate) fn each(&mut self, message: M, take: impl FnMut(M)) -> io::Result<()> {
        self.send(message, NLM_F_REQUEST | NLM_F_DUMP)?;
        self.receive(take)
    }

    /// Asks for many changes in one call; `flags` of each are `NLM_F_*`. Those of whom an acknowledgement is asked are told
    /// apart by it: the first that is refused is the answer.
    pub(crate) fn transact(&mut self, messages: Vec<(M, u16)>) -> io::Result<()> {
        let mut buffer = Vec::new();
        let mut awaited = self.sequence;
        for (message, flags) in messages {
            buffer.extend(self.bytes(message, NLM_F_REQUEST | flags));
            if flags & NLM_F_ACK != 0 {
                awaited = self.sequence;
            }
        }
        self.socket.send(&buffer, 0)?;
        loop {
            let (buffer, _) = self.socket.recv_from_full()?;
            let mut rest = buffer.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<M>::deserialize(rest).map_err(io::Error::other)?;
                let (header, payload) = message.into_parts();
                let length = (header.length as usize).next_multiple_of(4).max(4);
                rest = rest.get(length..).unwrap_or_default();
                match payload {
                    NetlinkPayload::Error(answer) if answer.code.is_some() => {
                        return Err(answer.to_io());
                    }
                    NetlinkPayload::Error(_) if header.sequence_number == awaited => return Ok(()),
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, message: M, flags: u16) -> io::Result<()> {
        let buffer = self.bytes(message, flags);
        self.socket.send(&buffer, 0).map(drop)
    }

    fn bytes(&mut self, message: M, flags: u16) -> Vec<u8> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        buffer
    }

    /// All messages up to the acknowledgement or the end of the listing.
    fn receive(&self, mut take: impl FnMut(M)) -> io::Result<()> {
        loop {
            let (buffer, _) = self.socket.recv_from_full()?;
            let mut rest = buffer.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<M>::deserialize(rest).map_err(io::Error::other)?;
                let (header, payload) = message.into_parts();
                // Messages begin at multiples of four bytes.
                let length = (header.length as usize).next_multiple_of(4).max(4);
                rest = rest.get(length..).unwrap_or_default();
                if header.sequence_number != self.sequence {
                    continue;
                }
                match payload {
                    NetlinkPayload::Done(done) if done.code != 0 => {
                        return Err(io::Error::from_raw_os_error(done.code.saturating_abs()));
                    }
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(answer) if answer.code.is_none() => return Ok(()),
                    NetlinkPayload::Error(answer) => return Err(answer.to_io()),
                    NetlinkPayload::InnerMessage(message) => take(message),
                    _ => {}
                }
            }
        }
    }
}

impl<M> fmt::Debug for Channel<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}
