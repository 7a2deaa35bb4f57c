//! Connections, streams and processes: from [`crate::event::Event`] to [`segment::Segment`].
pub mod segment;
