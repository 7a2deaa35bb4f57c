//! A recording: every input of what lies behind the ring, in order, in a file.
//!
//! Layout: the 8 bytes of [`MAGIC`], the number 1 (u32) as a byte-order mark, then for each record
//! its length (u32) and its bytes. All in the byte order of the machine that recorded; on another
//! the mark does not match.

use std::io::{self, Write};

use bytes::Bytes;

/// First bytes of a recording; the byte before the last is the version.
pub const MAGIC: [u8; 8] = *b"TLS2PC\x01\x00";

/// Longest record that a recording may hold, in bytes.
const RECORD_MAX: u32 = 1 << 20;

/// Writes a recording.
pub struct Recorder<W: Write>(W);

impl<W: Write> Recorder<W> {
    /// Starts a recording.
    ///
    /// # Errors
    /// What writing to `out` gives.
    pub fn new(mut out: W) -> io::Result<Self> {
        out.write_all(&MAGIC)?;
        out.write_all(&1u32.to_ne_bytes())?;
        Ok(Recorder(out))
    }

    /// Appends one record.
    ///
    /// # Errors
    /// What writing gives.
    pub fn record(&mut self, record: &[u8]) -> io::Result<()> {
        let len = u32::try_from(record.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.0.write_all(&len.to_ne_bytes())?;
        self.0.write_all(record)
    }

    /// Hands buffered bytes on.
    ///
    /// # Errors
    /// What flushing gives.
    pub fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Why a recording could not be read on.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// It is not a recording of this version and byte order.
    #[error("not a recording of this version of tls2pcap")]
    NotARecording,
    /// It ends in the middle of a record: what came before is whole.
    #[error("the recording is cut short")]
    CutShort,
    /// A length is impossible.
    #[error("the recording is damaged: a record of {0} bytes")]
    Damaged(u32),
}

/// Reads a recording. Records are slices of it, not copies.
pub struct Player(Bytes);

impl Player {
    /// Opens a recording.
    ///
    /// # Errors
    /// [`RecordingError::NotARecording`] for anything else.
    pub fn new(mut recording: Bytes) -> Result<Self, RecordingError> {
        let mark = 1u32.to_ne_bytes();
        if recording.len() < MAGIC.len() + mark.len()
            || recording.split_to(MAGIC.len()) != MAGIC[..]
            || recording.split_to(mark.len()) != mark[..]
        {
            return Err(RecordingError::NotARecording);
        }
        Ok(Player(recording))
    }

    /// The next record; `None` at the end.
    ///
    /// # Errors
    /// [`RecordingError`]; nothing can be read after one.
    pub fn next_record(&mut self) -> Result<Option<Bytes>, RecordingError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let len = self.0.first_chunk().map(|len| u32::from_ne_bytes(*len)).ok_or(RecordingError::CutShort)?;
        if len > RECORD_MAX {
            return Err(RecordingError::Damaged(len));
        }
        let end = 4 + len as usize;
        if self.0.len() < end {
            return Err(RecordingError::CutShort);
        }
        Ok(Some(self.0.split_to(end).slice(4..)))
    }
}
