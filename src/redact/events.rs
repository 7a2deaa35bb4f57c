//! Server-sent events (WHATWG HTML, section 9.2): lines, whose data is often JSON.

use super::engine::Engine;
use super::json::Json;
use super::kind::Kind;
use super::text::{self, Sort};

/// Longest line that is waited for.
const LINE_MAX: usize = 256 << 10;

/// Lines that come in pieces.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// Within a line that is too long.
    is_long: bool,
}

impl Events {
    /// Works on what is there. Gives how many bytes are decided.
    pub(super) fn step(&mut self, engine: &mut Engine, bytes: &mut [u8], last: bool) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let end = memchr::memchr(b'\n', &bytes[at..]).map(|i| at + i + 1);
            let stop = match end {
                Some(end) => end,
                None if last || self.is_long || bytes.len() - at > LINE_MAX => bytes.len(),
                None => break,
            };
            if self.is_long || (end.is_none() && !last) {
                engine.fill_text(bytes, at..stop, Kind::Held);
            } else {
                let line = &mut bytes[at..stop];
                engine.within(at, |engine| self::line(engine, line));
            }
            self.is_long = end.is_none() && !last;
            at = stop;
        }
        at
    }
}

fn line(engine: &mut Engine, line: &mut [u8]) {
    let value = line.iter().position(|b| *b == b':').map_or(0, |at| at + 1);
    let value = value + line[value..].iter().take_while(|b| **b == b' ').count();
    if matches!(line.get(value), Some(b'{' | b'[')) {
        let rest = &mut line[value..];
        engine.within(value, |engine| Json::default().step(engine, rest, true));
    } else if engine.is_shape() {
        engine.fill_text(line, value..line.len(), Kind::Value);
    } else {
        text::scan(engine, line, Sort::Plain);
    }
}
