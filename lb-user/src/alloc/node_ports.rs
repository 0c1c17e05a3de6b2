//! Node ports: which number each port of a service has, and where load balancers ask for the node's health.
//!
//! As kube-apiserver gives them: a number belongs to one service; ports of a service that have the same number and
//! different protocols have the same node port; what a service had it keeps, by the name of its port, and nobody
//! else may ask for it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Addresses, Allocations, Named, PortRange, allocations::Held, clash, fnv1a};
use crate::{
    desired::Protocol,
    model::{
        object::ObjectName,
        service::{Service, ServicePort, ServiceType, TrafficPolicy},
    },
    store::Objects,
};

/// The field of the health check's port.
pub(super) const HEALTH_FIELD: &str = "spec.healthCheckNodePort";

/// Who has which number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    taken: BTreeMap<u16, ObjectName>,
    /// Numbers that services had and may want again: given to others last.
    idle: BTreeMap<u16, BTreeSet<ObjectName>>,
}

impl Numbers {
    /// Takes notice of what a service has, and of what it `held` and may want again.
    pub(super) fn note(&mut self, name: &ObjectName, has: &Addresses, held: Option<&Held>) {
        let numbers = has.node_ports.values().chain(&has.health_check_node_port);
        self.taken
            .extend(numbers.map(|number| (*number, name.clone())));
        if has.health_check_node_port.is_none() {
            let idle = held.and_then(|held| held.health_check_node_port);
            self.rest(name, idle);
        }
    }

    /// A number that a service may want again.
    fn rest(&mut self, name: &ObjectName, number: Option<u16>) {
        if let Some(number) = number {
            self.idle.entry(number).or_default().insert(name.clone());
        }
    }

    /// Forgets what a service had.
    pub(super) fn forget(&mut self, name: &ObjectName, held: &Held) {
        let numbers = held.node_ports.values().chain(&held.health_check_node_port);
        for number in numbers {
            if self.taken.get(number) == Some(name) {
                self.taken.remove(number);
            }
            if let Some(names) = self.idle.get_mut(number) {
                names.remove(name);
                if names.is_empty() {
                    self.idle.remove(number);
                }
            }
        }
    }
}

/// Gives numbers.
pub(super) struct NodePorts<'a> {
    pub(super) range: PortRange,
    pub(super) numbers: Numbers,
    /// Whether one took a number that another one may want again.
    pub(super) disturbs: bool,
    services: &'a Objects<Service>,
    previous: &'a Allocations,
}

/// What one service gets.
#[derive(Default)]
pub(super) struct Given {
    /// By the name of the service's port.
    pub(super) node_ports: BTreeMap<String, u16>,
    pub(super) health_check_node_port: Option<u16>,
    /// Fields for which no number is left.
    pub(super) lacking: Vec<String>,
}

impl<'a> NodePorts<'a> {
    pub(super) fn new(
        range: PortRange,
        services: &'a Objects<Service>,
        previous: &'a Allocations,
        numbers: Numbers,
    ) -> Self {
        Self {
            range,
            numbers,
            disturbs: false,
            services,
            previous,
        }
    }

    fn give(&mut self, number: u16, name: &ObjectName) {
        let resting = self.numbers.idle.get(&number);
        self.disturbs |= resting.is_some_and(|names| names.iter().any(|other| other != name));
        self.numbers.taken.insert(number, name.clone());
    }

    /// Reserves what a service had and still wants, so that nobody else gets it.
    pub(super) fn reserve(&mut self, holder: Named<'a>) {
        let (name, service) = holder;
        let Some(held) = self.previous.of(name) else {
            return;
        };
        let service = &service.object;
        let range = self.range;
        // What the manifest asks for may lie outside of the range, and then stays there.
        let is_wanted = |number: u16, asked: Option<u16>| {
            asked.map_or_else(|| range.contains(number), |asked| asked == number)
        };
        let ports = service.spec.ports.iter();
        let ports = ports.filter(|port| has_node_port(service, port));
        let numbers = ports.filter_map(|port| {
            let number = held.node_ports.get(&*port.name).copied()?;
            is_wanted(number, port.node_port).then_some(number)
        });
        let health = held.health_check_node_port;
        let asked = service.spec.health_check_node_port;
        let wanted = health.filter(|number| has_health_check(service) && is_wanted(*number, asked));
        let taken = &mut self.numbers.taken;
        for number in numbers.chain(wanted) {
            taken.entry(number).or_insert_with(|| name.clone());
        }
        let idle = health.filter(|_| !has_health_check(service));
        self.numbers.rest(name, idle);
    }

