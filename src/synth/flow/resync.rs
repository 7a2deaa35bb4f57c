//! Keeps readers in step with the frames of HTTP/2 and WebSocket, whatever is missing.
//!
//! What Wireshark 4.0 to 4.6 does, and what follows:
//!
//! - A complete packet in which a frame begins but does not end reserves the frame's sequence numbers. What
//!   arrives in them is not dissected; the next frame is expected right after them, also in the middle of a
//!   packet. A truncated packet reserves them too, if it contains the frame's length.
//! - A truncated packet is dissected from its first byte, wherever that is. If it does not begin with a frame's
//!   header, Wireshark assumes a frame of up to 16 MiB. So a part of a frame whose header is in an earlier
//!   packet is never written in a truncated packet.
//! - After a hole in which the last frame ended, a frame is expected. If none begins there, the rest of the
//!   frame needs a synthetic header. It goes at the end of the hole, so no captured byte is moved. It must give
//!   the start of the next frame, so bytes after such a hole wait until that is found, up to [`HELD_MAX`] and
//!   [`crate::synth::HOLD_TIME`].

use super::{At, Direction, Flow, Out, Stretch};
use crate::synth::comment::Comment;
use crate::synth::framing::{Framing, HEADER_MAX};
use crate::synth::h2;
use crate::synth::websocket;
use crate::synth::{HELD_MAX, HOLE_MAX, SKIP_JUMP, Stats};
use crate::track::segment::{Side, WallTime};

/// This much of a hole's end waits for the next bytes: enough for a synthetic header in a truncated packet, and
/// one byte more.
pub(super) const ROOM: u64 = 16;

/// The most calls whose bytes wait.
const CALLS_MAX: usize = 4096;

/// The frames of one direction.
pub(super) struct Frames {
    place: FramePosition,
    /// Readers may have reserved sequence numbers in which frames begin. A truncated packet ends that.
    astray: bool,
    seeking: Option<Box<Seeking>>,
}

/// Position of the next byte.
#[derive(Clone, Copy)]
pub(super) enum FramePosition {
    /// In a frame's header, after this many bytes of it.
    Header([u8; HEADER_MAX], usize),
    /// So many bytes before the next frame.
    Payload(u64),
    /// Unknown, and a synthetic header does not fit.
    Unknown,
}

const BORDER: FramePosition = FramePosition::Header([0; HEADER_MAX], 0);

/// It is still unknown where the next frame begins, and a synthetic header fits.
struct Seeking {
    room: HeaderSpace,
    /// The header that the hole interrupts, and how much of it is written.
    header: ([u8; HEADER_MAX], usize),
    /// Bytes from the end of the hole to the next frame, if they are known after all.
    border: Option<u64>,
    /// Bytes that wait.
    held: Vec<u8>,
    /// Their calls.
    calls: Vec<Call>,
    /// Bytes in the small holes after them.
    missing: u64,
    /// Before this place in `held` no frame begins.
    searched: usize,
}

/// Bytes that wait, up to `end`, and a hole after them.
struct Call {
    end: usize,
    at: At,
    hole: Option<Label>,
}

/// Where a synthetic header can be placed.
pub(super) enum HeaderSpace {
    /// The last bytes of a hole, at most [`ROOM`].
    Hole { len: u64, at: At, labels: Vec<Label> },
    /// Nothing of this direction is written, so all of it can be moved.
    Beginning,
}

/// The description of a hole.
#[derive(Clone, Copy)]
pub(super) struct Label {
    pub missing: u64,
    pub reason: &'static str,
    pub lost_records: u64,
}

impl Frames {
    /// `from_start`: the first byte begins a frame.
    pub(super) fn new(from_start: bool) -> Frames {
        let mut frames = Frames { place: BORDER, astray: false, seeking: None };
        if !from_start {
            frames.doubt();
        }
        frames
    }

    /// The position of the next byte is unknown.
    pub(super) fn lost() -> Frames {
        Frames { place: FramePosition::Unknown, astray: true, seeking: None }
    }

    /// This many bytes precede the first frame.
    pub(super) fn begin_after(&mut self, len: usize) {
        *self = Frames { place: FramePosition::Payload(len as u64), astray: false, seeking: None };
    }

    /// Nothing is written yet, and it is unknown what the first bytes are.
    pub(super) fn doubt(&mut self) {
        if self.seeking.is_none() {
            self.seek(HeaderSpace::Beginning, None);
        }
    }

