//! Addresses in the headers of packets: each gets its pseudonym, and sums over them stay as right as they were.

use crate::input::layers::{adjust, be16, partial};
use crate::redact::Addresses;

/// What stands somewhere in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Four,
    Six,
    Hardware,
}

/// Headers of IPv6 that are stepped over, one after the other.
const HEADERS_MAX: usize = 16;

/// Replaces all addresses. Gives whether one changed.
pub(super) fn replace(addresses: &Addresses, link: u32, data: &mut [u8]) -> bool {
    let mut places = Places { addresses, data, changed: false };
    places.link(link);
    places.changed
}

/// What the words of an address count in a sum that has them so far from its beginning: between two words, 256 times as much,
/// since 65,536 counts as 1.
fn weight(at: usize) -> i64 {
    if at.is_multiple_of(2) { 1 } else { 256 }
}

struct Places<'a> {
    addresses: &'a Addresses,
    data: &'a mut [u8],
    changed: bool,
}

impl Places<'_> {
    fn byte(&self, at: usize) -> Option<usize> {
        self.data.get(at).map(|byte| usize::from(*byte))
    }

    /// Replaces one. Gives by what the sum of its words has grown.
    fn put(&mut self, what: What, at: usize) -> Option<i64> {
        let own = self.addresses;
        let mut place = |len: usize, new: &dyn Fn(&[u8]) -> Vec<u8>| {
            let old = self.data.get_mut(at..at + len)?;
            let new = new(old);
            let sum =
                |bytes: &[u8]| bytes.chunks(2).map(|w| i64::from(w[0]) << 8 | i64::from(w[1])).sum::<i64>();
            let delta = sum(&new) - sum(old);
            self.changed |= new != old;
            old.copy_from_slice(&new);
            Some(delta)
        };
        match what {
            What::Four => place(4, &|old| own.v4(*old.first_chunk().unwrap_or(&[0; 4])).to_vec()),
            What::Six => place(16, &|old| own.v6(*old.first_chunk().unwrap_or(&[0; 16])).to_vec()),
            What::Hardware => place(6, &|old| own.mac(*old.first_chunk().unwrap_or(&[0; 6])).to_vec()),
        }
    }

    /// Grows a sum that is there, by what its words have grown.
    fn grow(&mut self, at: usize, delta: i64, is_udp: bool) {
        if let Some(own) = be16(self.data, at) {
            self.data[at..at + 2].copy_from_slice(&adjust(own, delta, is_udp).to_be_bytes());
        }
    }

    fn link(&mut self, link: u32) -> Option<()> {
        match link {
            1 => {
                self.put(What::Hardware, 0);
                self.put(What::Hardware, 6);
                let mut at = 12;
                while matches!(be16(self.data, at)?, 0x8100 | 0x88a8 | 0x9100) && at < 32 {
                    at += 4;
                }
                self.network(be16(self.data, at)?, at + 2)
            }
            113 => {
                if be16(self.data, 4) == Some(6) {
                    self.put(What::Hardware, 6);
                }
                self.network(be16(self.data, 14)?, 16)
            }
            276 => {
                if self.byte(11) == Some(6) {
                    self.put(What::Hardware, 12);
                }
                self.network(be16(self.data, 0)?, 20)
            }
            12 | 14 | 101 | 228 | 229 => self.ip(0),
            0 | 108 => self.ip(4),
            _ => None,
        }
    }

    fn network(&mut self, kind: u16, at: usize) -> Option<()> {
        match kind {
            0x0800 | 0x86dd => self.ip(at),
            0x8864 if matches!(be16(self.data, at + 6), Some(0x21 | 0x57)) => self.ip(at + 8),
            // ARP for IPv4 over Ethernet: both addresses of the sender, then of the target.
            0x0806 if self.data.get(at..at + 6)? == [0, 1, 8, 0, 6, 4] => {
                for (what, at) in [
                    (What::Hardware, at + 8),
                    (What::Four, at + 14),
                    (What::Hardware, at + 18),
                    (What::Four, at + 24),
                ] {
                    self.put(what, at);
                }
                Some(())
            }
            _ => None,
        }
    }

    fn ip(&mut self, at: usize) -> Option<()> {
        match self.byte(at)? >> 4 {
            4 => self.ip4(at),
            6 => self.ip6(at),
            _ => None,
        }
    }

    fn ip4(&mut self, at: usize) -> Option<()> {
        let header = (self.byte(at)? & 15) * 4;
        let ends: [u8; 8] = *self.data.get(at + 12..)?.first_chunk()?;
        let mut delta = self.put(What::Four, at + 12)? + self.put(What::Four, at + 16)?;
        let pseudo = delta;
        // Options that record or name routes (RFC 791, section 3.1).
        let mut option = at + 20;
        while option < at + header {
            let len = match self.byte(option)? {
                0 => break,
                1 => 1,
                kind => {
                    let len = self.byte(option + 1)?.max(2);
                    let begin = option + 3;
                    let weight = weight(begin - at);
                    for address in (begin..(option + len).min(at + header).saturating_sub(3)).step_by(4) {
                        if matches!(kind, 7 | 131 | 137) {
                            delta += self.put(What::Four, address)? * weight;
                        }
                    }
                    len
                }
            };
            option += len;
        }
        self.grow(at + 10, delta, false);
        let fragment = be16(self.data, at + 6)?;
        let protocol = self.data[at + 9];
        let total = usize::from(be16(self.data, at + 2)?);
        let end = if total == 0 { self.data.len() } else { at + total };
        let mut both = [[0; 16]; 2];
        both[0][..4].copy_from_slice(&ends[..4]);
        both[1][..4].copy_from_slice(&ends[4..]);
        if fragment & 0x3fff == 0 && matches!(protocol, 6 | 17) {
            self.transport(protocol, at + header, end, pseudo, both);
        }
        Some(())
    }

    fn ip6(&mut self, at: usize) -> Option<()> {
        let ends: [u8; 32] = *self.data.get(at + 8..)?.first_chunk()?;
        let mut pseudo = self.put(What::Six, at + 8)? + self.put(What::Six, at + 24)?;
        let both = [*ends.first_chunk()?, *ends.last_chunk()?];
        let total = usize::from(be16(self.data, at + 4)?);
        let end = if total == 0 { self.data.len() } else { at + 40 + total };
        let (mut protocol, mut next) = (self.byte(at + 6)?, at + 40);
        for _ in 0..HEADERS_MAX {
            match protocol {
                0 | 43 | 60 => {
                    let len = (self.byte(next + 1)? + 1) * 8;
                    if protocol == 43 {
                        // The last address of a route is what sums count as the destination while others are to come.
                        let is_on_its_way = self.byte(next + 3)? > 0;
                        for address in (next + 8..(next + len).saturating_sub(15)).step_by(16) {
                            let delta = self.put(What::Six, address)?;
                            if is_on_its_way {
                                pseudo += delta;
                            }
                        }
                    }
                    protocol = self.byte(next)?;
                    next += len;
                }
                44 if be16(self.data, next + 2)? & 0xfff9 != 0 => return None,
                44 => {
                    protocol = self.byte(next)?;
                    next += 8;
                }
                6 | 17 => {
                    self.transport(protocol as u8, next, end, pseudo, both);
                    return Some(());
                }
                58 => {
                    let inner = self.neighbours(next, end);
                    self.grow(next + 2, pseudo + inner, false);
                    return Some(());
                }
                _ => return None,
            }
        }
        None
    }

    /// Neighbour discovery (RFC 4861): the target, and options with addresses.
    fn neighbours(&mut self, at: usize, end: usize) -> i64 {
        let end = end.min(self.data.len());
        let kind = self.byte(at).unwrap_or(0);
        let targets: usize = match kind {
            133 => 0,
            134 => 0,
            135 | 136 => 1,
            137 => 2,
            _ => return 0,
        };
        let mut delta = 0;
        for i in 0..targets {
            delta += self.put(What::Six, at + 8 + 16 * i).unwrap_or(0);
        }
        let mut option = at + if kind == 134 { 16 } else { 8 + 16 * targets };
        while option + 8 <= end {
            let len = self.data[option + 1] as usize * 8;
            if len == 0 || option + len > end {
                break;
            }
            delta += match self.data[option] {
                1 | 2 if len == 8 => self.put(What::Hardware, option + 2),
                // A prefix; servers of names (RFC 8106).
                3 if len == 32 => self.put(What::Six, option + 16),
                25 => (option + 8..option + len).step_by(16).map(|at| self.put(What::Six, at)).sum(),
                _ => None,
            }
            .unwrap_or(0);
            option += len;
        }
        delta
    }

    fn transport(
        &mut self,
        protocol: u8,
        at: usize,
        end: usize,
        mut delta: i64,
        ends: [[u8; 16]; 2],
    ) -> Option<()> {
        let sum = at + if protocol == 6 { 16 } else { 6 };
        let own = be16(self.data, sum)?;
        // What a network card was to complete is the sum of the addresses, and not its complement.
        let is_partial =
            [end.saturating_sub(at), 0].iter().any(|len| own == partial(&ends[0], &ends[1], protocol, *len));
        if is_partial {
            self.data[sum..sum + 2].copy_from_slice(&(!adjust(!own, delta, false)).to_be_bytes());
            return Some(());
        }
        if protocol == 6 {
            delta += self.added_addresses(at).unwrap_or(0);
        }
        self.grow(sum, delta, protocol == 17);
        Some(())
    }

    /// ADD_ADDR of Multipath TCP (RFC 8684, section 3.4.1).
    fn added_addresses(&mut self, at: usize) -> Option<i64> {
        let end = at + (self.byte(at + 12)? >> 4) * 4;
        let (mut option, mut delta) = (at + 20, 0);
        while option < end {
            let len = match self.byte(option)? {
                0 => break,
                1 => 1,
                30 if self.byte(option + 2)? >> 4 == 3 => {
                    let len = self.byte(option + 1)?.max(2);
                    let what = if len >= 20 { What::Six } else { What::Four };
                    delta += self.put(what, option + 4)? * weight(option + 4 - at);
                    len
                }
                _ => self.byte(option + 1)?.max(2),
            };
            option += len;
        }
        Some(delta)
    }
}
