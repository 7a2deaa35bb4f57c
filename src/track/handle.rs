//! The handles that were heard of.

use std::collections::{BTreeMap, HashSet, VecDeque};

use foldhash::HashMap;

use super::ending::Ending;
use super::joined::Reach;
use super::order::Order;
use super::per_direction::PerDirection;
use super::segment::{ConnectionId, Tuple};
use super::slot::Slot;
use super::stream::Stream;
use super::timers::Deadlines;
use super::unwritten_end::UnwrittenEnd;
use crate::event::{Bind, Direction, HandleKey, Missing, Monotonic, ProcessKey, Role};

/// Where a handle's bytes are written.
#[derive(Debug)]
pub(super) enum View {
    /// It has moved none.
    Idle,
    /// They are written, as this connection.
    Owner(Box<Stream>),
    /// They are not: those of the other end, on the same host, are.
    UnwrittenEnd {
        /// The handle of the other end, as long as its connection is this.
        owner: Slot,
        /// The connection.
        id: ConnectionId,
    },
    /// There are no more.
    Ended {
        /// The connection it belonged to.
        id: Option<ConnectionId>,
        /// As the second view.
        second: bool,
        /// Its program may still have it: its number among those.
        dormant: Option<u64>,
    },
}

/// A TLS handle.
#[derive(Debug)]
pub(super) struct Handle {
    pub key: HandleKey,
    /// Thread that was first seen with it.
    pub tid: u32,
    pub first_seen: Monotonic,
    pub bind: Option<Box<Bind>>,
    pub tls_role: Option<Role>,
    /// Its handshake was seen before any data.
    pub handshake: bool,
    pub server_name: Option<String>,
    pub alpn: Option<String>,
    /// The handle that its bytes go through.
    pub below: Option<HandleKey>,
    pub ending: Ending,
    /// Holes of unknown length before the first data.
    pub skips: PerDirection<Option<(Missing, Monotonic)>>,
    pub order: Order,
    /// Offset of the next byte that is expected.
    pub next: PerDirection<u64>,
    /// How far its calls have come, placed or not.
    pub told: PerDirection<Reach>,
    /// Other processes that have used its socket.
    pub callers: HashSet<ProcessKey>,
    pub view: View,
    /// What it moves while the other end's view is written.
    pub second: UnwrittenEnd,
    pub deadlines: Deadlines,
}

impl Handle {
    pub fn new(key: HandleKey, tid: u32, first_seen: Monotonic) -> Handle {
        Handle {
            key,
            tid,
            first_seen,
            bind: None,
            tls_role: None,
            handshake: false,
            server_name: None,
            alpn: None,
            below: None,
            ending: Ending::default(),
            skips: PerDirection::default(),
            order: Order::default(),
            next: PerDirection::default(),
            told: PerDirection::default(),
            callers: HashSet::new(),
            view: View::Idle,
            second: UnwrittenEnd::default(),
            deadlines: Deadlines::default(),
        }
    }

    /// The tuple of its own socket.
    pub fn tuple(&self) -> Option<Tuple> {
        self.bind.as_ref().map(|b| Tuple { local: b.local, remote: b.remote })
    }

    /// Its last known offsets.
    pub fn reach(&self) -> PerDirection<Reach> {
        let mut reach = self.told;
        for direction in [Direction::Read, Direction::Write] {
            reach[direction].bytes = reach[direction].bytes.max(self.next[direction]);
        }
        reach
    }

    pub fn stream(&self) -> Option<&Stream> {
        match &self.view {
            View::Owner(stream) => Some(stream),
            _ => None,
        }
    }

    pub fn stream_mut(&mut self) -> Option<&mut Stream> {
        match &mut self.view {
            View::Owner(stream) => Some(stream),
            _ => None,
        }
    }

    /// The connection that its bytes are part of, if that has anything to show.
    pub fn connection(&self) -> Option<ConnectionId> {
        match &self.view {
            View::Idle => None,
            View::Owner(stream) => stream.has_output().then_some(stream.id),
            View::UnwrittenEnd { id, .. } => Some(*id),
            View::Ended { id, .. } => *id,
        }
    }
}

/// The table of handles, living and ended.
#[derive(Debug, Default)]
pub(super) struct Handles {
    slots: Vec<Option<Handle>>,
    free: Vec<Slot>,
    by_key: HashMap<HandleKey, Slot>,
    /// Freed handles, remembered for a while because late records may arrive.
    gone: VecDeque<Slot>,
    /// Those whose connection has ended but that may still be heard of, by the order of ending.
    dormant: BTreeMap<u64, Slot>,
    endings: u64,
}

impl Handles {
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    pub fn find(&self, key: &HandleKey) -> Option<Slot> {
        self.by_key.get(key).copied()
    }

    pub fn get(&self, slot: Slot) -> Option<&Handle> {
        self.slots.get(slot.0 as usize)?.as_ref()
    }

    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut Handle> {
        self.slots.get_mut(slot.0 as usize)?.as_mut()
    }

    /// Enters a handle that is not in the table.
    pub fn insert(&mut self, handle: Handle) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            Slot(self.slots.len() as u32 - 1)
        });
        self.by_key.insert(handle.key, slot);
        self.slots[slot.0 as usize] = Some(handle);
        slot
    }

    /// A handle's connection has ended. Unless the handle is `gone`, it is remembered until it is freed or its
    /// entry is needed: if it were forgotten, its next record would look like a new connection.
    pub fn ended(&mut self, slot: Slot, id: Option<ConnectionId>, second: bool, gone: bool) {
        self.endings += 1;
        let dormant = (!gone).then_some(self.endings);
        let Some(handle) = self.get_mut(slot) else { return };
        handle.view = View::Ended { id, second, dormant };
        match dormant {
            Some(n) => drop(self.dormant.insert(n, slot)),
            None => self.gone.push_back(slot),
        }
    }

    /// A handle whose connection ended before is freed now.
    pub fn gone(&mut self, slot: Slot) {
        let Some(Handle { view: View::Ended { dormant, .. }, .. }) = self.get_mut(slot) else { return };
        if let Some(n) = dormant.take() {
            self.dormant.remove(&n);
            self.gone.push_back(slot);
        }
    }

    /// Number of freed handles.
    pub fn gone_len(&self) -> usize {
        self.gone.len()
    }

    /// Forgets the handle that was freed first, or else the one whose connection ended first.
    pub fn forget(&mut self) -> Option<(Slot, Handle)> {
        let slot = self.gone.pop_front().or_else(|| self.dormant.pop_first().map(|(_, slot)| slot))?;
        let handle = self.slots.get_mut(slot.0 as usize)?.take()?;
        self.by_key.remove(&handle.key);
        self.free.push(slot);
        Some((slot, handle))
    }

    /// All handles, in no order that means anything, but always the same.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &Handle)> {
        self.slots.iter().enumerate().filter_map(|(i, h)| Some((Slot(i as u32), h.as_ref()?)))
    }
}
