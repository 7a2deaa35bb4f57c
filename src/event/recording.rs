//! A recording: every input of the code after the ring, in order, in a file.
//!
//! Layout: the 8 bytes of [`MAGIC`], the number 1 (u32) as a byte-order mark, then for each record its length
//! (u32) and its bytes. All numbers are in the byte order of the machine that recorded; on another the mark
//! does not match.

use std::io::{self, Write};
use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

/// First bytes of a recording; the byte before the last is the version.
pub const MAGIC: [u8; 8] = *b"TLS2PC\x03\x00";

/// Longest record that a recording may hold, in bytes.
const RECORD_MAX: u32 = 1 << 20;

/// Appends a record to a batch: a piece of a recording. The record has one part or two.
pub fn add(batch: &mut BytesMut, (first, second): (&[u8], &[u8])) {
    // Records of the kernel side have 64 KiB at most; what user space makes is bounded where it is made.
    batch.put_u32_ne(u32::try_from(first.len() + second.len()).unwrap_or(u32::MAX));
    batch.extend_from_slice(first);
    batch.extend_from_slice(second);
}

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

    /// Appends a batch of records, as [`add`] makes it.
    ///
    /// # Errors
    /// What writing gives.
    pub fn record(&mut self, batch: &[u8]) -> io::Result<()> {
        self.0.write_all(batch)
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
    /// It ends in the middle of a record, or before the last one of the capture: everything before that is
    /// complete.
    #[error("the recording is cut short: the end of the capture is not in it")]
    CutShort,
    /// A length is impossible.
    #[error("the recording is damaged: a record of {0} bytes")]
    Damaged(u32),
}

/// Reads a recording, or a batch of records.
pub struct Player {
    records: Bytes,
    at: usize,
}

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
        Ok(Player::batch(recording))
    }

    /// Reads a batch, as [`add`] makes it.
    pub fn batch(records: Bytes) -> Player {
        Player { records, at: 0 }
    }

    /// The bytes that contain the records.
    pub fn records(&self) -> &Bytes {
        &self.records
    }

    /// Returns the bytes that contain the records.
    pub fn into_records(self) -> Bytes {
        self.records
    }

    /// Offset of the next record in [`records`](Self::records); `None` at the end.
    ///
    /// # Errors
    /// [`RecordingError`]; nothing can be read after one.
    pub fn next_at(&mut self) -> Result<Option<Range<usize>>, RecordingError> {
        let rest = &self.records[self.at..];
        if rest.is_empty() {
            return Ok(None);
        }
        let len = rest.first_chunk().map(|len| u32::from_ne_bytes(*len)).ok_or(RecordingError::CutShort)?;
        if len > RECORD_MAX {
            return Err(RecordingError::Damaged(len));
        }
        let begin = self.at + size_of::<u32>();
        let end = begin + len as usize;
        if self.records.len() < end {
            return Err(RecordingError::CutShort);
        }
        self.at = end;
        Ok(Some(begin..end))
    }

    /// The next record, a slice of the recording; `None` at the end.
    ///
    /// # Errors
    /// As [`next_at`](Self::next_at).
    pub fn next_record(&mut self) -> Result<Option<Bytes>, RecordingError> {
        Ok(self.next_at()?.map(|at| self.records.slice(at)))
    }
}
