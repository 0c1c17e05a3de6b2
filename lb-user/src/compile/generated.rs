//! What the slices that are written here have in common with those of a cluster's controllers: names,
//! labels, at most so many endpoints each.

use std::{collections::BTreeSet, sync::Arc};

use lb_common::net::addr::Family;

use crate::{
    alloc::fnv1a,
    model::{
        endpoint::{
            AddressType, Endpoint, EndpointPort, EndpointSlice, LABEL_MANAGED_BY,
            LABEL_SERVICE_NAME,
        },
        object::{Annotations, Labels, Meta, ObjectName},
    },
};

/// Letters and digits of generated names: none that form words.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// How many of them a name ends with.
const SUFFIX: usize = 5;

/// Endpoints of one family that have these ports.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) family: Family,
    pub(super) ports: Vec<EndpointPort>,
    pub(super) endpoints: Vec<Endpoint>,
}

/// Writes slices for one service.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    /// The service.
    pub(super) service: &'a ObjectName,
    /// [`LABEL_MANAGED_BY`].
    pub(super) controller: &'static str,
    /// Labels of every slice, beside those that the writer adds.
    pub(super) labels: Labels,
    /// Annotations of every slice.
    pub(super) annotations: Annotations,
    /// Endpoints that a slice has at most.
    pub(super) limit: usize,
    /// Names that are taken.
    pub(super) taken: BTreeSet<String>,
}

impl Writer<'_> {
    /// As many slices as the endpoints need; without any, one that is empty.
    pub(super) fn write(&mut self, group: Group, slices: &mut Vec<EndpointSlice>) {
        let Group {
            family,
            ports,
            mut endpoints,
        } = group;
        let mut number = 0;
        loop {
            let rest = endpoints.split_off(endpoints.len().min(self.limit));
            slices.push(EndpointSlice {
                meta: self.meta(&format!("{} {family} {ports:?} {number}", self.controller)),
                address_type: AddressType::Ip(family),
                endpoints: endpoints.into(),
                ports: ports.as_slice().into(),
            });
            if rest.is_empty() {
                break;
            }
            endpoints = rest;
            number += 1;
        }
    }

    /// A name that depends on what the slice is for, and on nothing else while no other has it.
    fn meta(&mut self, purpose: &str) -> Meta {
        let service = self.service;
        let named = |salt: usize| {
            let suffix = suffix(&format!("{purpose} {salt}"));
            format!("{}-{suffix}", service.name)
        };
        // One try more than there are names that are taken.
        let tries = 0..=self.taken.len();
        let name = tries.map(named).find(|name| !self.taken.contains(name));
        let name = name.unwrap_or_else(|| service.name.to_string());
        self.taken.insert(name.clone());
        let mut labels = self.labels.clone();
        labels.insert(LABEL_SERVICE_NAME.into(), Arc::clone(&service.name));
        labels.insert(LABEL_MANAGED_BY.into(), self.controller.into());
        Meta {
            name: ObjectName::new(&service.namespace, &name),
            labels,
            annotations: self.annotations.clone(),
            uid: None,
            created: None,
        }
    }
}

fn suffix(purpose: &str) -> String {
    let mut hash = fnv1a(purpose.as_bytes());
    let mut letters = String::with_capacity(SUFFIX);
    for _ in 0..SUFFIX {
        // The remainder is an index of the alphabet.
        let at = usize::try_from(hash % ALPHABET.len() as u64).unwrap_or_default();
        letters.push(char::from(ALPHABET[at]));
        hash /= ALPHABET.len() as u64;
    }
    letters
}
