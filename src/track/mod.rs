//! Connections, streams and processes: from [`crate::event::Event`] to [`segment::Segment`].
mod clock;
mod order;
pub mod segment;