    fn seek(&mut self, room: HeaderSpace, border: Option<u64>) {
        let header = match self.place {
            FramePosition::Header(bytes, n) => (bytes, n),
            _ => ([0; HEADER_MAX], 0),
        };
        self.place = FramePosition::Unknown;
        let (held, calls) = (Vec::new(), Vec::new());
        self.seeking = Some(Box::new(Seeking { room, header, border, held, calls, missing: 0, searched: 0 }));
    }

    pub(super) fn place(&self) -> FramePosition {
        self.place
    }

    /// So many zeros go by, up to the end of the frame at most.
    pub(super) fn walk_zeros(&mut self, mut count: u64, framing: &mut Framing) {
        while count > 0 {
            let n = match &mut self.place {
                FramePosition::Payload(left) => {
                    let n = count.min(*left);
                    *left -= n;
                    n
                }
                _ => {
                    self.walk(&[0], framing);
                    1
                }
            };
            count -= n;
            if matches!(self.place, FramePosition::Payload(0)) {
                self.place = BORDER;
            }
        }
    }

    /// Bytes wait, or will, until it is known where the next frame begins.
    pub(super) fn is_seeking(&self) -> bool {
        self.seeking.is_some()
    }

    fn held(&self) -> usize {
        self.seeking.as_ref().map_or(0, |seeking| seeking.held.len())
    }

    fn since(&self) -> Option<WallTime> {
        self.seeking.as_ref().and_then(|seeking| seeking.calls.first()).map(|call| call.at.time)
    }

    /// Advances over bytes; returns where in them the last frame begins, if it does not end in them.
    pub(super) fn walk(&mut self, bytes: &[u8], framing: &mut Framing) -> Option<usize> {
        self.place.walk(bytes, framing)
    }
}

impl FramePosition {
    /// Before a frame.
    pub(super) fn border() -> FramePosition {
        BORDER
    }

    /// See [`Frames::walk`].
    pub(super) fn walk(&mut self, bytes: &[u8], framing: &mut Framing) -> Option<usize> {
        let mut begin = None;
        let mut i = 0;
        while i < bytes.len() {
            match self {
                FramePosition::Unknown => return None,
                FramePosition::Payload(left) => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - i);
                    i += n;
                    *left -= n as u64;
                }
                FramePosition::Header(header, n) => {
                    if *n == 0 {
                        begin = Some(i);
                    }
                    let len = framing.header_len(&header[..*n]);
                    let more = (len - *n).min(bytes.len() - i);
                    header[*n..*n + more].copy_from_slice(&bytes[i..i + more]);
                    i += more;
                    *n += more;
                    // The first bytes may tell that there are more.
                    if *n == framing.header_len(&header[..*n]) {
                        *self = FramePosition::Payload(framing.payload_len(&header[..*n]));
                    }
                }
            }
            if matches!(self, FramePosition::Payload(0)) {
                *self = BORDER;
                begin = None;
            }
        }
        begin
    }
}

impl Seeking {
    /// Bytes from the end of the hole to the end of what waits.
    fn end(&self) -> u64 {
        self.held.len() as u64 + self.missing
    }

    /// Bytes from the end of the hole to the next frame, once `bytes` follow what is held.
    fn border(&mut self, side: Side, bytes: &[u8], framing: &Framing) -> Option<u64> {
        if self.border.is_some() {
            return self.border;
        }
        let last = self.held.len();
        let found = if last == 0 {
            framing.boundary(side, bytes, 0, 0)
        } else {
            self.held.extend_from_slice(bytes);
            let found = framing.boundary(side, &self.held, self.searched, last);
            self.held.truncate(last);
            found
        };
        self.searched = *found.as_ref().unwrap_or_else(|at| at);
        found.ok().map(|at| at as u64 + self.missing)
    }
}

impl Flow {
    /// Bytes that wait: for the next frame, for a line's end, for the rest of their message.
    pub(in crate::synth) fn held(&self) -> usize {
        let held = |side: &Direction| side.frames.held() + side.messages.held();
        held(&self.client) + held(&self.server) + self.waiting.held()
    }

    /// When the first of them stop waiting; bytes after a hole at the next tick.
    pub(in crate::synth) fn held_until(&self) -> Option<WallTime> {
        let since = |side: &Direction| side.frames.since().into_iter().chain(side.messages.since()).min();
        since(&self.client).into_iter().chain(since(&self.server)).chain(self.waiting.until()).min()
    }

