//! `fulcrum_fuzz::targets::roundtrip`, guided by coverage.

#![no_main]

use fulcrum_fuzz::targets::roundtrip;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| roundtrip::run(bytes));
