//! The numbers that ring records are made of. `build.rs` takes them from the C header (`bpf/tls2pcap.h`): each enum
//! here is the one there, and a new number there is a match here that is not exhaustive.

#![allow(missing_docs)]

include!(concat!(env!("OUT_DIR"), "/numbers.rs"));