    /// No byte after a hole waits any longer.
    pub(in crate::synth) fn release(&mut self, stats: &mut Stats, out: &mut Out) {
        for from in [Side::Client, Side::Server] {
            if self.side(from).messages.held() > 0 {
                self.written_out(from, false, stats, out);
            }
            if self.side(from).frames.since().is_some() {
                self.give_up(from, stats, out);
                self.side(from).frames.place = FramePosition::Unknown;
                self.searches_on(from);
            }
        }
    }

    /// Nothing follows.
    pub(in crate::synth) fn close(&mut self, stats: &mut Stats, out: &mut Out) {
        self.joined(stats, out);
        for from in [Side::Client, Side::Server] {
            self.close_side(from, stats, out);
        }
        self.acknowledge_all(out);
    }

    /// Nothing follows from this side.
    pub(super) fn close_side(&mut self, from: Side, stats: &mut Stats, out: &mut Out) {
        self.written_out(from, false, stats, out);
        let frames = &mut self.side(from).frames;
        // A header with nothing after it would be useless.
        frames.astray &= frames.since().is_some();
        self.give_up(from, stats, out);
    }

    /// No frame begins in what is held.
    fn give_up(&mut self, from: Side, stats: &mut Stats, out: &mut Out) {
        let Some(seeking) = &self.side(from).frames.seeking else { return };
        let all = seeking.end();
        self.found(from, all, (&[], None), stats, out);
    }

    /// Writes bytes of frames, and what is missing after them.
    pub(super) fn framed(&mut self, from: Side, stretch: Stretch, at: At, stats: &mut Stats, out: &mut Out) {
        let bytes = stretch.bytes;
        let whole = bytes.len() as u64 == stretch.len;
        let mut framing = self.framing;
        if let Some(seeking) = &mut self.side(from).frames.seeking {
            let hole = stretch.len - bytes.len() as u64;
            let end = seeking.end() + bytes.len() as u64;
            let border = if bytes.is_empty() { None } else { seeking.border(from, bytes, &framing) };
            match border {
                Some(border) => self.found(from, border, (bytes, Some(at)), stats, out),
                None if end == 0 => return self.hole(from, stretch, None, at, stats, out),
                None if hole <= ROOM => return self.hold(from, stretch, at, stats, out),
                None => self.found(from, end, (bytes, Some(at)), stats, out),
            }
        }
        let frames = &mut self.side(from).frames;
        if matches!(frames.place, FramePosition::Unknown) && !bytes.is_empty() {
            let border = framing.boundary(from, bytes, 0, 0);
            frames.astray |= border != Ok(0);
            frames.place = match border {
                Ok(0) => BORDER,
                Ok(border) => FramePosition::Payload(border as u64),
                Err(_) => FramePosition::Unknown,
            };
        }
        let begin = frames.walk(bytes, &mut framing);
        self.framing = framing;
        if whole {
            self.stretch(from, stretch, at, stats, out);
        } else {
            self.broken(from, stretch, begin, at, stats, out);
        }
    }

    fn hold(&mut self, from: Side, stretch: Stretch, at: At, stats: &mut Stats, out: &mut Out) {
        let Stretch { bytes, len, reason, lost_records } = stretch;
        let tls = self.tls.is_some();
        let Some(seeking) = &mut self.side(from).frames.seeking else { return };
        seeking.held.extend_from_slice(bytes);
        let missing = len - bytes.len() as u64;
        let hole = (missing > 0).then_some(Label { missing, reason, lost_records });
        if hole.is_some() {
            // A frame that begins before it was not found.
            seeking.searched = seeking.held.len();
            seeking.missing += missing;
            stats.missing_bytes = stats.missing_bytes.saturating_add(missing);
        }
        seeking.calls.push(Call { end: seeking.held.len(), at, hole });
        if seeking.held.len() >= HELD_MAX || seeking.calls.len() >= CALLS_MAX {
            // Better a frame that is too long than many that are none.
            let len = if tls { seeking.end() } else { h2::MAX_FRAME - ROOM };
            self.found(from, len, (&[], None), stats, out);
            let frames = &mut self.side(from).frames;
            frames.place = FramePosition::Unknown;
            frames.astray = true;
            self.searches_on(from);
        }
    }

    /// Inside TLS a synthetic header can be written anywhere.
    fn searches_on(&mut self, from: Side) {
        if self.tls.is_some() {
            self.side(from).frames.doubt();
        }
    }

