//! Which answer of HTTP/1 belongs to which request. The order says it, as long as no message is missing. Behind a missing one it
//! says so only of a single request, as nearly all clients wait for the answer before they ask anew.

use std::collections::VecDeque;

/// Requests without an answer that are remembered.
const WAITING_MAX: usize = 4096;

/// Requests without an answer, in order.
#[derive(Debug)]
pub(crate) struct Pairing<T> {
    waiting: VecDeque<T>,
    is_unsure: bool,
}

impl<T> Default for Pairing<T> {
    fn default() -> Pairing<T> {
        Pairing { waiting: VecDeque::new(), is_unsure: false }
    }
}

impl<T> Pairing<T> {
    /// Messages may be missing.
    pub(crate) fn doubt(&mut self) {
        self.is_unsure = true;
    }

    /// Whether some may be missing of those that are being said now.
    pub(crate) fn is_unsure(&self) -> bool {
        self.is_unsure
    }

    /// A request is about to come: gives those whose answers must be missing, since nobody asks anew before.
    pub(crate) fn give_up(&mut self) -> VecDeque<T> {
        if self.is_unsure { self.take_all() } else { VecDeque::new() }
    }

    /// A request. Gives the one for which there is no room any more.
    pub(crate) fn ask(&mut self, request: T) -> Option<T> {
        self.waiting.push_back(request);
        if self.waiting.len() > WAITING_MAX { self.waiting.pop_front() } else { None }
    }

    /// An answer: gives its request; `None`: it is not known.
    pub(crate) fn answer(&mut self) -> Option<T> {
        // Of several requests, some of which may have lost their answers, nobody knows which this answers.
        let is_known = !self.is_unsure || self.waiting.len() == 1;
        if is_known { self.waiting.pop_front() } else { None }
    }

    /// The answer was none yet, but announces one.
    pub(crate) fn put_back(&mut self, request: T) {
        self.waiting.push_front(request);
    }

    /// An answer is complete.
    pub(crate) fn done(&mut self) {
        self.is_unsure &= !self.waiting.is_empty();
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.waiting.iter()
    }

    /// The last first.
    pub(crate) fn last_first(&mut self) -> impl Iterator<Item = &mut T> {
        self.waiting.iter_mut().rev()
    }

    pub(crate) fn take_all(&mut self) -> VecDeque<T> {
        std::mem::take(&mut self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_a_missing_message_only_a_single_request_is_known() {
        let mut pairing = Pairing::default();
        assert_eq!((pairing.ask(1), pairing.ask(2)), (None, None));
        assert_eq!(pairing.answer(), Some(1), "pipelined");
        // The answer to 2 is missing, and that is seen before 3 is asked, or behind it.
        pairing.doubt();
        assert_eq!(pairing.give_up(), [2]);
        pairing.ask(3);
        assert_eq!(pairing.answer(), Some(3));
        pairing.done();
        assert!(!pairing.is_unsure());
        pairing.ask(4);
        pairing.ask(5);
        pairing.doubt();
        assert_eq!(pairing.answer(), None);
        pairing.done();
        assert!(pairing.is_unsure());
        assert_eq!(pairing.give_up(), [4, 5]);
        assert_eq!((0..=WAITING_MAX).filter_map(|i| pairing.ask(i)).collect::<Vec<_>>(), [0]);
    }
}
