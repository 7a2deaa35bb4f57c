//! All places to which one capture goes.

use std::io::{self, Write};

use crate::read::LiveView;
use crate::sink::{Server, Sink};
use crate::track::segment::WallTime;

/// All outputs of a capture.
pub struct Outlets {
    /// A file or pipe, or several files.
    pub file: Option<Sink>,
    /// Clients, which never fail. [`Server::unserved`] counts what none of them received.
    pub server: Option<Server>,
    /// Standard output, as text, JSON or hex.
    pub view: Option<LiveView>,
}

impl Outlets {
    /// All packets up to this time have been written.
    ///
    /// # Errors
    /// Those of [`crate::sink::Files::settled`].
    pub fn settled(&mut self, until: WallTime) -> io::Result<()> {
        match &mut self.file {
            Some(Sink::Many(files)) => files.settled(until),
            Some(Sink::One(_)) | None => Ok(()),
        }
    }
}

impl Write for Outlets {
    /// All of `blocks`, or an error.
    fn write(&mut self, blocks: &[u8]) -> io::Result<usize> {
        if let Some(server) = &self.server {
            server.blocks(blocks);
        }
        if let Some(view) = &self.view {
            view.blocks(blocks)?;
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
