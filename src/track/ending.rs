//! The end of a connection, in order: which side's FIN comes first, and which side sends a RST.
//!
//! A socket reports when this side's FIN is sent and when the peer's arrives. A FIN follows the last byte of
//! its direction. Nothing is written after this side's FIN, so it is placed where it was sent, before anything
//! read afterwards. What arrived before the peer's FIN may be read long after it, so that FIN waits until the
//! program is known to have read up to it, or until the connection ends.
//!
//! A close_notify means that a side sends no more *inside TLS*. The socket decides whether the connection ends;
//! only if no socket is known is the close_notify this side's FIN.

use super::handle::View;
use super::per_direction::PerDirection;
use super::slot::Slot;
use super::stream::{Item, Out};
use super::timers::Timer;
use super::tracker::Tracker;
use crate::event::{Closed, Direction, Monotonic, SocketEnd};

/// What is known of a connection's end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ending {
    /// The FINs, in order.
    fins: [Option<(Direction, Monotonic)>; 2],
    closed: Option<(Closed, Monotonic)>,
    /// A close_notify was sent and nothing since.
    shut: Option<Monotonic>,
}

impl Ending {
    /// Records a report of the socket.
    pub fn hear(&mut self, end: &SocketEnd) {
        for fin in end.fins.into_iter().flatten() {
            let known = self.fins.iter().flatten().any(|(direction, _)| *direction == fin);
            if let Some(place) = self.fins.iter_mut().find(|place| place.is_none()).filter(|_| !known) {
                *place = Some((fin, end.time));
            }
        }
        self.closed = self.closed.or(end.closed.map(|closed| (closed, end.time)));
    }

    /// This side's close_notify is sent.
    pub fn shut(&mut self, time: Monotonic) {
        self.shut = self.shut.or(Some(time));
    }

    /// This side sends something.
    pub fn sends(&mut self) {
        self.shut = None;
    }

    /// When the socket was closed.
    pub fn closed(&self) -> Option<Monotonic> {
        self.closed.map(|(_, time)| time)
    }

    /// When this side's FIN was sent, if it precedes what is read at `time`.
    pub fn before_read(&self, time: Monotonic) -> Option<Monotonic> {
        self.fins[0].filter(|(fin, sent)| *fin == Direction::Write && *sent < time).map(|(_, sent)| sent)
    }

    /// When the peer's FIN came, if it is the next to be written.
    pub fn peer_first(&self) -> Option<Monotonic> {
        self.fins[0].filter(|(fin, _)| *fin == Direction::Read).map(|(_, came)| came)
    }

    /// What is still to be written when the connection ends at `time`. `reset`: which side sent a RST,
    /// according to the other end. `over`: no process has the connection any more, whatever its socket has
    /// reported.
    pub fn rest(
        &self,
        finished: &PerDirection<bool>,
        reset: Option<Direction>,
        over: bool,
        time: Monotonic,
    ) -> Vec<(Monotonic, Item)> {
        let known = self.fins.into_iter().flatten();
        let mut steps: Vec<_> = known.map(|(fin, time)| (time, Item::Finish(fin))).collect();
        let closed = self.closed.map(|(closed, _)| closed);
        let reset = match closed {
            Some(Closed::Reset(sender)) => Some(sender),
            Some(Closed::Lost) => None,
            _ => reset,
        };
        // The other side's FIN may be missing: see `Closed::Orderly`.
        let presumed: &[Direction] = match (reset, closed) {
            (Some(_), _) | (None, Some(Closed::Lost)) => &[],
            (None, None) if !over && self.shut.is_none() => &[],
            (None, None) if !over => &[Direction::Write],
            _ => &[Direction::Write, Direction::Read],
        };
        let is_known = |fin: &Direction| self.fins.iter().flatten().any(|(known, _)| known == fin);
        steps.extend(presumed.iter().filter(|fin| !is_known(fin)).map(|fin| (time, Item::Finish(*fin))));
        steps.retain(|(_, step)| !matches!(step, Item::Finish(fin) if finished[*fin]));
        steps.extend(reset.map(|sender| (time, Item::Reset(sender))));
        steps
    }
}

