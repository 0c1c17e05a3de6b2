//! A listing as lines for a client, and again what has changed since.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hasher},
    ops::ControlFlow,
};

use serde_json::Value;
use tokio::sync::mpsc;

use super::{Name, Outcome, Reply};

/// Gives out objects one after the other, for as long as they are wanted.
pub type Listing = Box<dyn FnOnce(&mut dyn FnMut(Value) -> ControlFlow<()>) + Send>;

/// What a client was told, as far as one must know to tell it the rest: no object is kept.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// A hash of each object's text, and the round in which it was there.
    objects: BTreeMap<Name, (u64, u64)>,
    round: u64,
}

/// Everything in `listing`; gives back how much that was, unless nobody wants it.
pub(super) fn list(listing: Listing, out: &mpsc::Sender<Vec<u8>>) -> Option<usize> {
    let mut n_objects = 0;
    let mut is_wanted = true;
    listing(&mut |object| {
        n_objects += 1;
        is_wanted = send(out, Outcome::Object(object));
        if is_wanted {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
    is_wanted.then_some(n_objects)
}

impl Told {
    /// What differs from what was told; gives back how many objects there are, unless nobody wants to know.
    pub(super) fn tell(&mut self, listing: Listing, out: &mpsc::Sender<Vec<u8>>) -> Option<usize> {
        self.round += 1;
        let round = self.round;
        let objects = &mut self.objects;
        let mut is_wanted = true;
        listing(&mut |object| {
            let name = Name::of(&object);
            let line = line(Outcome::Object(object));
            let hash = hash(&line);
            let before = objects.insert(name, (hash, round));
            if before.map(|(hash, _)| hash) != Some(hash) {
                is_wanted = out.blocking_send(line).is_ok();
            }
            if is_wanted {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        let is_gone = |(_, last): &(u64, u64)| *last != round;
        let gone = objects.iter().filter(|(_, it)| is_gone(it));
        for (name, _) in gone {
            is_wanted = is_wanted && send(out, Outcome::Deleted(name.clone()));
        }
        objects.retain(|_, it| !is_gone(it));
        is_wanted.then_some(objects.len())
    }
}

fn send(out: &mpsc::Sender<Vec<u8>>, outcome: Outcome) -> bool {
    out.blocking_send(line(outcome)).is_ok()
}

/// A reply with its newline.
pub(super) fn line(outcome: Outcome) -> Vec<u8> {
    let mut line = serde_json::to_vec(&Reply::new(outcome))
        .expect("invariant: maps of a reply have text for keys");
    line.push(b'\n');
    line
}

fn hash(text: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(text);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn listing(objects: &[(&str, u32)]) -> Listing {
        let objects: Vec<Value> = objects
            .iter()
            .map(|(name, value)| json!({"metadata": {"name": name}, "value": value}))
            .collect();
        Box::new(move |emit| {
            let _ = objects.into_iter().try_for_each(emit);
        })
    }

    /// What a client is told in a round, in short.
    fn round(told: &mut Told, objects: &[(&str, u32)]) -> Vec<String> {
        let (out, mut lines) = mpsc::channel(16);
        let n_objects = told.tell(listing(objects), &out);
        assert_eq!(n_objects, Some(objects.len()));
        drop(out);
        let mut found = Vec::new();
        while let Some(line) = lines.blocking_recv() {
            let reply: Reply = serde_json::from_slice(&line).expect("a reply");
            found.push(match reply.outcome {
                Outcome::Object(object) => {
                    format!("{}={}", Name::of(&object).name, object["value"])
                }
                Outcome::Deleted(name) => format!("-{}", name.name),
                other => panic!("{other:?}"),
            });
        }
        found
    }

    #[test]
    fn only_what_changed_is_told_again() {
        let mut told = Told::default();
        assert_eq!(round(&mut told, &[("a", 1), ("b", 1)]), ["a=1", "b=1"]);
        assert_eq!(round(&mut told, &[("a", 1), ("b", 1)]), [""; 0]);
        assert_eq!(
            round(&mut told, &[("b", 2), ("c", 1)]),
            ["b=2", "c=1", "-a"]
        );
        assert_eq!(round(&mut told, &[]), ["-b", "-c"]);
        assert_eq!(round(&mut told, &[("a", 1)]), ["a=1"]);
    }

    #[test]
    fn nothing_more_is_made_for_who_has_left() {
        let (out, lines) = mpsc::channel(16);
        drop(lines);
        let endless: Listing = Box::new(|emit| while emit(json!({})).is_continue() {});
        assert_eq!(list(endless, &out), None);
        let endless: Listing = Box::new(|emit| while emit(json!({})).is_continue() {});
        assert_eq!(Told::default().tell(endless, &out), None);
    }
}
