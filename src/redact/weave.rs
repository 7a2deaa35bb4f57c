//! One direction of a connection as it is put together again: heads and frames, and between them the bytes of bodies,
//! which may be decided later than what follows them.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;

use super::body::{Body, Parser};
use super::engine::Engine;
use super::kind::{Found, Kind};

/// A WebSocket mask, and which byte of it is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mask {
    pub(super) key: [u8; 4],
    pub(super) phase: usize,
}

impl Mask {
    /// Masks, or unmasks.
    pub(super) fn apply(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte ^= self.key[self.phase];
            self.phase = (self.phase + 1) % 4;
        }
    }
}

/// Number of what is decided by the layer above.
const LAYER: u64 = u64::MAX;

#[derive(Debug)]
enum Span {
    Raw(Vec<u8>, Vec<Found>),
    Body { id: u64, left: usize, mask: Option<Mask> },
}

/// Spans in order, and the bodies that they are of.
#[derive(Debug, Default)]
pub(super) struct Weave {
    spans: VecDeque<Span>,
    bodies: HashMap<u64, Body, RandomState>,
}

impl Weave {
    /// Begins a body. One of the same number that has ended and not been taken yet is given up.
    pub(super) fn open(&mut self, engine: &mut Engine, id: u64, body: Body) {
        if let Some(old) = self.bodies.get_mut(&id) {
            old.lose(engine, Kind::Lost);
            return;
        }
        self.bodies.insert(id, body);
    }

    pub(super) fn has(&self, id: u64) -> bool {
        self.bodies.contains_key(&id)
    }

    /// How many bodies are not done.
    pub(super) fn open_bodies(&self) -> usize {
        self.bodies.len()
    }

    /// Bytes that are ready, with what was found in them.
    pub(super) fn raw(&mut self, bytes: &[u8], found: Vec<Found>) {
        if let Some(Span::Raw(all, before)) = self.spans.back_mut() {
            let base = all.len() as u64;
            before.extend(found.into_iter().map(|found| Found { at: found.at + base, ..found }));
            all.extend_from_slice(bytes);
        } else {
            self.spans.push_back(Span::Raw(bytes.to_vec(), found));
        }
    }

    /// Bytes of a body, unmasked.
    pub(super) fn data(
        &mut self,
        engine: &mut Engine,
        id: u64,
        bytes: &[u8],
        last: bool,
        mask: Option<Mask>,
    ) {
        let body = self.bodies.entry(id).or_insert_with(|| Body::with(Parser::unknown()));
        body.feed(engine, bytes, last);
        self.wait(id, bytes.len(), mask);
    }

    /// Bytes of a body that are decided elsewhere.
    pub(super) fn wait(&mut self, id: u64, len: usize, mask: Option<Mask>) {
        match self.spans.back_mut() {
            Some(Span::Body { id: before, left, mask: None }) if *before == id && mask.is_none() => {
                *left += len
            }
            _ if len == 0 => {}
            _ => self.spans.push_back(Span::Body { id, left: len, mask }),
        }
    }

    /// What comes next of such a body was decided.
    pub(super) fn decided(&mut self, id: u64, bytes: &[u8], found: Vec<Found>) {
        self.bodies.entry(id).or_insert_with(|| Body::with(Parser::unknown())).decided(bytes, found);
    }

    /// Bytes of the layer above, which are decided there.
    pub(super) fn layer(&mut self, len: usize) {
        self.wait(LAYER, len, None);
    }

    /// The layer above has decided what comes next of it.
    pub(super) fn layer_decided(&mut self, bytes: &[u8], found: Vec<Found>) {
        self.decided(LAYER, bytes, found);
    }

    /// The body goes on, but something of it is missing.
    pub(super) fn lose(&mut self, engine: &mut Engine, id: u64, kind: Kind) {
        if let Some(body) = self.bodies.get_mut(&id) {
            body.lose(engine, kind);
        }
    }

    /// Nothing more of it comes.
    pub(super) fn close(&mut self, engine: &mut Engine, id: u64) {
        if let Some(body) = self.bodies.get_mut(&id) {
            body.feed(engine, &[], true);
        }
    }

    /// Decides all that waits.
    pub(super) fn give_up(&mut self, engine: &mut Engine, kind: Kind) {
        for body in self.bodies.values_mut().filter(|body| body.is_undecided()) {
            body.lose(engine, kind);
        }
    }

    /// The same, and what follows is lost in all bodies.
    pub(super) fn lose_all(&mut self, engine: &mut Engine, kind: Kind) {
        self.bodies.values_mut().for_each(|body| body.lose(engine, kind));
    }

    /// Ends all bodies.
    pub(super) fn close_all(&mut self, engine: &mut Engine) {
        self.bodies.values_mut().for_each(|body| body.feed(engine, &[], true));
    }

    /// Takes all that is decided and has nothing undecided before it.
    pub(super) fn drain(&mut self, out: &mut Vec<u8>, found: &mut Vec<Found>) {
        while let Some(span) = self.spans.front_mut() {
            match span {
                Span::Raw(bytes, own) => {
                    let base = out.len() as u64;
                    found.extend(own.iter().map(|found| Found { at: found.at + base, ..*found }));
                    out.extend_from_slice(bytes);
                }
                Span::Body { id, left, mask } => {
                    let begin = out.len();
                    if let Some(body) = self.bodies.get_mut(id) {
                        *left -= body.take(*left, out, found);
                    }
                    if let Some(mask) = mask {
                        mask.apply(&mut out[begin..]);
                    }
                    if *left > 0 {
                        return;
                    }
                    let id = *id;
                    if self.bodies.get(&id).is_some_and(Body::is_done) {
                        self.bodies.remove(&id);
                    }
                }
            }
            self.spans.pop_front();
        }
        self.bodies.retain(|_, body| !body.is_done());
    }
}
