//! Files: [`pcapng`] makes the blocks, [`output`] is where they go.

mod link;
pub mod output;
pub mod pcapng;

pub use link::Link;
pub use output::Output;
pub use pcapng::{Header, PcapngWriter};
