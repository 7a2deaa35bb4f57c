//! Into how many files a capture goes, and when it has enough.

/// When one file ends and the next begins, and when the capture ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The next file begins before this one has more bytes; at least 1.
    pub bytes: Option<u64>,
    /// The next begins with the first packet that is this many seconds later than the first of this file; at
    /// least 1.
    pub seconds: Option<u64>,
    /// The next begins with the first packet after a multiple of this many seconds since 1970; at least 1.
    pub interval: Option<u64>,
    /// The next begins after this many packets; at least 1.
    pub packets: Option<u64>,
    /// How files are named.
    pub names: Names,
    /// So many files are kept: the oldest goes for the next one; at least 1.
    pub keep: Option<u64>,
    /// The capture ends after this many files; at least 1.
    pub files_max: Option<u64>,
    /// The capture ends after this many packets; at least 1.
    pub packets_max: Option<u64>,
    /// The capture ends before its files have more bytes together; at least 1.
    pub bytes_max: Option<u64>,
    /// Command to run with each file that is complete.
    pub then: Option<String>,
    /// What to do when the disk is full.
    pub disk_full: DiskFull,
}

impl Plan {
    /// Whether there can be more than one file.
    pub fn rotates(&self) -> bool {
        self.bytes.is_some() || self.seconds.is_some() || self.interval.is_some() || self.packets.is_some()
    }
}

/// How files are named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Names {
    /// As tcpdump does, but with the number before the ending: `a.pcapng`, `a1.pcapng`, `a2.pcapng`. With
    /// [`Plan::seconds`] a name with `%` is one for strftime.
    #[default]
    Tcpdump,
    /// As dumpcap does: `a_00001_20261130093000.pcapng`.
    NumberTime,
    /// The same with the time first.
    TimeNumber,
}

/// What to do when the disk is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskFull {
    /// End the capture; the last file ends with a complete packet.
    #[default]
    End,
    /// Delete the oldest complete file of this capture, and go on.
    DropOldest,
}
