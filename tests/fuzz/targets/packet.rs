//! `fulcrum_fuzz::targets::packet`, guided by coverage.

#![no_main]

use fulcrum_fuzz::targets::packet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| packet::run(bytes));
