//! The datapath on the host: whole packets in, whole packets and whole counts out, in both families.

mod affine;
mod affinity;
mod answers;
mod choice;
mod connection;
mod guards;
mod hairpin;
mod here;
mod host;
mod interleaved;
mod made;
mod masks;
mod masquerade;
mod mended;
mod next_hop;
mod places;
mod policy;
mod properties;
mod refusal;
mod refused;
mod sctp;
mod sockets;
mod truth;
mod world;
mod xdp;