    /// Bytes followed by a hole. `begin`: where in them the frame begins that the hole damages.
    fn broken(
        &mut self,
        from: Side,
        stretch: Stretch,
        begin: Option<usize>,
        at: At,
        stats: &mut Stats,
        out: &mut Out,
    ) {
        let Stretch { bytes, len, reason, lost_records } = stretch;
        if self.tls.is_some() {
            return self.broken_filled(from, stretch, begin, at, stats, out);
        }
        let max = self.side(from).headers.max_payload();
        let hole = len - bytes.len() as u64;
        let begin = begin.filter(|begin| bytes.len() - begin < max);
        let framing = self.framing;
        let frames = &mut self.side(from).frames;
        // How much of the damaged frame is still to come, and whether readers know.
        let (left, known) = match frames.place {
            FramePosition::Payload(left) => (Some(left), true),
            FramePosition::Header(header, n) => (framing.left(&header[..n]), begin.is_some()),
            FramePosition::Unknown => (None, false),
        };
        let mut inside = left.filter(|_| known).unwrap_or(0).min(hole);
        let least = framing.made_up(0).len() as u64 + 1;
        if (1..least).contains(&(hole - inside)) && hole > least {
            // Enough for a synthetic header; after its beginning nothing else counts.
            inside = hole.saturating_sub(ROOM).max(1);
        }
        let ends = left == Some(hole);
        if ends && inside > ROOM {
            // Another hole may follow.
            inside -= ROOM;
        }
        if inside == 0 {
            self.stretch(from, Stretch::whole(bytes), at, stats, out);
            let border = left.and_then(|left| left.checked_sub(hole));
            return self.hole(from, Stretch { bytes: &[], len: hole, ..stretch }, border, at, stats, out);
        }
        let left = left.unwrap_or(0).saturating_sub(hole);
        frames.place = if left > 0 { FramePosition::Payload(left) } else { BORDER };
        let (before, cut) = bytes.split_at(begin.unwrap_or(bytes.len()));
        self.stretch(from, Stretch::whole(before), at, stats, out);
        stats.missing_bytes = stats.missing_bytes.saturating_add(inside);
        self.label(Label { missing: hole, reason, lost_records }, stats);
        self.packets(from, cut, (cut.len() as u64 + inside, lost_records), at, stats, out);
        if inside < hole {
            let rest = Stretch { bytes: &[], len: hole - inside, reason: "", lost_records: 0 };
            self.hole(from, rest, ends.then_some(0), at, stats, out);
        }
    }

    /// A hole in which frames end; its last bytes wait. Without a reason it is labelled already.
    fn hole(
        &mut self,
        from: Side,
        stretch: Stretch,
        border: Option<u64>,
        at: At,
        stats: &mut Stats,
        out: &mut Out,
    ) {
        if self.tls.is_some() {
            return self.broken_filled(from, stretch, None, at, stats, out);
        }
        let Stretch { len, reason, lost_records, .. } = stretch;
        stats.missing_bytes = stats.missing_bytes.saturating_add(len);
        let frames = &mut self.side(from).frames;
        let (mut room, mut labels, mut known) = (len, Vec::new(), border);
        if let Some(Seeking { room: HeaderSpace::Hole { len: before, labels: others, .. }, border, .. }) =
            frames.seeking.as_deref_mut()
        {
            // Two adjacent holes.
            room = room.saturating_add(*before);
            labels = std::mem::take(others);
            known = border.and_then(|border| border.checked_sub(len));
        } else {
            frames.seek(HeaderSpace::Beginning, None);
        }
        if !reason.is_empty() {
            labels.push(Label { missing: len, reason, lost_records });
        }
        if room > ROOM {
            for label in labels.drain(..) {
                self.label(label, stats);
            }
            if room > HOLE_MAX {
                self.jump(from, SKIP_JUMP - ROOM as u32, lost_records, at, out);
            } else {
                self.packets(from, &[], (room - ROOM, lost_records), at, stats, out);
            }
            room = ROOM;
        }
        if let Some(seeking) = &mut self.side(from).frames.seeking {
            seeking.border = known;
            seeking.room = HeaderSpace::Hole { len: room, at, labels };
        }
    }

    /// A hole of unknown length: its last bytes wait.
    pub(super) fn skipped(
        &mut self,
        from: Side,
        label: Comment,
        lost_records: u64,
        at: At,
        stats: &mut Stats,
        out: &mut Out,
    ) {
        let astray = self.side(from).frames.astray;
        self.close_side(from, stats, out);
        self.note(label, stats);
        let frames = &mut self.side(from).frames;
        // Readers find the jump's end in the frame before it.
        frames.astray = astray || !matches!(frames.place, FramePosition::Header(_, 0));
        frames.seek(HeaderSpace::Hole { len: ROOM, at, labels: Vec::new() }, None);
        self.jump(from, SKIP_JUMP - ROOM as u32, lost_records, at, out);
    }

