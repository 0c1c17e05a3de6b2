//! The datapath on the host: whole packets in, whole packets and whole counts out, in both families.

mod choice;
mod connection;
mod masquerade;
mod next_hop;
mod properties;
mod refusal;
mod world;
mod xdp;
