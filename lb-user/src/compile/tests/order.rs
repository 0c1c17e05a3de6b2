//! The compiler's result is a function of what is there, not of how it came.

use std::fmt::Write as _;

use proptest::{prelude::*, sample::Index};

use super::*;
use crate::model::object::Object;

/// A small cluster in which objects meet: services by selector and by slice, of all families.
fn world() -> Vec<Object> {
    let mut text = String::new();
    for n in 0..6 {
        let spec = [
            "",
            "ipFamilyPolicy: PreferDualStack, ",
            "clusterIP: 10.96.0.7, ",
            "clusterIP: None, ",
        ][n % 4];
        let _ = writeln!(
            text,
            "{{apiVersion: v1, kind: Service, metadata: {{name: s{n}}}, spec: {{{spec}\
             selector: {{app: web}}, ports: [{{port: 80, targetPort: http}}]}}}}\n---"
        );
    }
    text.push_str(SERVICE);
    for n in 1..6 {
        text.push_str(&pod(&format!("p{n}"), &format!("10.244.0.{n}"), ""));
    }
    text.push_str(&slice(
        "one",
        "{addresses: [10.244.0.9]}, {addresses: [10.244.0.10], conditions: {ready: false}}",
    ));
    text.push_str(&slice(
        "two",
        "{addresses: [10.244.0.10]}, {addresses: [10.244.0.11]}",
    ));
    let parsed = manifest::parse("m.yaml", &text);
    assert_eq!(parsed.findings, []);
    parsed.objects
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Objects in any order, some told twice, some told and taken back in between.
    #[test]
    fn desired_is_independent_of_the_order_of_events(
        order in Just((0..world().len()).collect::<Vec<_>>()).prop_shuffle(),
        detours in prop::collection::vec((any::<Index>(), any::<bool>()), 0..12),
    ) {
        let world = world();
        let mut straight = Store::new([]);
        for located in world.clone() {
            straight.apply(Change::Upsert(located));
        }
        let expected = compile(&straight.snapshot(), &facts(), &Allocations::default());
        prop_assert!(expected.desired.ports.len() > 5);

        let mut crooked = Store::new([]);
        for index in detours.iter().map(|(index, _)| index) {
            crooked.apply(Change::Upsert(index.get(&world).clone()));
        }
        for (index, _) in detours.iter().filter(|(_, taken_back)| *taken_back) {
            crooked.apply(Change::Delete(index.get(&world).reference()));
        }
        for index in order {
            crooked.apply(Change::Upsert(world[index].clone()));
        }
        let found = compile(&crooked.snapshot(), &facts(), &Allocations::default());
        prop_assert_eq!(&found, &expected);
        let again = compile(&crooked.snapshot(), &facts(), &found.allocations);
        prop_assert_eq!(again.desired, expected.desired);
    }
}
