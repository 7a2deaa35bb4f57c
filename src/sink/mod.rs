//! Files: [`pcapng`] makes the blocks, [`output`] and [`serve`] write them, [`rotate`] splits them over several
//! files, `place` opens a file, and `whereabouts` finds out what happened to it.

mod blocks;
mod format;
mod link;
pub mod output;
pub mod pcapng;
mod place;
pub mod rotate;
pub mod serve;
mod sorted;
mod whereabouts;

use std::io::{self, Write};

pub(crate) use blocks::each as each_block;
pub use format::{Format, is_compressed};
pub use link::Link;
pub use output::{OutputFile, is_same_file, write_public};
pub use pcapng::{Comments, Header, PcapngWriter};
pub use rotate::{DiskFull, Files, Names, Plan, is_enough};
pub use serve::Server;
pub use whereabouts::{Fate, Whereabouts};

/// One file or pipe, or as many files as the user wants.
pub enum Sink {
    /// One.
    One(OutputFile),
    /// Several, or one that ends the capture.
    Many(Box<Files>),
}

impl Write for Sink {
    /// All of `blocks`, or an error.
    fn write(&mut self, blocks: &[u8]) -> io::Result<usize> {
        match self {
            Sink::One(output) => output.write(blocks),
            Sink::Many(files) => files.write(blocks),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
