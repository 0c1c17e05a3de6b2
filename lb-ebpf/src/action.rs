//! From a context to a packet, and from the datapath's verdict to what the kernel does.

use aya_ebpf::{
    EbpfContext,
    bindings::{__sk_buff, BPF_F_INGRESS, TC_ACT_OK, TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    helpers::generated::{
        bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_change_head,
        bpf_skb_change_type, bpf_skb_vlan_pop,
    },
    programs::{TcContext, XdpContext},
};
use lb_common::{
    abi::{NextHop, Reason, node::features},
    datapath::{Packet, Role, Tables, Verdict, Via, process},
    net::{
        addr::{Addr4, Addr6},
        eth::{self, Ethernet, ether_type},
    },
};

use crate::{
    log::debug,
    maps::{FamilyMaps, XDP_DEVICES},
    packet::{TcPacket, XdpPacket},
    tables::{KernelTables, node},
};

/// `PACKET_HOST` of `include/uapi/linux/if_packet.h`: the frame is addressed to this node.
const PACKET_HOST: u32 = 0;
/// `PACKET_OTHERHOST`: to another station's MAC.
const PACKET_OTHERHOST: u32 = 3;

/// Where a tag names its VLAN (IEEE 802.1Q).
const VID: u32 = 0xfff;

/// One packet at TC, `L2` bytes of header before IP.
#[inline(always)]
pub(crate) fn classify<const L2: u32>(ctx: &TcContext, role: Role) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the context lives as long as the program.
    let (protocol, tagged, kind, ifindex) = unsafe {
        (
            (*skb).protocol,
            (*skb).vlan_present,
            (*skb).pkt_type,
            (*skb).ifindex,
        )
    };
    let tables = KernelTables::<false> {
        ctx: ctx.as_ptr(),
        ifindex,
        role,
    };
    // SAFETY: the context lives as long as the program.
    let is_forwarded = unsafe { (*skb).ingress_ifindex } != 0;
    if role == Role::Egress && is_forwarded && node().features & features::LEAVING == 0 {
        count(&tables, Reason::PassForwarded);
        return TC_ACT_UNSPEC;
    }
    if tagged != 0 && !untag(skb, role) || !is_for(role, kind) {
        count(&tables, Reason::PassNotForUs);
        return TC_ACT_UNSPEC;
    }
    let mut packet = TcPacket::<L2>::new(skb);
    let (verdict, hop) = match u16::from_be(protocol as u16) {
        ether_type::IPV4 => run::<Addr4, _, false>(&mut packet, &tables),
        ether_type::IPV6 => run::<Addr6, _, false>(&mut packet, &tables),
        _ => {
            count(&tables, Reason::PassNotIp);
            return TC_ACT_UNSPEC;
        }
    };
    match (verdict, hop) {
        (Verdict::Send(Via::Stack), _) => TC_ACT_OK,
        (Verdict::Send(Via::Host), _) => inject(ctx, packet, &tables),
        (Verdict::Send(via), Some(hop)) => send(ctx, packet, &tables, via, hop),
        (Verdict::Back, _) => send_back(ctx, packet, &tables),
        (Verdict::Drop, _) => {
            debug!(ctx, "dropped: see the counters for the reason");
            TC_ACT_SHOT
        }
        _ => TC_ACT_UNSPEC,
    }
}

/// Takes off a tag that says no more than a priority (IEEE 802.1Q: VID 0), as the stack does a little later. False: it
/// names a VLAN, and the frame belongs to that one's device.
#[inline(always)]
fn untag(skb: *mut __sk_buff, role: Role) -> bool {
    // SAFETY: the context lives as long as the program.
    let vid = unsafe { (*skb).vlan_tci } & VID;
    // SAFETY: takes no pointers but the context.
    vid == 0 && role.is_ingress() && unsafe { bpf_skb_vlan_pop(skb) } == 0
}

/// The datapath with this CPU's work area; what it sends goes to the next hop that is returned.
#[inline(always)]
fn run<A: FamilyMaps, P: Packet, const XDP: bool>(
    packet: &mut P,
    tables: &KernelTables<XDP>,
) -> (Verdict, Option<&'static NextHop>) {
    let Some(work) = A::work().get_ptr_mut(0) else {
        return (Verdict::Pass, None);
    };
    // SAFETY: this CPU's own value; programs on one CPU do not interrupt each other.
    let work = unsafe { &mut *work };
    (process::<A, P, _>(packet, tables, work), Some(&work.hop))
}

/// True if a frame of this kind may be one that the node routes.
///
/// On a bridge's port pods' frames are addressed to the bridge, or to another pod of it that they answer.
#[inline(always)]
fn is_for(role: Role, kind: u32) -> bool {
    match role {
        Role::Uplink | Role::Host => kind == PACKET_HOST,
        Role::Pod => kind == PACKET_HOST || kind == PACKET_OTHERHOST,
        Role::Loopback | Role::Egress => true,
    }
}

/// Gives a packet to the host's own stack, as if it came in by the device that is made for that.
#[inline(always)]
fn inject<const L2: u32>(
    ctx: &TcContext,
    mut packet: TcPacket<L2>,
    tables: &KernelTables<false>,
) -> i32 {
    let node = node();
    if make_frame(ctx, &mut packet, &node.host_macs).is_none() {
        count(tables, Reason::DropEdit);
        return TC_ACT_SHOT;
    }
    // SAFETY: takes no pointers.
    unsafe { bpf_redirect(node.host_ifindex, u64::from(BPF_F_INGRESS)) as i32 }
}