    /// The next frame begins this many bytes after the hole: writes what waited. `next` follows it.
    fn found(
        &mut self,
        from: Side,
        border: u64,
        (next, at): (&[u8], Option<At>),
        stats: &mut Stats,
        out: &mut Out,
    ) {
        let frames = &mut self.side(from).frames;
        let Some(seeking) = frames.seeking.take() else { return };
        let Seeking { room, header, held, calls, missing, .. } = *seeking;
        // The next frame begins after all small holes.
        frames.place = if border == missing { BORDER } else { FramePosition::Payload(border - missing) };
        let mut framing = self.framing;
        self.side(from).frames.walk(&held, &mut framing);
        self.framing = framing;
        match room {
            HeaderSpace::Beginning if border == 0 => {}
            HeaderSpace::Beginning => {
                if let Some(at) = calls.first().map(|call| call.at).or(at) {
                    let header = self.framing.made_up(border);
                    self.made_up(from, &header, (header.len() as u64, 0), at, stats, out);
                }
            }
            HeaderSpace::Hole { len, at, labels } => {
                let lost_records = labels.iter().map(|label| label.lost_records).sum();
                for label in labels {
                    self.label(label, stats);
                }
                let first = if held.is_empty() { next } else { &held };
                self.room(from, (len, lost_records), border, (header, first), at, stats, out);
            }
        }
        let mut begin = 0;
        for Call { end, at, hole } in calls {
            self.stretch(from, Stretch::whole(&held[begin..end]), at, stats, out);
            begin = end;
            if let Some(label) = hole {
                self.label(label, stats);
                self.packets(from, &[], (label.missing, label.lost_records), at, stats, out);
            }
        }
    }

    /// Writes the last bytes of a hole, with a synthetic header if one is needed.
    #[allow(clippy::too_many_arguments)]
    fn room(
        &mut self,
        from: Side,
        (len, lost_records): (u64, u64),
        border: u64,
        ((header, n), next): (([u8; HEADER_MAX], usize), &[u8]),
        at: At,
        stats: &mut Stats,
        out: &mut Out,
    ) {
        let framing = self.framing;
        let head = framing.made_up(0).len() as u64;
        let astray = std::mem::replace(&mut self.side(from).frames.astray, false);
        // Sequence numbers are reserved only if the frame is longer than the packet.
        let short = u64::from(border == 0);
        let cut = len > head + short;
        if border > 0 && (cut || len == head && n == 0) || astray && cut {
            let payload = len - head + border;
            self.made_up(from, &framing.made_up(payload), (len - short, lost_records), at, stats, out);
            return self.packets(from, &[], (short, 0), at, stats, out);
        }
        self.side(from).frames.astray = astray;
        if border == 0 {
            return self.packets(from, &[], (len, lost_records), at, stats, out);
        }
        let Framing::Http2(_) = framing else {
            if let Some(header) = websocket::small_wrapper(len, border).filter(|_| n == 0) {
                let size = header.len() as u64;
                self.made_up(from, &header, (size, lost_records), at, stats, out);
                return self.packets(from, &[], (len - size, 0), at, stats, out);
            }
            self.side(from).frames.astray = true;
            return self.packets(from, &[], (len, lost_records), at, stats, out);
        };
        // Too small for a header: only the missing part of one, for which there is no choice while the hole has
        // no more than one frame in it.
        let payload = (n as u64 + len + border).saturating_sub(head);
        let mut made_up = h2::wrapper(payload);
        let end = h2::HEADER.min(n + usize::try_from(len).unwrap_or(h2::HEADER));
        let (before, behind) = (n.min(3), end.min(3));
        if !header.starts_with(&made_up[..before]) || !next.starts_with(&made_up[behind..3]) {
            // The next frame was not found. Lengths are small, so zeros are more likely than others.
            made_up[..3].fill(0);
            made_up[..before].copy_from_slice(&header[..before]);
            self.side(from).frames.astray = true;
        }
        let filled = (end - n) as u64;
        self.made_up(from, &made_up[n..end], (filled, lost_records), at, stats, out);
        self.packets(from, &[], (len - filled, 0), at, stats, out);
    }
}
