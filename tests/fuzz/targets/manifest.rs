//! `fulcrum_fuzz::targets::manifest`, guided by coverage.

#![no_main]

use fulcrum_fuzz::targets::manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| manifest::run(bytes));
