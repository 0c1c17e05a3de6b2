//! Reading, counting and taking out, on tables that `lb-common` filled.

use lb_common::{
    flow::{
        clock::{Tick, seconds},
        slot::{SlotFlags, State},
        table::Existing,
    },
    net::addr::{Addr, Family},
};

use super::{
    FlowTables, Table,
    census::{Census, count},
    connection::{Connection, Sent, Stage},
    connections, take_out,
    testing::{NOW, OTHER, POSITIONS, Spec, WEB, WEB6, larger, tables, with4, with6},
};

fn all<A: Addr>(table: &Table<'_, A>) -> Vec<Connection>
where
    lb_common::abi::FlowSlot<A>: lb_common::abi::Plain,
{
    connections(table)
        .map(|(_, connection)| connection)
        .collect()
}

fn at4(tables: &FlowTables, now: Tick) -> Vec<Connection> {
    with4(tables, now, all)
}

/// The position at which a connection is seen, and what is seen there.
fn seen(tables: &FlowTables, spec: Spec) -> (u32, Connection) {
    let client = spec.client.parse().expect("literal");
    let found = with4(tables, NOW, |table| {
        connections(table).find(|(_, connection)| connection.client == client)
    });
    found.expect("it is open")
}

#[test]
fn a_connection_is_one_row_with_both_directions() {
    let tables = tables();
    with4(&tables, NOW, |table| WEB.open(table, Existing::Keep));
    with4(&tables, NOW + 60, |table| {
        WEB.advance(table, State::Established);
    });
    let row = Connection {
        family: Family::V4,
        protocol: 6,
        client: WEB.client.parse().expect("literal"),
        dialled: WEB.dialled.parse().expect("literal"),
        backend: WEB.backend.parse().expect("literal"),
        source: WEB.client.parse().expect("literal"),
        backend_ref: lb_common::flow::slot::BackendRef {
            id: 7,
            generation: 1,
        },
        stage: Stage::Established,
        age: 40,
        remaining: seconds(24 * 3600) - 40,
        by_client: Sent {
            packets: 1,
            bytes: 100,
        },
        by_backend: Sent::default(),
        is_local: true,
    };
    assert_eq!(at4(&tables, NOW + 100), [row]);
    assert!(!row.is_masqueraded());
}

#[test]
fn a_source_that_is_exchanged_on_the_way_out_stands_beside_its_client() {
    let tables = tables();
    let passed = Spec {
        kind: SlotFlags::MASQUERADED,
        ..WEB
    };
    let left = Spec {
        dialled: WEB.backend,
        source: "10.0.0.1:61000",
        kind: SlotFlags::LEAVING,
        ..WEB
    };
    let sources = |now| {
        let row = |it: &Connection| (it.dialled.to_string(), it.stage, it.source.to_string());
        at4(&tables, now).iter().map(row).collect::<Vec<_>>()
    };
    let row = |stage, source: &str| (WEB.dialled.to_owned(), stage, source.to_owned());
    with4(&tables, NOW, |table| passed.open(table, Existing::Keep));
    assert_eq!(sources(NOW), [row(Stage::HalfOpen, WEB.client)]);
    with4(&tables, NOW, |table| left.open(table, Existing::Keep));
    assert_eq!(sources(NOW), [row(Stage::HalfOpen, left.source)]);
    let elsewhere = Spec {
        backend: "10.244.2.3:8080",
        ..passed
    };
    with4(&tables, NOW, |table| {
        elsewhere.open(table, Existing::Replace);
    });
    let mut rows = sources(NOW);
    rows.sort();
    let expected = [
        row(Stage::HalfOpen, WEB.client),
        row(Stage::Orphan, left.source),
    ];
    assert_eq!(rows, expected);
}

#[test]
fn both_families_are_read_alike() {
    let tables = tables();
    with6(&tables, NOW, |table| WEB6.open(table, Existing::Keep));
    let rows = with6(&tables, NOW, all);
    let [row] = &rows[..] else {
        panic!("one connection: {rows:?}");
    };
    assert_eq!(row.family, Family::V6);
    assert_eq!(row.client.to_string(), WEB6.client);
    assert_eq!(row.source.to_string(), WEB6.source);
    assert!(row.is_masqueraded());
    assert_eq!(row.stage, Stage::HalfOpen);
    assert_eq!(at4(&tables, NOW), []);
}

#[test]
fn the_younger_direction_says_how_old_a_connection_is() {
    let tables = tables();
    with4(&tables, NOW, |table| WEB.open(table, Existing::Keep));
    with4(&tables, NOW, |table| {
        let (position, _) = connections(table).next().expect("it is open");
        let found = table.at(position).expect("it is open");
        let twin = table.twin_of(&found).expect("it has two directions");
        twin.slot.set_last_seen(NOW + 600);
        twin.slot.count(1_500);
    });
    let rows = at4(&tables, NOW + 700);
    assert_eq!(rows[0].age, 100);
    assert_eq!(
        (rows[0].by_client.packets, rows[0].by_backend.bytes),
        (0, 1_500)
    );
    // 60 s of the client's silence are over, those of the backend's are not.
    assert_eq!(at4(&tables, NOW + seconds(60) + 1).len(), 1);
    assert_eq!(at4(&tables, NOW + 600 + seconds(60) + 1), []);
}

#[test]
fn an_orphan_is_seen_the_way_its_client_sees_it() {
    let tables = tables();
    with4(&tables, NOW, |table| WEB.open(table, Existing::Keep));
    let anew = Spec {
        backend: "10.244.3.3:8080",
        id: 8,
        ..WEB
    };
    with4(&tables, NOW, |table| anew.open(table, Existing::Replace));
    let mut rows = at4(&tables, NOW);
    rows.sort_by_key(|row| row.backend);
    let told: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row.client.to_string(),
                row.dialled.to_string(),
                row.backend.to_string(),
                row.stage,
            )
        })
        .collect();
    let row = |spec: Spec, stage| {
        let texts = [spec.client, spec.dialled, spec.backend].map(str::to_owned);
        let [client, dialled, backend] = texts;
        (client, dialled, backend, stage)
    };
    assert_eq!(told, [row(WEB, Stage::Orphan), row(anew, Stage::HalfOpen)]);
    let census = count(&tables, NOW)[0];
    assert_eq!((census.live, census.half_open, census.ending), (3, 2, 1));
    // Both are of one client: what is taken out is the one that was meant.
    let orphan = rows[0];
    with4(&tables, NOW, |table| {
        let meant = connections(table).find(|(_, row)| row.is(&orphan));
        let (position, _) = meant.expect("seen above");
        assert!(take_out(table, position, &orphan));
        assert_eq!(anew.is_there(table), [true, true]);
        assert_eq!(all(table).len(), 1);
    });
}

