//! Files: [`pcapng`] makes the blocks, [`output`] and [`serve`] are where they go, `place` opens, and
//! `whereabouts` tells what became of, a file.

mod blocks;
mod format;
mod link;
pub mod output;
pub mod pcapng;
mod place;
pub mod serve;
mod sorted;
mod whereabouts;

use std::io::{self, Write};

pub use format::{Format, is_compressed};
pub use link::Link;
pub use output::{Output, is_same_file, write_public};
pub use pcapng::{Header, PcapngWriter};
pub use serve::Server;
pub use whereabouts::{Fate, Whereabouts};

/// All places to which a capture goes.
#[derive(Debug)]
pub struct Fan {
    /// A file or pipe.
    pub file: Option<Output>,
    /// Clients, who never fail. What none of them got is told by [`Server::unserved`].
    pub server: Option<Server>,
}

impl Write for Fan {
    /// All of `blocks`, or an error.
    fn write(&mut self, blocks: &[u8]) -> io::Result<usize> {
        if let Some(server) = &self.server {
            server.blocks(blocks);
        }
        match &mut self.file {
            Some(file) => file.write(blocks),
            None => Ok(blocks.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