    /// Whether a service had all of the numbers that it asks for.
    pub(super) fn held_all(&self, name: &ObjectName, service: &Service) -> bool {
        let held = self.previous.of(name);
        explicit(service)
            .iter()
            .all(|(_, number)| held.is_some_and(|held| held.has_number(*number)))
    }

    /// Why a service cannot have the numbers that it asks for: fields and reasons.
    pub(super) fn clashes(&self, (name, service): Named<'a>) -> Vec<(String, String)> {
        let service = &service.object;
        let explicit = explicit(service);
        let mut clashes = Vec::new();
        for (field, number) in &explicit {
            let other = self.numbers.taken.get(number);
            if let Some(other) = other.filter(|other| *other != name) {
                let message = clash(&format!("node port {number}"), other, self.services);
                clashes.push((field.clone(), message));
            }
        }
        let health = service.spec.health_check_node_port;
        let twin = explicit
            .iter()
            .find(|(field, number)| field != HEALTH_FIELD && Some(*number) == health);
        if let Some((field, number)) = twin {
            let message = format!("{number} is the number of `{field}` already; choose another");
            clashes.push((HEALTH_FIELD.to_owned(), message));
        }
        clashes
    }

    /// Takes the numbers that a service asks for.
    pub(super) fn take(&mut self, (name, service): Named<'a>) {
        for (_, number) in explicit(&service.object) {
            self.give(number, name);
        }
    }

    /// Gives back what was reserved for a service that is refused.
    pub(super) fn release(&mut self, name: &ObjectName) {
        self.numbers.taken.retain(|_, holder| holder != name);
    }

    /// Numbers that a service asks for outside of the range, with their fields.
    pub(super) fn outside(&self, service: &Service) -> Vec<(String, u16)> {
        let mut explicit = explicit(service);
        explicit.retain(|(_, number)| !self.range.contains(*number));
        explicit
    }

    /// Gives a service all that it lacks.
    pub(super) fn complete(&mut self, holder: Named<'a>) -> Given {
        let (name, located) = holder;
        let service = &located.object;
        let mut given = Given::default();
        let mut used: BTreeSet<(u16, Protocol)> = BTreeSet::new();
        let ports = service.spec.ports.iter();
        for port in ports.filter(|port| has_node_port(service, port)) {
            if let Some(number) = port.node_port {
                used.insert((number, port.protocol));
                given.node_ports.insert(port.name.to_string(), number);
            }
        }
        for (index, port) in service.spec.ports.iter().enumerate() {
            if port.node_port.is_some() || !has_node_port(service, port) {
                continue;
            }
            let is_free = |number: &u16| !used.contains(&(*number, port.protocol));
            let number = self
                .kept(name, |held| held.node_ports.get(&*port.name).copied())
                .filter(is_free)
                .or_else(|| shared(service, port, &given).filter(is_free))
                .or_else(|| self.free(name, &port.name));
            let Some(number) = number else {
                given.lacking.push(format!("spec.ports[{index}].nodePort"));
                continue;
            };
            self.give(number, name);
            used.insert((number, port.protocol));
            given.node_ports.insert(port.name.to_string(), number);
        }
        self.complete_health_check(holder, &mut given);
        given
    }

    fn complete_health_check(&mut self, holder: Named<'a>, given: &mut Given) {
        let (name, located) = holder;
        if !has_health_check(&located.object) {
            return;
        }
        let is_free = |number: &u16| given.node_ports.values().all(|it| it != number);
        let number = located
            .object
            .spec
            .health_check_node_port
            .or_else(|| {
                self.kept(name, |held| held.health_check_node_port)
                    .filter(is_free)
            })
            // No port has a slash in its name.
            .or_else(|| self.free(name, "/health"));
        match number {
            Some(number) => {
                self.give(number, name);
                given.health_check_node_port = Some(number);
            }
            None => given.lacking.push(HEALTH_FIELD.to_owned()),
        }
    }

