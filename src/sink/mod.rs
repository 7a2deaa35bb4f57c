//! Files: [`pcapng`] makes the blocks, [`output`] is where they go.

pub mod output;
pub mod pcapng;

pub use output::Output;
pub use pcapng::{Header, PcapngWriter};
