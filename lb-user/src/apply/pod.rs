//! The bridge from the tables' plain types to aya's, and the crate's only `unsafe impl aya::Pod`.
//!
//! Never used for a type that does not cross the kernel boundary.

use lb_common::abi::Plain;

/// A plain value as aya takes it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Raw<T>(pub T);

// SAFETY: `Plain` is implemented for `repr(C)` types of which every bit pattern is valid and which have
// no padding that anybody reads; `Raw` has the layout of what it holds.
unsafe impl<T: Plain> aya::Pod for Raw<T> {}