    /// A number that a service had, if it is reserved for it.
    fn kept(&self, name: &ObjectName, of: impl Fn(&Held) -> Option<u16>) -> Option<u16> {
        let number = self.previous.of(name).and_then(of)?;
        (self.numbers.taken.get(&number)? == name).then_some(number)
    }

    /// A number that a service had and has no use for, if nobody else has it.
    pub(super) fn idle(&self, name: &ObjectName, service: &Service) -> Option<u16> {
        let held = self
            .previous
            .of(name)
            .filter(|_| !has_health_check(service));
        let number = held?.health_check_node_port?;
        (!self.numbers.taken.contains_key(&number)).then_some(number)
    }

    /// A free number: of the upper band, then of the lower band, then one that somebody may want again.
    fn free(&self, name: &ObjectName, port: &str) -> Option<u16> {
        let seed = fnv1a(format!("{name}:{port}").as_bytes());
        let is_free = |number: &u16| !self.numbers.taken.contains_key(number);
        let candidates = || {
            self.range.bands().flat_map(move |band| {
                let width = u64::from(band.end() - band.start()) + 1;
                let step = move |step: u64| {
                    // Below the width, which has 17 bits at most.
                    let offset = u16::try_from((seed % width + step) % width).unwrap_or(0);
                    band.start() + offset
                };
                (0..width).map(step)
            })
        };
        candidates()
            .filter(is_free)
            .find(|number| !self.numbers.idle.contains_key(number))
            .or_else(|| candidates().find(is_free))
    }
}

/// The node port of a port with the same number and another protocol.
fn shared(service: &Service, port: &ServicePort, given: &Given) -> Option<u16> {
    let mut twins = service.spec.ports.iter();
    twins.find_map(|twin| {
        let is_twin = twin.port == port.port && twin.protocol != port.protocol;
        given
            .node_ports
            .get(&*twin.name)
            .copied()
            .filter(|_| is_twin)
    })
}

/// What the manifest gives, and nothing else.
pub(super) fn asked_for(service: &Service) -> Given {
    let ports = service.spec.ports.iter();
    let ports = ports.filter(|port| has_node_port(service, port));
    let health = service.spec.health_check_node_port;
    Given {
        node_ports: ports
            .filter_map(|port| Some((port.name.to_string(), port.node_port?)))
            .collect(),
        health_check_node_port: health.filter(|_| has_health_check(service)),
        lacking: Vec::new(),
    }
}

/// Numbers of node ports that the manifest asks for, with their fields.
fn explicit(service: &Service) -> Vec<(String, u16)> {
    let ports = service.spec.ports.iter().enumerate();
    let ports = ports
        .filter(|(_, port)| has_node_port(service, port))
        .filter_map(|(index, port)| {
            Some((format!("spec.ports[{index}].nodePort"), port.node_port?))
        });
    let health = service.spec.health_check_node_port;
    let health = health
        .filter(|_| has_health_check(service))
        .map(|number| (HEALTH_FIELD.to_owned(), number));
    ports.chain(health).collect()
}

/// Whether a port has a node port: where all of the service's have one, or it asks for one itself.
fn has_node_port(service: &Service, port: &ServicePort) -> bool {
    match service.spec.service_type {
        ServiceType::NodePort => true,
        ServiceType::LoadBalancer => {
            port.node_port.is_some() || service.spec.allocate_node_ports != Some(false)
        }
        ServiceType::ClusterIp | ServiceType::ExternalName => false,
    }
}

/// Whether load balancers ask each node whether it has endpoints of the service.
fn has_health_check(service: &Service) -> bool {
    service.spec.service_type == ServiceType::LoadBalancer
        && service.spec.external_traffic_policy == TrafficPolicy::Local
}