impl Tracker {
    /// A step in the end of a socket.
    pub(super) fn socket_end(&mut self, end: SocketEnd, out: Out) {
        let Some(slots) = self.sockets.get(&end.socket) else { return };
        let slots = slots.clone();
        for slot in slots {
            if let Some(handle) = self.handles.get_mut(slot) {
                handle.ending.hear(&end);
            }
            if end.read_up {
                self.release(slot, out);
                if let Some(came) = self.handles.get(slot).and_then(|h| h.ending.peer_first()) {
                    self.finish(slot, Direction::Read, came, out);
                }
            }
            if let Some(closed) = end.closed {
                self.socket_closed(slot, closed, end.time);
            }
        }
        if end.closed.is_some() {
            self.sockets.remove(&end.socket);
        }
    }

    fn socket_closed(&mut self, slot: Slot, closed: Closed, time: Monotonic) {
        let until = self.now.saturating_add(self.limits.closed_time);
        let Some(handle) = self.handles.get_mut(slot) else { return };
        if let Some(tuple) = handle.tuple() {
            self.ends.closed(tuple, slot, time);
        }
        match (&handle.view, closed) {
            (View::Owner(_), _) => {
                self.timers.set(&mut handle.deadlines, slot, Timer::Closed, Some(until));
            }
            // What the other end has sent this one has received.
            (View::UnwrittenEnd { owner, id }, Closed::Reset(sender)) => {
                let (owner, id) = (*owner, *id);
                let owner = self.handles.get_mut(owner).and_then(|h| h.stream_mut());
                if let Some(stream) = owner.filter(|s| s.id == id) {
                    stream.reset = Some(match sender {
                        Direction::Read => Direction::Write,
                        Direction::Write => Direction::Read,
                    });
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::SocketKey;
    use Direction::{Read, Write};

    fn end(time: Monotonic, fins: [Option<Direction>; 2], closed: Option<Closed>) -> SocketEnd {
        SocketEnd { socket: SocketKey { address: 1, generation: 1 }, time, fins, read_up: false, closed }
    }

    fn told(ending: &Ending, reset: Option<Direction>, over: bool) -> String {
        let word = |(time, item)| match item {
            Item::Finish(fin) => format!("{fin:?} {time}"),
            Item::Reset(sender) => format!("Reset({sender:?}) {time}"),
            other => format!("{other:?}"),
        };
        let steps = ending.rest(&PerDirection::default(), reset, over, 90);
        steps.into_iter().map(word).collect::<Vec<_>>().join(", ")
    }

    fn heard(ends: &[SocketEnd]) -> Ending {
        let mut ending = Ending::default();
        ends.iter().for_each(|end| ending.hear(end));
        ending
    }

    #[test]
    fn fins_stand_in_the_order_in_which_they_came() {
        let steps = [end(1, [Some(Read), None], None), end(5, [Some(Read), Some(Write)], None)];
        assert_eq!(told(&heard(&steps), None, false), "Read 1, Write 5");
        let closed = end(9, [Some(Read), Some(Write)], Some(Closed::Orderly));
        assert_eq!(told(&heard(&[closed]), None, false), "Read 9, Write 9", "the steps were lost");
        let let_go = [end(1, [Some(Write), None], None), end(3, [Some(Write), None], Some(Closed::Orderly))];
        assert_eq!(told(&heard(&let_go), None, false), "Write 1, Read 90");
    }

    #[test]
    fn a_reset_comes_behind_the_fins_that_were_seen_and_in_the_place_of_others() {
        let fin = end(1, [Some(Read), None], None);
        let reset = end(2, [Some(Read), None], Some(Closed::Reset(Write)));
        assert_eq!(told(&heard(&[fin, reset]), None, false), "Read 1, Reset(Write) 90");
        let reset = end(2, [None; 2], Some(Closed::Reset(Read)));
        assert_eq!(told(&heard(&[reset]), Some(Write), false), "Reset(Read) 90", "its own socket knows best");
        assert_eq!(told(&heard(&[fin]), Some(Write), false), "Read 1, Reset(Write) 90");
        assert_eq!(told(&heard(&[end(2, [None; 2], Some(Closed::Lost))]), None, true), "");
    }

    #[test]
    fn what_no_socket_tells_is_presumed_only_where_it_is_over() {
        let mut ending = Ending::default();
        assert_eq!(
            (told(&ending, None, false), told(&ending, None, true)),
            ("".into(), "Write 90, Read 90".into())
        );
        ending.shut(4);
        assert_eq!(told(&ending, None, false), "Write 90");
        ending.sends();
        assert_eq!(told(&ending, None, false), "");
        let half = heard(&[end(3, [Some(Write), None], None)]);
        assert_eq!(told(&half, None, false), "Write 3");
        assert_eq!((half.before_read(3), half.before_read(4), half.peer_first()), (None, Some(3), None));
    }
}
