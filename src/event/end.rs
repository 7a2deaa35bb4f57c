//! The end of a socket: which side sent its FIN first, and who sent a RST.

use super::numbers::{SOCKET_DATA_AFTER, SOCKET_FIN_READ, SOCKET_FIN_RECEIVED, SOCKET_LET_GO, State};
use super::{Direction, Monotonic, SocketKey};

const EPIPE: u32 = 32;
const ECONNABORTED: u32 = 103;
const ECONNRESET: u32 = 104;

/// A step in the end of a socket. Each carries everything known by then, so a lost one loses only its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketEnd {
    /// The socket.
    pub socket: SocketKey,
    /// When.
    pub time: Monotonic,
    /// The FINs so far, in their order: [`Direction::Write`] is this side's.
    pub fins: [Option<Direction>; 2],
    /// The program has read up to the peer's FIN: it will read nothing more.
    pub read_up: bool,
    /// The socket is closed.
    pub closed: Option<Closed>,
}

/// How a socket was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// By FINs. An unknown one was not seen: the kernel drops a socket that no process has as soon as its FIN
    /// is acknowledged.
    Orderly,
    /// By a RST of this side ([`Direction::Write`]) or of the peer.
    Reset(Direction),
    /// The peer did not answer any more.
    Lost,
}

impl SocketEnd {
    /// What a change of state means. `error` is the socket's.
    pub(super) fn new(
        socket: SocketKey,
        time: Monotonic,
        (before, after): (State, State),
        error: u32,
        flags: u8,
    ) -> SocketEnd {
        let has = |flag: u64| u64::from(flags) & flag != 0;
        let (read, write) = (Some(Direction::Read), Some(Direction::Write));
        let received = has(SOCKET_FIN_RECEIVED);
        let of = |state| match state {
            State::CloseWait => Some([read, None]),
            State::LastAck => Some([read, write]),
            State::FinWait1 | State::FinWait2 if received => Some([write, read]),
            State::FinWait1 | State::FinWait2 => Some([write, None]),
            State::Closing | State::TimeWait => Some([write, read]),
            _ => None,
        };
        let fins = of(after).or(of(before)).unwrap_or_default();
        let closed = match after {
            State::Close => Some(closed(before, error, has)),
            State::SynSent | State::SynRecv => Some(Closed::Orderly),
            _ => None,
        };
        SocketEnd { socket, time, fins, read_up: has(SOCKET_FIN_READ), closed }
    }
}

fn closed(before: State, error: u32, has: impl Fn(u64) -> bool) -> Closed {
    let let_go = has(SOCKET_LET_GO);
    match (error, before) {
        // The kernel answers data for a socket that no process has with a RST, and sets the error that a RST brings.
        (ECONNRESET, State::FinWait1 | State::FinWait2) if let_go && has(SOCKET_DATA_AFTER) => {
            Closed::Reset(Direction::Write)
        }
        (ECONNRESET | EPIPE, _) => Closed::Reset(Direction::Read),
        (ECONNABORTED, _) => Closed::Reset(Direction::Write),
        (1.., _) => Closed::Lost,
        // Closed with unread data or without lingering, or data arrived when no process had it.
        (0, State::Established | State::CloseWait | State::FinWait1) => Closed::Reset(Direction::Write),
        (0, State::FinWait2) if !let_go && !has(SOCKET_FIN_RECEIVED) => Closed::Reset(Direction::Write),
        (0, _) => Closed::Orderly,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LET_GO: u64 = SOCKET_LET_GO;
    const RECEIVED: u64 = SOCKET_FIN_RECEIVED;

    fn end(before: State, after: State, error: u32, flags: u64) -> SocketEnd {
        let socket = SocketKey { address: 1, generation: 1 };
        SocketEnd::new(socket, 1, (before, after), error, flags as u8)
    }

    /// The FINs, and how it is closed.
    fn told(before: State, error: u32, flags: u64) -> String {
        let SocketEnd { fins, closed, .. } = end(before, State::Close, error, flags);
        let fins: Vec<String> = fins.into_iter().flatten().map(|fin| format!("{fin:?}")).collect();
        format!("{} {:?}", fins.join(","), closed.unwrap())
    }

    #[test]
    fn the_states_tell_who_closed_first() {
        use State::*;
        let fins = |before, after, flags| end(before, after, 0, flags).fins;
        let (read, write) = (Some(Direction::Read), Some(Direction::Write));
        assert_eq!(fins(Established, FinWait1, 0), [write, None]);
        assert_eq!(fins(Established, CloseWait, RECEIVED), [read, None]);
        assert_eq!(fins(CloseWait, CloseWait, RECEIVED), [read, None]);
        assert_eq!(fins(CloseWait, LastAck, RECEIVED), [read, write]);
        assert_eq!(fins(FinWait1, Closing, RECEIVED), [write, read]);
        assert_eq!(told(LastAck, 0, RECEIVED | LET_GO), "Read,Write Orderly");
        assert_eq!(told(FinWait2, 0, RECEIVED), "Write,Read Orderly");
        assert_eq!(told(FinWait2, 0, LET_GO), "Write Orderly");
        assert_eq!(told(Closing, 0, RECEIVED), "Write,Read Orderly");
        assert_eq!(end(Close, SynSent, 0, 0).closed, Some(Closed::Orderly), "the address is used again");
        assert_eq!(end(Established, CloseWait, 0, RECEIVED).closed, None);
    }

    #[test]
    fn a_reset_is_that_of_who_sent_it() {
        use State::*;
        assert_eq!(told(Established, 0, 0), " Reset(Write)", "with unread data");
        assert_eq!(told(CloseWait, 0, RECEIVED), "Read Reset(Write)");
        assert_eq!(told(FinWait2, 0, 0), "Write Reset(Write)", "shut down, then closed with unread data");
        assert_eq!(told(FinWait1, 0, LET_GO), "Write Reset(Write)");
        assert_eq!(told(Established, ECONNRESET, 0), " Reset(Read)");
        assert_eq!(told(CloseWait, EPIPE, RECEIVED), "Read Reset(Read)");
        assert_eq!(told(LastAck, ECONNRESET, RECEIVED | LET_GO), "Read,Write Reset(Read)");
        assert_eq!(told(FinWait1, ECONNRESET, LET_GO), "Write Reset(Read)");
        assert_eq!(told(FinWait1, ECONNRESET, LET_GO | SOCKET_DATA_AFTER), "Write Reset(Write)");
        assert_eq!(
            told(FinWait2, ECONNRESET, SOCKET_DATA_AFTER),
            "Write Reset(Read)",
            "half closed, it read on"
        );
        assert_eq!(told(Established, 110, 0), " Lost");
        assert_eq!(told(Established, ECONNABORTED, 0), " Reset(Write)");
    }
}
