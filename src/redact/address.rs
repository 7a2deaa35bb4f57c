//! Pseudonyms of addresses, keyed and prefix-preserving, as Crypto-PAn makes them (Xu, Fan, Ammar and Moon, "Prefix-Preserving
//! IP Address Anonymization", ICNP 2002): each part is replaced by a permutation that a keyed pseudo-random function of all
//! parts before it chooses. So the same address has the same pseudonym, different ones have different ones, and what two
//! addresses have in common at the beginning, their pseudonyms have too.
//!
//! Crypto-PAn's parts are bits. A pseudonym must fit where the address was written, in decimal, in hexadecimal and in HPACK's
//! Huffman code, so here the parts are the numbers between the dots of IPv4 and the hexadecimal digits of IPv6, and each
//! permutation leaves their lengths as they are: in `0.0.0.0`, digits, and in Huffman code, where 0, 1, 2, a, c and e have
//! five bits and all other digits six (RFC 7541, Appendix B).
//!
//! What an address means stays: loopback, multicast and broadcast as they are, private and link-local ones in their ranges, the
//! first 16 bits of IPv6.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use foldhash::fast::RandomState;

use super::cloak::Random;
use super::rules::Key;

/// Pseudonyms that are remembered, since packets of a connection have all the same. At the bound all are forgotten.
const KNOWN_MAX: usize = 65_536;

/// Makes pseudonyms.
pub struct Addresses {
    key: Key,
    /// IPv4 addresses as those of IPv6 that stand for them.
    known: RefCell<HashMap<[u8; 16], [u8; 16], RandomState>>,
}

/// Keeps the draws for the two families, and those for values, apart.
const FOUR: u8 = 4;
const SIX: u8 = 6;
const MAC: u8 = 48;

impl Addresses {
    pub(super) fn new(key: Key) -> Addresses {
        Addresses { key, known: RefCell::default() }
    }

    /// The pseudonym of an IPv4 address.
    pub fn v4(&self, address: [u8; 4]) -> [u8; 4] {
        let known = self.known(Ipv4Addr::from(address).to_ipv6_mapped().octets(), || {
            Ipv4Addr::from(self.fresh_v4(address)).to_ipv6_mapped().octets()
        });
        *known.last_chunk().unwrap_or(&address)
    }

    fn known(&self, address: [u8; 16], fresh: impl FnOnce() -> [u8; 16]) -> [u8; 16] {
        if let Some(known) = self.known.borrow().get(&address) {
            return *known;
        }
        let new = fresh();
        let mut known = self.known.borrow_mut();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(address, new);
        new
    }

    fn fresh_v4(&self, address: [u8; 4]) -> [u8; 4] {
        let mut out = address;
        for at in 0..4 {
            let (before, own) = (&address[..at], address[at]);
            let region = region(before, own);
            let length = length(own);
            let is_like =
                |other: &u8| region == self::region(before, *other) && length == self::length(*other);
            let set: Vec<u8> = (0..=255).filter(is_like).collect();
            out[at] = self.drawn(&set, own, &[&[FOUR], before].concat());
        }
        out
    }

    /// The pseudonym of an IPv6 address.
    pub fn v6(&self, address: [u8; 16]) -> [u8; 16] {
        self.known(address, || self.fresh_v6(address))
    }

    fn fresh_v6(&self, address: [u8; 16]) -> [u8; 16] {
        let own = Ipv6Addr::from(address);
        if own.is_multicast() || own.is_loopback() || own.is_unspecified() {
            return address;
        }
        if let Some(four) = own.to_ipv4_mapped() {
            let four = Ipv4Addr::from(self.fresh_v4(four.octets()));
            return four.to_ipv6_mapped().octets();
        }
        let digits: Vec<u8> = address.iter().flat_map(|byte| [byte >> 4, byte & 15]).collect();
        let mut new = digits.clone();
        for group in 1 + special(own)..8 {
            // As often as makes another range of it: so that is still a permutation of all groups that are of none.
            let mut before = digits.clone();
            loop {
                self.group(&before, &mut new, group);
                if group > 1 || special(Ipv6Addr::from(joined::<16>(&new))) == 0 {
                    break;
                }
                before[4..8].copy_from_slice(&new[4..8]);
            }
        }
        // What marks that an interface made its address of its hardware's (RFC 4291, Appendix A).
        if digits[22..26] == [15, 15, 15, 14] {
            new[22..26].copy_from_slice(&digits[22..26]);
        }
        joined(&new)
    }

