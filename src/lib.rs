//! tls2pcap shows what a Linux program really sends and receives over TLS.
//!
//! Data flows one way through the modules, and each border has one type:
//!
//! ```text
//! bpf/ → probe → event → track → redact → synth → sink
//!        Record  Event   Segment         Packet   file
//! ```
//!
//! `event`, `track`, `redact` and `synth` have no I/O, no clock and no unsafe code: they know the time only
//! from events, so a recording replays to the same bytes.

pub mod bundle;
pub mod capture;
pub mod cli;
pub mod companion;
pub mod config;
pub mod discover;
pub mod doctor;
#[forbid(unsafe_code)]
pub mod event;
pub mod extcap;
pub mod failure;
#[forbid(unsafe_code)]
pub mod filter;
#[forbid(unsafe_code)]
mod input;
mod kept;
pub mod launch;
pub mod limits;
pub mod losses;
mod memory;
mod outlets;
pub mod pipeline;
pub mod printable;
pub mod privilege;
pub mod probe;
#[forbid(unsafe_code)]
mod proto;
pub mod read;
#[forbid(unsafe_code)]
pub mod redact;
pub mod replay;
pub mod rewrite;
pub mod sink;
pub mod status;
#[forbid(unsafe_code)]
pub mod synth;
#[forbid(unsafe_code)]
pub mod track;
#[forbid(unsafe_code)]
pub mod view;
