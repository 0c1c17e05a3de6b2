//! Judgements over made-up sockets.

use super::*;
use crate::check::Level;

const AGENT: u32 = 7;
/// The address of the node at which services answer.
const NODE: &str = "198.18.0.1";

fn served(numbers: &[(u16, Protocol, &str)]) -> BTreeMap<NodePort, Served> {
    let entry = |(port, protocol, service): &(u16, Protocol, &str)| {
        let served = Served {
            service: (*service).to_owned(),
            addresses: [NODE, "fd00:198:18::1"]
                .map(|it| it.parse().expect("literal"))
                .into(),
        };
        (
            NodePort {
                port: *port,
                protocol: *protocol,
            },
            served,
        )
    };
    numbers.iter().map(entry).collect()
}

fn found() -> Found {
    Found {
        served: Ok(Some(served(&[
            (30_080, Protocol::Tcp, "default/web:http"),
            (30_053, Protocol::Udp, "kube-system/dns:dns"),
        ]))),
        sockets: Ok(Vec::new()),
        owners: BTreeMap::new(),
        agent: Some(AGENT),
        ephemeral: Some(["32768\t60999\n", "\n"].map(str::to_owned)),
    }
}

/// With a socket on this address, of processes of these ids.
fn with_socket(mut found: Found, protocol: Protocol, address: &str, pids: &[u32]) -> Found {
    let port = match protocol {
        Protocol::Tcp => 30_080,
        _ => 30_053,
    };
    let sockets = found.sockets.as_mut().expect("listed");
    let inode = sockets.len() as u64 + 1;
    sockets.push(Socket {
        protocol,
        address: address.parse().expect("literal"),
        port,
        inode,
    });
    let process = |pid: &u32| Process {
        pid: *pid,
        name: "nginx".to_owned(),
    };
    found
        .owners
        .insert(inode, pids.iter().map(process).collect());
    found
}

fn lines(found: &Found) -> Vec<String> {
    items(found).iter().map(ToString::to_string).collect()
}

#[test]
fn a_listener_on_a_node_port_is_named_with_its_process_and_the_service() {
    let found = with_socket(found(), Protocol::Tcp, "0.0.0.0", &[812]);
    assert_eq!(
        lines(&found),
        [
            "warn  node ports: 30080/TCP is the node port of default/web:http, and a socket listens there, too: nginx \
             (process 812) on 0.0.0.0; what is sent to 198.18.0.1 goes to the service and never reaches the socket; \
             let the process use another port, or give the service another nodePort"
        ]
    );
}

#[test]
fn sockets_of_one_number_stand_in_one_line() {
    let found = with_socket(found(), Protocol::Udp, "0.0.0.0", &[3, 4, 5]);
    let found = with_socket(found, Protocol::Udp, "fd00:198:18::1", &[3, 4, 5]);
    let found = with_socket(found, Protocol::Udp, "::", &[]);
    let lines = lines(&found);
    let begin = "warn  node ports: 30053/UDP is the node port of kube-system/dns:dns, and a socket receives there, too: \
                 nginx (process 3 and 2 more) on 0.0.0.0, fd00:198:18::1, no process that can be seen from here on ::; \
                 what is sent to 198.18.0.1, fd00:198:18::1 goes ";
    assert_eq!(lines.len(), 1);
    assert!(lines[0].starts_with(begin), "{lines:#?}");
}

#[test]
fn a_socket_that_hears_none_of_the_services_addresses_is_no_clash() {
    for address in ["127.0.0.1", "198.18.0.9", "::1"] {
        let found = with_socket(found(), Protocol::Tcp, address, &[812]);
        assert_eq!(
            lines(&found),
            ["ok    node ports: 2 are served, and no other socket waits on one of them"],
            "{address}"
        );
    }
}

#[test]
fn the_other_protocol_and_the_agent_itself_are_no_clash() {
    let mut other = with_socket(found(), Protocol::Tcp, "0.0.0.0", &[812]);
    other.sockets.as_mut().expect("listed")[0].protocol = Protocol::Udp;
    for found in [other, with_socket(found(), Protocol::Tcp, "::", &[AGENT])] {
        assert_eq!(items(&found)[0].level, Level::Ok, "{found:?}");
    }
}

#[test]
fn ports_that_the_kernel_gives_away_are_noted_with_the_setting_that_keeps_them() {
    let numbers = [30_500, 32_768, 32_769, 32_771, 40_000];
    let number = |port| (port, Protocol::Tcp, "a/b:c");
    let note = |range: &str, reserved: &str| {
        let found = Found {
            served: Ok(Some(served(&numbers.map(number)))),
            ephemeral: Some([range, reserved].map(str::to_owned)),
            ..found()
        };
        let lines = lines(&found);
        lines.get(1).cloned()
    };
    assert_eq!(
        note("32768\t60999\n", "\n").as_deref(),
        Some(
            "note  node ports: 32768, 32769, 32771, 40000 are in the range 32768-60999, out of which the kernel gives \
             ports to sockets that ask for none; what is sent to a socket that waits there goes to the service; \
             sysctl -w net.ipv4.ip_local_reserved_ports=32768-32769,32771,40000"
        )
    );
    let note_with_others = note("32768 60999", "8080,32768-32771\n").expect("one is not kept");
    assert!(
        note_with_others.starts_with("note  node ports: 40000 is in the range ")
            && note_with_others.ends_with("ip_local_reserved_ports=8080,32768-32771,40000"),
        "{note_with_others}"
    );
    assert_eq!(note("32768\t60999\n", "32768-32771,40000"), None);
    assert_eq!(note("1024 2048", ""), None);
}

#[test]
fn without_tables_nothing_is_said_and_what_cannot_be_read_is_told() {
    let no_agent = Found::default();
    assert_eq!(
        lines(&no_agent),
        ["ok    node ports: no agent runs here that would say which"]
    );
    let unreadable = Found {
        served: Err("no permission".to_owned()),
        ..found()
    };
    let hidden = Found {
        sockets: Err("no /proc".to_owned()),
        ..found()
    };
    for (found, cause) in [(unreadable, "no permission"), (hidden, "no /proc")] {
        let lines = lines(&found);
        assert!(
            lines[0].starts_with("warn  node ports: ") && lines[0].contains(cause),
            "{lines:?}"
        );
    }
}