    /// The pseudonym of a hardware address: of the same manufacturer.
    pub fn mac(&self, address: [u8; 6]) -> [u8; 6] {
        if address[0] & 1 == 1 || address == [0; 6] {
            return address;
        }
        let digits: Vec<u8> = address.iter().flat_map(|byte| [byte >> 4, byte & 15]).collect();
        let mut new = digits.clone();
        for (at, digit) in new.iter_mut().enumerate().skip(6) {
            *digit = self.digit(&digits, at, false, MAC);
        }
        joined(&new)
    }

    /// Works on the four digits of a group.
    fn group(&self, digits: &[u8], new: &mut [u8], group: usize) {
        let mut leads = true;
        for at in group * 4..group * 4 + 4 {
            // Zeros in front are not written.
            if leads && digits[at] == 0 {
                new[at] = 0;
                continue;
            }
            new[at] = self.digit(digits, at, leads, SIX);
            leads = false;
        }
    }

    fn digit(&self, digits: &[u8], at: usize, leads: bool, family: u8) -> u8 {
        let is_like = |other: &u8| is_light(*other) == is_light(digits[at]) && !(leads && *other == 0);
        let set: Vec<u8> = (0..16).filter(is_like).collect();
        self.drawn(&set, digits[at], &[&[family], &digits[..at]].concat())
    }

    /// What a permutation of the set, drawn by what is before, makes of one of its members.
    fn drawn(&self, set: &[u8], own: u8, before: &[u8]) -> u8 {
        let Some(place) = set.iter().position(|member| *member == own) else { return own };
        let mut permuted = set.to_vec();
        // Sets of the same place differ in their members, so they need draws of their own.
        let mut random =
            Random::new(&self.key, &[&b"address"[..], &[set[0], set.len() as u8], before].concat());
        for i in (1..permuted.len()).rev() {
            let j = (random.next() % (i as u64 + 1)) as usize;
            permuted.swap(i, j);
        }
        permuted[place]
    }
}

fn joined<const N: usize>(digits: &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    bytes
}

/// Whether a digit has five bits in Huffman code.
fn is_light(digit: u8) -> bool {
    matches!(digit, 0..=2 | 10 | 12 | 14)
}

/// How many digits a number has, and how many bits they have in Huffman code.
fn length(number: u8) -> (usize, usize) {
    let digits = [number / 100, number / 10 % 10, number % 10];
    let len = digits.iter().skip_while(|digit| **digit == 0).count().max(1);
    (len, digits.iter().filter(|digit| **digit > 2).count())
}

/// How many groups behind the first stay, since they say what an address is for (IANA IPv6 Special-Purpose Address Registry).
/// That of IETF protocols has 23 bits, so it has two groups; the others that are not told by their first group and zeros have one.
fn special(address: Ipv6Addr) -> usize {
    match address.segments() {
        [0x2001, ..0x200, ..] => 2,
        [0x2001, 0xdb8, ..] | [0x64, 0xff9b, ..] => 1,
        [0x2620, 0x4f, 0x8000, ..] => 2,
        _ => 0,
    }
}

