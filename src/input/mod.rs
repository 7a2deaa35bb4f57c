//! Capture files of anybody, as they are read: [`container`] has the pieces of a file, [`options`] what pcapng blocks say beside
//! packets, [`layers`] finds the bytes of TCP in a packet, [`sequence`] their place in the stream.

pub(crate) mod container;
pub(crate) mod layers;
pub(crate) mod options;
pub(crate) mod sequence;
