//! Sockets that wait for clients, as `/proc/PID/net` lists them, and the processes that have them.
//!
//! Read only.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use crate::desired::Protocol;

/// The lists of a network namespace, and what is in them.
const LISTS: [(&str, Protocol); 4] = [
    ("tcp", Protocol::Tcp),
    ("tcp6", Protocol::Tcp),
    ("udp", Protocol::Udp),
    ("udp6", Protocol::Udp),
];
/// `TCP_LISTEN` of `net/tcp_states.h`.
const LISTENING: u8 = 10;
/// `TCP_CLOSE`: of a datagram socket that it is not connected, so that it takes what anybody sends.
const UNCONNECTED: u8 = 7;

/// A socket that takes what clients send first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Socket {
    /// Its protocol.
    pub protocol: Protocol,
    /// The address that it is bound to; unspecified: all addresses.
    pub address: IpAddr,
    /// The port that it is bound to.
    pub port: u16,
    /// Its number, which tells whose it is.
    pub inode: u64,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// The name of its program, as far as the kernel keeps it.
    pub name: String,
}

/// The sockets of the network namespace of a process, this one if none is named.
pub(super) fn read(pid: Option<u32>) -> io::Result<Vec<Socket>> {
    let pid = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let mut sockets = Vec::new();
    for (list, protocol) in LISTS {
        match fs::read_to_string(format!("/proc/{pid}/net/{list}")) {
            Ok(text) => sockets.extend(parse(&text, protocol)),
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound && list.ends_with('6') => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sockets)
}

/// The sockets in such a list that take what clients send first. What is no line of one is passed over.
fn parse(text: &str, protocol: Protocol) -> Vec<Socket> {
    text.lines()
        .filter_map(|line| socket(line, protocol))
        .collect()
}

/// `sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode ...`
fn socket(line: &str, protocol: Protocol) -> Option<Socket> {
    let mut fields = line.split_ascii_whitespace();
    let (address, port) = fields.nth(1)?.rsplit_once(':')?;
    let state = u8::from_str_radix(fields.nth(1)?, 16).ok()?;
    let inode = fields.nth(5)?.parse().ok()?;
    let waits = match protocol {
        Protocol::Tcp => state == LISTENING,
        Protocol::Udp | Protocol::Sctp => state == UNCONNECTED,
    };
    let socket = Socket {
        protocol,
        address: self::address(address)?.to_canonical(),
        port: u16::from_str_radix(port, 16).ok()?,
        inode,
    };
    (waits && socket.port != 0).then_some(socket)
}

/// The words of an address in hexadecimal, each as this machine reads the four bytes on the wire.
fn address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = text.get(at * 8..(at + 1) * 8)?;
        Some(u32::from_str_radix(word, 16).ok()?.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// Who has these sockets, as far as this process may see it.
pub(super) fn owners(inodes: &BTreeSet<u64>) -> BTreeMap<u64, BTreeSet<Process>> {
    let mut owners = BTreeMap::<u64, BTreeSet<Process>>::new();
    if inodes.is_empty() {
        return owners;
    }
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for entry in entries {
        let Some(pid) = entry.file_name().to_str().and_then(|it| it.parse().ok()) else {
            continue;
        };
        let open = open_sockets(&entry.path()).filter(|inode| inodes.contains(inode));
        for inode in open {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            let name = name.trim_end().to_owned();
            owners
                .entry(inode)
                .or_default()
                .insert(Process { pid, name });
        }
    }
    owners
}

/// The sockets among the open files of a process; none of one that is not ours to look at.
fn open_sockets(process: &Path) -> impl Iterator<Item = u64> + use<> {
    let files = fs::read_dir(process.join("fd")).into_iter().flatten();
    files.flatten().filter_map(|file| {
        let target = fs::read_link(file.path()).ok()?;
        let inode = target.to_str()?.strip_prefix("socket:[")?;
        inode.strip_suffix(']')?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    /// A line as the kernel writes it on this machine.
    fn line(words: &[u32], port: u16, state: u8, inode: u64) -> String {
        let hex = |words: &[u32]| {
            words.iter().fold(String::new(), |text, word| {
                let native = u32::from_ne_bytes(word.to_be_bytes());
                format!("{text}{native:08X}")
            })
        };
        let peer = hex(&vec![0; words.len()]);
        format!(
            "   0: {}:{port:04X} {peer}:0000 {state:02X} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0 100 0 0 10 0\n",
            hex(words)
        )
    }

    fn found(text: &str, protocol: Protocol) -> Vec<String> {
        parse(text, protocol)
            .iter()
            .map(|it| format!("{} {} {} {}", it.protocol, it.address, it.port, it.inode))
            .collect()
    }

    #[test]
    fn listening_sockets_are_read_and_connections_are_not() {
        const ESTABLISHED: u8 = 1;
        let text = [
            HEAD.to_owned(),
            line(&[0], 30_080, LISTENING, 7),
            line(&[0x7f00_0001], 80, LISTENING, 8),
            line(&[0xc612_0001], 30_080, ESTABLISHED, 9),
        ];
        let text = text.concat();
        assert_eq!(
            found(&text, Protocol::Tcp),
            ["TCP 0.0.0.0 30080 7", "TCP 127.0.0.1 80 8"]
        );
        assert_eq!(found(&text, Protocol::Udp), [""; 0]);
    }

    #[test]
    fn datagram_sockets_count_while_they_are_bound_and_not_connected() {
        let six = [0xfd00_0198, 0x0018_0000, 0, 1];
        let mapped = [0, 0, 0xffff, 0xc612_0001];
        let text = [
            line(&[0, 0, 0, 0], 53, UNCONNECTED, 1),
            line(&six, 30_053, UNCONNECTED, 2),
            line(&six, 30_053, 1, 3),
            line(&mapped, 30_054, UNCONNECTED, 4),
            line(&six, 0, UNCONNECTED, 5),
        ];
        assert_eq!(
            found(&text.concat(), Protocol::Udp),
            [
                "UDP :: 53 1",
                "UDP fd00:198:18::1 30053 2",
                "UDP 198.18.0.1 30054 4"
            ]
        );
    }

    #[test]
    fn what_is_no_line_of_a_list_is_passed_over() {
        for text in [
            "",
            HEAD,
            "0: 00:1F90 00:0000 0A",
            "0: 0100007F 0 0A 0 0 0 0 0 1",
            "0: é100007:0050 x",
        ] {
            assert_eq!(found(text, Protocol::Tcp), [""; 0], "{text:?}");
        }
    }

    #[test]
    fn the_process_of_a_socket_is_found_by_its_open_files() {
        use std::os::fd::AsRawFd;
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).expect("open");
        let link = link.display().to_string();
        let inode = link
            .trim_matches(|c: char| !c.is_ascii_digit())
            .parse()
            .expect("a number");
        let port = socket.local_addr().expect("bound").port();
        let listed = read(None).expect("readable");
        let here = listed.iter().find(|it| it.inode == inode).expect("listed");
        assert_eq!((here.protocol, here.port), (Protocol::Udp, port));
        let owners = owners(&BTreeSet::from([inode]));
        let pids: Vec<u32> = owners[&inode].iter().map(|it| it.pid).collect();
        assert_eq!(pids, [std::process::id()]);
    }
}
