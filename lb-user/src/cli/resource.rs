//! Which objects an argument means: `services`, `svc web`, `po/web-1`, `svc,ep`.

use anyhow::{anyhow, bail};

use crate::{model::object::Kind, source::spelling};

/// Objects of one kind: those of these names, or all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) kind: Kind,
    pub(super) names: Vec<String>,
}

/// Names of the kinds, the first one plural, the second singular, then short ones: as kubectl takes them.
const NAMES: [(Kind, &[&str]); 5] = [
    (Kind::Service, &["services", "service", "svc"]),
    (Kind::Endpoints, &["endpoints", "endpoint", "ep"]),
    (
        Kind::EndpointSlice,
        &[
            "endpointslices",
            "endpointslice",
            "endpointslices.discovery.k8s.io",
            "endpointslice.discovery.k8s.io",
        ],
    ),
    (Kind::Pod, &["pods", "pod", "po"]),
    (Kind::Node, &["nodes", "node", "no"]),
];

/// The kind's name in messages, as in `services`.
pub(super) fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Service => "services",
        Kind::Endpoints => "endpoints",
        Kind::EndpointSlice => "endpointslices",
        Kind::Pod => "pods",
        Kind::Node => "nodes",
    }
}

/// The kind's name before an object's, as in `service/web`.
pub(super) fn qualified(kind: Kind) -> &'static str {
    match kind {
        Kind::Service => "service",
        Kind::Endpoints => "endpoints",
        Kind::EndpointSlice => "endpointslice.discovery.k8s.io",
        Kind::Pod => "pod",
        Kind::Node => "node",
    }
}

/// Reads the arguments: `TYPE[,TYPE...] [NAME...]`, or `TYPE/NAME...`.
pub(super) fn targets(arguments: &[String]) -> anyhow::Result<Vec<Target>> {
    if arguments.iter().any(|argument| argument.contains('/')) {
        return pairs(arguments);
    }
    let (types, names) = arguments
        .split_first()
        .ok_or_else(|| anyhow!("say which objects; there are {}", all()))?;
    let mut targets: Vec<Target> = Vec::new();
    for text in types.split(',').filter(|text| !text.is_empty()) {
        let kind = kind(text)?;
        if targets.iter().all(|target| target.kind != kind) {
            let names = names.to_vec();
            targets.push(Target { kind, names });
        }
    }
    if targets.is_empty() {
        bail!("say which objects; there are {}", all());
    }
    Ok(targets)
}

/// `TYPE/NAME` each, gathered by type in the order of their first.
fn pairs(arguments: &[String]) -> anyhow::Result<Vec<Target>> {
    let mut targets: Vec<Target> = Vec::new();
    for argument in arguments {
        let (text, name) = match argument.split_once('/') {
            Some((text, name)) if !text.is_empty() && !name.is_empty() && !name.contains('/') => {
                (text, name.to_owned())
            }
            _ => bail!("{argument:?} is no TYPE/NAME; where one argument is one, all are"),
        };
        let kind = kind(text)?;
        match targets.iter_mut().find(|target| target.kind == kind) {
            Some(target) => target.names.push(name),
            None => targets.push(Target {
                kind,
                names: vec![name],
            }),
        }
    }
    Ok(targets)
}

fn kind(text: &str) -> anyhow::Result<Kind> {
    let wanted = text.to_lowercase();
    let known = NAMES.iter().find(|(_, names)| names.contains(&&*wanted));
    known.map(|(kind, _)| *kind).ok_or_else(|| {
        let candidates = NAMES.iter().flat_map(|(_, names)| names.iter().copied());
        let hint = spelling::hint(&wanted, candidates);
        anyhow!(
            "there are no objects of type {text:?}{hint}; there are {}",
            all()
        )
    })
}

fn all() -> String {
    NAMES.map(|(kind, _)| plural(kind)).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> anyhow::Result<Vec<Target>> {
        let arguments: Vec<String> = arguments.iter().map(|&it| it.to_owned()).collect();
        targets(&arguments)
    }

    fn target(kind: Kind, names: &[&str]) -> Target {
        Target {
            kind,
            names: names.iter().map(|&it| it.to_owned()).collect(),
        }
    }

    #[test]
    fn types_have_the_names_that_kubectl_has_for_them() {
        for (kind, texts) in NAMES {
            for text in texts {
                assert_eq!(read(&[text]).expect(text), [target(kind, &[])]);
            }
        }
        assert_eq!(
            read(&["Service"]).expect("any case"),
            [target(Kind::Service, &[])]
        );
    }

    #[test]
    fn names_stand_behind_types_or_after_a_stroke() {
        use Kind::{Endpoints, Pod, Service};
        for (arguments, targets) in [
            (&["svc", "a", "b"][..], vec![target(Service, &["a", "b"])]),
            (
                &["svc,ep,service"],
                vec![target(Service, &[]), target(Endpoints, &[])],
            ),
            (
                &["svc,ep", "a"],
                vec![target(Service, &["a"]), target(Endpoints, &["a"])],
            ),
            (
                &["svc/a", "po/b", "service/c"],
                vec![target(Service, &["a", "c"]), target(Pod, &["b"])],
            ),
        ] {
            assert_eq!(read(arguments).expect("valid"), targets, "{arguments:?}");
        }
    }

    #[test]
    fn what_is_no_type_is_told_so_with_the_nearest() {
        for (arguments, message) in [
            (
                &["servces"][..],
                "\"servces\" (did you mean `services`?); there are services, ",
            ),
            (&["endpointslice", "a/b/c"], "is no TYPE/NAME"),
            (&["endpointslcies"], "did you mean `endpointslices`?"),
            (
                &["deployments"],
                "\"deployments\"; there are services, endpoints, endpointslices, pods, nodes",
            ),
            (&["svc/"], "is no TYPE/NAME"),
            (&[","], "say which objects"),
        ] {
            let error = read(arguments).expect_err("invalid").to_string();
            assert!(error.contains(message), "{arguments:?}: {error}");
        }
    }
}
