//! From [`crate::track::segment::Segment`] to [`packet::Packet`].
pub mod packet;
