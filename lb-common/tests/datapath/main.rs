//! The datapath on the host: whole packets in, whole packets and whole counts out, in both families.

mod answers;
mod choice;
mod connection;
mod hairpin;
mod here;
mod host;
mod interleaved;
mod made;
mod masks;
mod masquerade;
mod mended;
mod next_hop;
mod policy;
mod properties;
mod refusal;
mod refused;
mod sctp;
mod truth;
mod world;
mod xdp;
