//! Faults that an earlier release had, each by name.
