//! What the program `carry` is told and tells, in its context, which stays from run to run.

/// The mark: the family of the flows.
pub const FAMILY4: u32 = 4;
/// See [`FAMILY4`].
pub const FAMILY6: u32 = 6;

/// Words of the context's `cb`.
pub mod cell {
    /// The position that the next run asks for.
    pub const POSITION: usize = 0;
    /// Flows that were copied.
    pub const MOVED: usize = 1;
    /// Flows that were there already.
    pub const MERGED: usize = 2;
    /// Flows that could not be copied.
    pub const KEPT: usize = 3;
}