#[test]
fn what_is_taken_out_goes_with_both_directions_and_nothing_else_does() {
    let tables = tables();
    with4(&tables, NOW, |table| {
        WEB.open(table, Existing::Keep);
        OTHER.open(table, Existing::Keep);
        OTHER.advance(table, State::Established);
    });
    let (position, connection) = seen(&tables, OTHER);
    with4(&tables, NOW, |table| {
        assert!(take_out(table, position, &connection));
        assert_eq!(OTHER.is_there(table), [false, false]);
        assert_eq!(WEB.is_there(table), [true, true]);
        assert!(!take_out(table, position, &connection), "it is gone");
        OTHER.open(table, Existing::Keep);
        assert_eq!(OTHER.is_there(table), [true, true], "nothing is in its way");
    });
}

#[test]
fn an_orphan_is_not_the_connection_that_it_was() {
    let tables = tables();
    with4(&tables, NOW, |table| WEB.open(table, Existing::Keep));
    let (_, connection) = seen(&tables, WEB);
    let orphan = Connection {
        stage: Stage::Orphan,
        ..connection
    };
    assert!(!orphan.is(&connection) && orphan.is(&orphan));
    let other = Connection {
        protocol: 17,
        ..connection
    };
    assert!(!other.is(&connection));
    let moved = Connection {
        source: std::net::SocketAddr::new(connection.client.ip(), 1),
        ..connection
    };
    assert!(moved.is_masqueraded(), "the backend sees another port");
}

#[test]
fn a_connection_that_has_gone_on_is_the_same() {
    let tables = tables();
    with4(&tables, NOW, |table| WEB.open(table, Existing::Keep));
    let (position, connection) = seen(&tables, WEB);
    with4(&tables, NOW + 5, |table| {
        WEB.advance(table, State::Established);
        assert!(take_out(table, position, &connection));
        assert_eq!(WEB.is_there(table), [false, false]);
    });
}

#[test]
fn who_has_its_place_by_now_is_left_alone() {
    let tables = tables();
    with4(&tables, NOW, |table| WEB.open(table, Existing::Keep));
    let (position, connection) = seen(&tables, WEB);
    let anew = Spec {
        backend: "10.244.3.3:8080",
        ..WEB
    };
    with4(&tables, NOW, |table| {
        anew.open(table, Existing::Replace);
        assert_eq!(
            Connection::at(table, position).map(|row| row.backend),
            anew.backend.parse().ok(),
            "it has the place"
        );
        assert!(!take_out(table, position, &connection));
        assert_eq!(anew.is_there(table), [true, true]);
    });
}

#[test]
fn slots_are_counted_by_what_they_do() {
    let tables = tables();
    with4(&tables, NOW, |table| {
        WEB.open(table, Existing::Keep);
        OTHER.open(table, Existing::Keep);
        OTHER.advance(table, State::Established);
    });
    with6(&tables, NOW, |table| {
        WEB6.open(table, Existing::Keep);
        WEB6.advance(table, State::Closing);
    });
    let none = Census {
        family: Family::V4,
        positions: POSITIONS,
        live: 0,
        half_open: 0,
        established: 0,
        ending: 0,
        expired: 0,
    };
    let counted = count(&tables, NOW);
    let [v4, v6] = counted[..] else {
        panic!("one table a family: {counted:?}");
    };
    assert_eq!(
        v4,
        Census {
            live: 4,
            half_open: 2,
            established: 2,
            ..none
        }
    );
    let (family, live, ending) = (Family::V6, 2, 2);
    assert_eq!(
        v6,
        Census {
            family,
            live,
            ending,
            ..none
        }
    );
    let later = count(&tables, NOW + seconds(60) + 1)[0];
    assert_eq!((later.live, later.expired, later.half_open), (2, 2, 0));
}

#[test]
fn while_a_table_grows_both_are_looked_at_the_old_one_first() {
    let mut tables = tables();
    with4(&tables, NOW, |table| WEB.open(table, Existing::Keep));
    tables.v4.insert(0, larger());
    with4(&tables, NOW, |table| OTHER.open(table, Existing::Keep));
    let positions: Vec<_> = count(&tables, NOW)
        .iter()
        .map(|census| (census.positions, census.live))
        .collect();
    assert_eq!(
        positions,
        [(2 * POSITIONS, 2), (POSITIONS, 2), (POSITIONS, 0)]
    );
}
