//! The lists against a second way to make them: kube-proxy's, step by step, as features.md describes it.

use std::sync::Arc;

use proptest::prelude::*;

use crate::{
    compile::endpoint::{Choice, Here},
    model::endpoint::{Conditions, Endpoint, Hints},
};

const HERE: &str = "n1";

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let names = |names: &'static [&'static str]| {
        let names = prop::sample::subsequence(names.to_vec(), 0..=names.len());
        names.prop_map(|names| names.into_iter().map(Arc::from).collect::<Box<[_]>>())
    };
    let node = prop::option::weighted(0.8, prop::sample::select(vec![HERE, "n2", "n3"]));
    let conditions = (any::<bool>(), any::<bool>(), any::<bool>());
    (
        node,
        conditions,
        names(&["a", "b", "c"]),
        names(&[HERE, "n2"]),
    )
        .prop_map(|(node, (ready, serving, terminating), zones, nodes)| {
            let conditions = Conditions {
                ready,
                serving,
                terminating,
            };
            Endpoint {
                addresses: Vec::new().into(),
                conditions,
                given: conditions.into(),
                node_name: node.map(Into::into),
                hostname: None,
                target: None,
                zone: None,
                hints: Some(Hints { zones, nodes }.into()),
                weight: 1,
            }
        })
}

/// Which of the endpoints are in the list of the cluster, by position.
fn cluster(endpoints: &[Endpoint], zone: Option<&str>) -> Vec<usize> {
    let positions = |is_in: &dyn Fn(&Endpoint) -> bool| -> Vec<usize> {
        let all = endpoints.iter().enumerate();
        all.filter(|(_, it)| is_in(it)).map(|(at, _)| at).collect()
    };
    let nodes = |it: &Endpoint| it.hints.clone().unwrap_or_default().nodes;
    let zones = |it: &Endpoint| it.hints.clone().unwrap_or_default().zones;
    let is_ready = |it: &Endpoint| it.conditions.ready;
    let of_node = |it: &Endpoint| nodes(it).iter().any(|node| **node == *HERE);
    let of_zone = |it: &Endpoint| zones(it).iter().any(|it| Some(&**it) == zone);
    let (mut every_node, mut one_node, mut every_zone, mut one_zone) = (true, false, true, false);
    for it in endpoints.iter().filter(|it| is_ready(it)) {
        every_node &= !nodes(it).is_empty();
        every_zone &= !zones(it).is_empty();
        one_node |= of_node(it);
        one_zone |= of_zone(it);
    }
    let ready = if every_node && one_node {
        positions(&|it| is_ready(it) && of_node(it))
    } else if every_zone && one_zone {
        positions(&|it| is_ready(it) && of_zone(it))
    } else {
        positions(&is_ready)
    };
    if ready.is_empty() {
        return positions(&|it| it.conditions.serving && it.conditions.terminating);
    }
    ready
}

fn local(endpoints: &[Endpoint]) -> Vec<usize> {
    let is_here = |it: &Endpoint| it.node_name.as_deref() == Some(HERE);
    let here = |is_in: &dyn Fn(Conditions) -> bool| -> Vec<usize> {
        let all = endpoints.iter().enumerate();
        let here = all.filter(|(_, it)| is_here(it) && is_in(it.conditions));
        here.map(|(at, _)| at).collect()
    };
    let ready = here(&|it| it.ready);
    if ready.is_empty() {
        return here(&|it| it.serving && it.terminating);
    }
    ready
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn lists_are_those_of_kube_proxy(
        endpoints in prop::collection::vec(endpoint(), 0..5),
        zone in prop::option::of(prop::sample::select(vec!["a", "b"])),
    ) {
        let choice = Choice::new(endpoints.iter(), Here { node: HERE, zone });
        let all = || endpoints.iter().enumerate();
        let found: Vec<_> = all()
            .filter(|(_, it)| choice.cluster(it).is_none())
            .map(|(at, _)| at)
            .collect();
        prop_assert_eq!(&found, &cluster(&endpoints, zone));
        // Whoever has any endpoint at all has one in the list of the cluster: who finds it empty is rejected.
        let usable = all().any(|(_, it)| {
            it.conditions.ready || it.conditions.serving && it.conditions.terminating
        });
        prop_assert_eq!(!found.is_empty(), usable);
        let found: Vec<_> = all()
            .filter(|(_, it)| choice.local(it).is_none())
            .map(|(at, _)| at)
            .collect();
        prop_assert_eq!(&found, &local(&endpoints));
    }
}
