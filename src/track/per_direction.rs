//! A pair with one thing for each direction.

use std::ops::{Index, IndexMut};

use crate::event::Direction;

/// One of a thing for each direction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PerDirection<T> {
    pub read: T,
    pub write: T,
}

impl<T> Index<Direction> for PerDirection<T> {
    type Output = T;
    fn index(&self, direction: Direction) -> &T {
        match direction {
            Direction::Read => &self.read,
            Direction::Write => &self.write,
        }
    }
}

impl<T> IndexMut<Direction> for PerDirection<T> {
    fn index_mut(&mut self, direction: Direction) -> &mut T {
        match direction {
            Direction::Read => &mut self.read,
            Direction::Write => &mut self.write,
        }
    }
}
