//! What fuzzing has found worth keeping, at every target again, and a bounded number of mutations of it.
//!
//! Guided by nothing: that is `cargo xtask fuzz`. A failure leaves its input in `target/fuzz/failed` and names it;
//! `FULCRUM_SEED` repeats the mutations of a run.

use std::{
    env, fs, panic,
    path::{Path, PathBuf},
};

#[expect(
    unreachable_pub,
    reason = "the targets are a library to the programs that libFuzzer drives"
)]
#[path = "../../fuzz/src/targets/mod.rs"]
mod targets;

/// Longest input that is made of others.
const MAX_LEN: usize = 4_096;

/// A target and how many mutations it gets: what takes about as long as the compiler's own tests.
struct Target {
    name: &'static str,
    run: fn(&[u8]),
    mutations: usize,
}

#[test]
fn packets_are_decided_as_promised() {
    replay(&Target {
        name: "packet",
        run: targets::packet::run,
        mutations: 800,
    });
}

#[test]
fn manifests_are_judged_as_promised() {
    replay(&Target {
        name: "manifest",
        run: targets::manifest::run,
        mutations: 2_000,
    });
}

#[test]
fn what_is_shown_is_read_again() {
    replay(&Target {
        name: "roundtrip",
        run: targets::roundtrip::run,
        mutations: 300,
    });
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn replay(target: &Target) {
    let corpus = corpus(&root().join("fuzz/corpus").join(target.name));
    assert!(!corpus.is_empty(), "no corpus of {}", target.name);
    for (path, input) in &corpus {
        check(target, input, &path.display().to_string());
    }
    let seed = env::var("FULCRUM_SEED").map_or(1, |seed| seed.parse().expect("FULCRUM_SEED"));
    let mut luck = Luck(seed | 1);
    for n in 0..target.mutations {
        let (_, first) = &corpus[luck.below(corpus.len())];
        let (_, second) = &corpus[luck.below(corpus.len())];
        let input = mutated(&mut luck, first, second);
        check(
            target,
            &input,
            &format!("mutation {n} of FULCRUM_SEED={seed}"),
        );
    }
}

/// The inputs of a target, in the order of their names.
fn corpus(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries =
        fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut inputs: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("listed").path();
            let input = fs::read(&path).expect("readable");
            (path, input)
        })
        .collect();
    inputs.sort();
    inputs
}

fn check(target: &Target, input: &[u8], what: &str) {
    if panic::catch_unwind(|| (target.run)(input)).is_ok() {
        return;
    }
    let failed = root().join("../target/fuzz/failed");
    let path = failed.join(format!("{}-replay", target.name));
    fs::create_dir_all(&failed).expect("a directory for the input");
    fs::write(&path, input).expect("the input is kept");
    panic!(
        "{what}: a promise is broken; the input is {}",
        path.display()
    );
}

/// An input with something else in it: bytes changed, left out, doubled, or the rest of another input.
fn mutated(luck: &mut Luck, first: &[u8], second: &[u8]) -> Vec<u8> {
    let mut input = first.to_vec();
    for _ in 0..=luck.below(4) {
        if input.is_empty() {
            return second.to_vec();
        }
        let at = luck.below(input.len());
        let len = luck.below(16).min(input.len() - at);
        match luck.below(6) {
            0 => input[at] ^= 1 << luck.below(8),
            1 => input[at] = luck.byte(),
            2 => drop(input.drain(at..at + len)),
            3 => {
                let again = input[at..at + len].to_vec();
                input.splice(at..at, again);
            }
            4 => {
                let more: Vec<u8> = (0..len).map(|_| luck.byte()).collect();
                input.splice(at..at, more);
            }
            _ => {
                input.truncate(at);
                input.extend(&second[luck.below(second.len() + 1)..]);
            }
        }
        input.truncate(MAX_LEN);
    }
    input
}

/// xorshift64 (Marsaglia 2003), its better half.
struct Luck(u64);

impl Luck {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 32).expect("32 bits") % n
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).expect("a byte")
    }
}