/// Sends an answer to where the packet came from.
#[inline(always)]
fn send_back<const L2: u32>(
    ctx: &TcContext,
    mut packet: TcPacket<L2>,
    tables: &KernelTables<false>,
) -> i32 {
    if L2 != 0 && packet.swap_macs().is_none() {
        count(tables, Reason::DropEdit);
        return TC_ACT_SHOT;
    }
    // SAFETY: the context lives as long as the program; takes no pointers.
    unsafe { bpf_redirect((*ctx.skb.skb).ifindex, 0) as i32 }
}

/// Puts both MACs before a packet, and an Ethernet header where it has none yet.
#[inline(always)]
fn make_frame<const L2: u32>(
    ctx: &TcContext,
    packet: &mut TcPacket<L2>,
    macs: &[u32; 3],
) -> Option<()> {
    let skb = ctx.skb.skb;
    if L2 != 0 {
        return packet.write_macs(macs);
    }
    // SAFETY: the helper grows the packet by a zeroed header and resets the MAC header to it.
    if unsafe { bpf_skb_change_head(skb, eth::LEN, 0) } != 0 {
        return None;
    }
    // SAFETY: the context lives as long as the program.
    let ether_type = unsafe { (*skb).protocol } as u16;
    packet.write_macs(macs)?;
    TcPacket::<12>::over(skb).write(0, ether_type)
}

/// Redirects a rewritten packet. The kernel takes the Ethernet header off again where the target has none.
#[inline(always)]
fn send<const L2: u32>(
    ctx: &TcContext,
    mut packet: TcPacket<L2>,
    tables: &KernelTables<false>,
    via: Via,
    hop: &NextHop,
) -> i32 {
    // The kernel writes the MACs of a neighbour that it resolves itself.
    if (L2 == 0 || via == Via::Neighbour) && make_frame(ctx, &mut packet, &hop.macs).is_none() {
        count(tables, Reason::DropEdit);
        return TC_ACT_SHOT;
    }
    if via == Via::Kernel {
        // SAFETY: without parameters the kernel looks up the next hop and resolves its neighbour.
        return unsafe { bpf_redirect_neigh(hop.ifindex, core::ptr::null_mut(), 0, 0) as i32 };
    }
    if tables.role.is_ingress() && hop.is_straight() {
        return hand_over(ctx, tables, hop);
    }
    // SAFETY: takes no pointers.
    unsafe { bpf_redirect(hop.ifindex, 0) as i32 }
}

/// Hands a packet to the other end of its device, in a pod's network namespace, as if it had come in there; this end, with
/// its queue, does not see it.
#[inline(always)]
fn hand_over(ctx: &TcContext, tables: &KernelTables<false>, hop: &NextHop) -> i32 {
    let skb = ctx.skb.skb;
    // What leaves a network namespace leaves these behind, but the kernel does not see to it on this way.
    // SAFETY: the context lives as long as the program.
    unsafe {
        (*skb).mark = 0;
        (*skb).priority = 0;
    }
    // Nor does it see by the MAC whom the frame is for, which was another station where a bridge's port is passed by.
    // SAFETY: takes no pointers but the context.
    if tables.role == Role::Pod && unsafe { bpf_skb_change_type(skb, PACKET_HOST) } != 0 {
        count(tables, Reason::DropEdit);
        return TC_ACT_SHOT;
    }
    // SAFETY: takes no pointers.
    unsafe { bpf_redirect_peer(hop.ifindex, 0) as i32 }
}

/// One packet before the stack. Whatever is not forwarded here goes on untouched.
#[inline(always)]
pub(crate) fn xdp(ctx: &XdpContext) -> u32 {
    let ifindex = ctx.ingress_ifindex() as u32;
    let tables = KernelTables::<true> {
        ctx: ctx.as_ptr(),
        ifindex,
        role: Role::Uplink,
    };
    let mut packet = XdpPacket::new(ctx.ctx);
    let Some(header) = packet.ethernet() else {
        return xdp_action::XDP_PASS;
    };
    // SAFETY: the pointer was checked against the packet's end.
    let Ethernet {
        dst, ether_type, ..
    } = unsafe { header.read_unaligned() };
    // Group addresses are never ours; other nodes' frames do not reach a driver that filters.
    if dst[0] & 1 != 0 {
        count(&tables, Reason::PassNotForUs);
        return xdp_action::XDP_PASS;
    }
    let (verdict, hop) = match u16::from_be_bytes(ether_type) {
        ether_type::IPV4 => run::<Addr4, _, true>(&mut packet, &tables),
        ether_type::IPV6 => run::<Addr6, _, true>(&mut packet, &tables),
        _ => {
            count(&tables, Reason::PassNotIp);
            return xdp_action::XDP_PASS;
        }
    };
    let hop = match (verdict, hop) {
        (Verdict::Send(Via::Neighbour), Some(hop)) => hop,
        (Verdict::Pass, _) => return xdp_action::XDP_PASS,
        _ => return xdp_action::XDP_DROP,
    };
    if packet.write_macs(&hop.macs).is_none() {
        return xdp_action::XDP_DROP;
    }
    if hop.ifindex == ifindex {
        return xdp_action::XDP_TX;
    }
    // A device that has gone since it was asked for: the packet is lost, as it would be at TC.
    XDP_DEVICES
        .redirect(hop.ifindex, xdp_action::XDP_DROP.into())
        .unwrap_or(xdp_action::XDP_DROP)
}

/// Counts outside of the datapath proper, where no family is known yet.
#[inline(always)]
fn count<const XDP: bool>(tables: &KernelTables<XDP>, reason: Reason) {
    Tables::<Addr4>::count(tables, reason);
}
