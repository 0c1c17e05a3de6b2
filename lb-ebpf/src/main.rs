//! The kernel host of fulcrum's datapath: program entry points, nothing else.
//!
//! Each program is [`lb_common::datapath::process`] with a role and an L2 length fixed at compile time.
//! On any other target than BPF this crate is an empty binary, so that the workspace builds as one.

#![cfg_attr(
    target_arch = "bpf",
    no_std,
    no_main,
    feature(asm_experimental_arch, core_intrinsics)
)]
#![cfg_attr(
    target_arch = "bpf",
    expect(
        internal_features,
        reason = "the BPF target has no AtomicU32; its instructions are there"
    )
)]
#![cfg_attr(
    target_arch = "bpf",
    expect(
        clippy::inline_always,
        reason = "BPF allows 512 bytes of stack over a call chain: what is a call and what is not is a design decision"
    )
)]

#[cfg(target_arch = "bpf")]
mod action;
#[cfg(target_arch = "bpf")]
mod carry;
#[cfg(target_arch = "bpf")]
mod dial;
#[cfg(target_arch = "bpf")]
mod log;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod memory;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod pieces;
#[cfg(target_arch = "bpf")]
mod socket;
#[cfg(target_arch = "bpf")]
mod stages;
#[cfg(target_arch = "bpf")]
mod tables;
#[cfg(target_arch = "bpf")]
mod trace;

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{
        macros::{cgroup_sock_addr, classifier, xdp},
        programs::{SockAddrContext, TcContext, XdpContext},
    };
    use lb_common::datapath::Role;

    use crate::{
        action,
        carry::carry as carry_over,
        dial::{self, Connect, Peer, Receive, Send},
        trace::trace as explain,
    };

    /// Host side of a pod's device, ingress.
    #[classifier]
    fn pod(ctx: TcContext) -> i32 {
        action::classify::<14>(&ctx, Role::Pod)
    }

    /// Ethernet device that leads out of the node, ingress.
    #[classifier]
    fn uplink(ctx: TcContext) -> i32 {
        action::classify::<14>(&ctx, Role::Uplink)
    }

    /// The far end of the host's own pair, ingress: the node's processes dial.
    #[classifier]
    fn host(ctx: TcContext) -> i32 {
        action::classify::<14>(&ctx, Role::Host)
    }

    /// The loopback device, egress: the node to its own addresses.
    #[classifier]
    fn lo(ctx: TcContext) -> i32 {
        action::classify::<14>(&ctx, Role::Loopback)
    }

    /// Any Ethernet device but those two, egress: the node's processes answer.
    #[classifier]
    fn egress(ctx: TcContext) -> i32 {
        action::classify::<14>(&ctx, Role::Egress)
    }

    /// The same for a device without L2 header.
    #[classifier]
    fn egress_l3(ctx: TcContext) -> i32 {
        action::classify::<0>(&ctx, Role::Egress)
    }

    /// The same for a device without L2 header (ipip, wireguard, tun).
    #[classifier]
    fn uplink_l3(ctx: TcContext) -> i32 {
        action::classify::<0>(&ctx, Role::Uplink)
    }

    /// Ethernet device that leads out of the node, before the stack.
    #[xdp(frags)]
    fn xdp_uplink(ctx: XdpContext) -> u32 {
        action::xdp(&ctx)
    }

    /// Attached nowhere: run by hand to say what would become of a packet.
    #[classifier]
    fn trace(ctx: TcContext) -> i32 {
        explain(&ctx)
    }

    /// Attached nowhere: run by hand to carry flows over into a larger table.
    #[classifier]
    fn carry(ctx: TcContext) -> i32 {
        carry_over(&ctx)
    }

    /// A socket of IPv4 dials.
    #[cgroup_sock_addr(connect4)]
    fn connect4(ctx: SockAddrContext) -> i32 {
        dial::v4(&ctx, Connect)
    }

    /// A socket of IPv6 dials.
    #[cgroup_sock_addr(connect6)]
    fn connect6(ctx: SockAddrContext) -> i32 {
        dial::v6(&ctx, Connect)
    }

    /// A socket sends a datagram to an address of IPv4.
    #[cgroup_sock_addr(sendmsg4)]
    fn sendmsg4(ctx: SockAddrContext) -> i32 {
        dial::v4(&ctx, Send)
    }

    /// A socket sends a datagram to an address of IPv6.
    #[cgroup_sock_addr(sendmsg6)]
    fn sendmsg6(ctx: SockAddrContext) -> i32 {
        dial::v6(&ctx, Send)
    }

    /// A socket of IPv4 receives a datagram.
    #[cgroup_sock_addr(recvmsg4)]
    fn recvmsg4(ctx: SockAddrContext) -> i32 {
        dial::v4(&ctx, Receive)
    }

    /// A socket of IPv6 receives a datagram.
    #[cgroup_sock_addr(recvmsg6)]
    fn recvmsg6(ctx: SockAddrContext) -> i32 {
        dial::v6(&ctx, Receive)
    }

    /// A socket of IPv4 is asked for its other end.
    #[cgroup_sock_addr(getpeername4)]
    fn getpeername4(ctx: SockAddrContext) -> i32 {
        dial::v4(&ctx, Peer)
    }

    /// A socket of IPv6 is asked for its other end.
    #[cgroup_sock_addr(getpeername6)]
    fn getpeername6(ctx: SockAddrContext) -> i32 {
        dial::v6(&ctx, Peer)
    }

    #[panic_handler]
    fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }

    /// The object is dual licensed, so that the kernel allows GPL-only helpers.
    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