/// A number is only replaced by one of the same region, so that an address stays what it is: private, link-local, and so on (RFC
/// 6890). One that is alone in its region stays.
fn region(before: &[u8], number: u8) -> u16 {
    let own = 1 + u16::from(number);
    match *before {
        [] if matches!(number, 0 | 10 | 100 | 127 | 169 | 172 | 192 | 224..) => own,
        [0 | 127 | 224.., ..] => own,
        [100] if (64..128).contains(&number) => 300,
        [169] if number == 254 => own,
        [172] if (16..32).contains(&number) => 300,
        [192] if number == 168 => own,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::huffman;

    fn addresses() -> Addresses {
        Addresses::new(Key([7; 16]))
    }

    fn four(address: &str) -> Ipv4Addr {
        addresses().v4(address.parse::<Ipv4Addr>().unwrap().octets()).into()
    }

    fn six(address: &str) -> Ipv6Addr {
        addresses().v6(address.parse::<Ipv6Addr>().unwrap().octets()).into()
    }

    #[test]
    fn a_pseudonym_is_written_as_long_as_its_address() {
        let all = (0..20_000u32).map(|i| Ipv4Addr::from(i.wrapping_mul(0x9e37_79b9)).to_string());
        for text in all.chain(["8.8.8.8", "10.0.0.5", "192.168.1.77", "172.20.0.3"].map(str::to_owned)) {
            let new = four(&text).to_string();
            assert_eq!(
                (new.len(), huffman::len(new.as_bytes())),
                (text.len(), huffman::len(text.as_bytes()))
            );
        }
        for text in [
            "2001:db8::1",
            "2a00:1450:4001:82b::200e",
            "fe80::1ff:fe23:4567:890a",
            "fd12:3456:789a:1::5",
            "::ffff:10.0.0.5",
            "2001:db8:0:10:20:300:4000:a",
        ] {
            let new = six(text).to_string();
            assert_eq!(
                (new.len(), huffman::len(new.as_bytes())),
                (text.len(), huffman::len(text.as_bytes()))
            );
            assert_ne!(new, text);
        }
    }

    #[test]
    fn different_addresses_have_different_pseudonyms_and_common_prefixes_stay_common() {
        for before in [[10, 1, 2], [93, 184, 216], [192, 168, 0]] {
            let all: std::collections::HashSet<[u8; 4]> =
                (0..=255).map(|last| addresses().v4([before[0], before[1], before[2], last])).collect();
            assert_eq!(all.len(), 256);
            assert!(all.iter().all(|new| new[..3] == all.iter().next().unwrap()[..3]));
        }
        let (a, b) = (six("2a00:db8:77::12:1").octets(), six("2a00:db8:77::12:2").octets());
        assert_eq!(a[..15], b[..15]);
        assert_ne!(a, b);
        let other = Addresses::new(Key([8; 16]));
        assert_ne!(other.v4([93, 184, 216, 34]), addresses().v4([93, 184, 216, 34]), "another key");
    }

    #[test]
    fn what_an_address_means_stays() {
        for same in ["127.0.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.251", "239.1.2.3"] {
            assert_eq!(four(same).to_string(), same);
        }
        for same in ["::1", "::", "ff02::1"] {
            assert_eq!(six(same).to_string(), same);
        }
        for last in 0..=255u8 {
            for (at, is) in [
                ("10.0.0.", Ipv4Addr::is_private as fn(&Ipv4Addr) -> bool),
                ("172.16.9.", Ipv4Addr::is_private),
                ("172.31.9.", Ipv4Addr::is_private),
                ("192.168.3.", Ipv4Addr::is_private),
                ("169.254.3.", Ipv4Addr::is_link_local),
            ] {
                assert!(is(&four(&format!("{at}{last}"))));
            }
            let public = four(&format!("{last}.77.5.9"));
            let was = Ipv4Addr::new(last, 77, 5, 9);
            assert_eq!(public.is_private() || public.is_multicast(), was.is_private() || was.is_multicast());
        }
        for (text, stays) in [("2001:db8:77::5", 2), ("2001:2:34::5", 3), ("64:ff9b::a00:5", 2)] {
            let (old, new) = (text.parse::<Ipv6Addr>().unwrap().segments(), six(text).segments());
            assert!(old[..stays] == new[..stays] && old != new, "{text}");
        }
        let groups: std::collections::HashSet<u16> = (0x200..=0xffff)
            .filter(|g| *g != 0xdb8)
            .map(|g| six(&format!("2001:{g:x}::")).segments()[1])
            .collect();
        assert_eq!(groups.len(), 0x1_0000 - 0x201);
        assert!(!groups.contains(&0xdb8) && groups.iter().all(|group| *group >= 0x200));
        assert_eq!(six("fe80::1ff:fe23:4567:890a").segments()[0], 0xfe80);
        assert_eq!(addresses().mac([255; 6]), [255; 6]);
        assert_eq!(addresses().mac([2, 66, 172, 17, 0, 2])[..3], [2, 66, 172]);
        assert_ne!(addresses().mac([2, 66, 172, 17, 0, 2]), [2, 66, 172, 17, 0, 2]);
    }
}
