//! Probes on the instructions with which functions return (`discover/returns.rs`), instead of the kernel's
//! return probes. Those replace the return address, which harms exceptions, thread cancellation, backtraces,
//! shadow stacks and coroutines.

use super::COOKIE_RETURN;
use super::skeleton::types::{t2p_cookie_bit, t2p_value};
use crate::discover::Found;
use crate::discover::returns::{Cheap, Return, Unclear, Value};
use crate::printable;

/// A function whose returns are unknown, so that its calls are not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfollowed {
    /// Its name.
    pub function: String,
    /// Its library's path, for people to read.
    pub path: String,
    /// Why.
    pub why: Unclear,
    /// It moves data, which is not captured.
    pub moves_data: bool,
}

/// Where one return is probed, and what the cookies there say.
pub(super) fn probed_at(found: &Return, has_cookie: bool) -> Vec<(u64, u64)> {
    match found {
        // Without a cookie the layout of the stack there is unknown.
        Return::Ret { cheap, .. } if has_cookie && !cheap.is_empty() => {
            cheap.iter().map(|jump| (jump.at, COOKIE_RETURN | bits_of(jump))).collect()
        }
        Return::Ret { at, .. } => vec![(*at, COOKIE_RETURN)],
        Return::Behind { at, .. } => vec![(*at, 0)],
    }
}

/// What a cookie says about a jump that leads to a return.
fn bits_of(jump: &Cheap) -> u64 {
    use t2p_cookie_bit as bit;
    /// Where struct pt_regs has the registers, by the numbers that machine code gives them.
    const PLACES: [u8; 16] = [10, 11, 12, 5, 15, 4, 13, 14, 9, 8, 7, 6, 3, 2, 1, 0];
    let place = |register: u8| PLACES[usize::from(register) % PLACES.len()];
    let (kind, number) = match jump.value {
        Value::Ready => (t2p_value::T2P_VALUE_READY, 0),
        Value::Whole(register) => (t2p_value::T2P_VALUE_WHOLE, place(register)),
        Value::Signed(register) => (t2p_value::T2P_VALUE_SIGNED, place(register)),
        Value::Unsigned(register) => (t2p_value::T2P_VALUE_UNSIGNED, place(register)),
        Value::Constant(constant) => (t2p_value::T2P_VALUE_CONSTANT, constant as u8 & 0xf),
        Value::Half(constant) => (t2p_value::T2P_VALUE_HALF, constant as u8 & 0xf),
    };
    let condition = jump.when.map_or(0, |number| {
        u64::from(number) << bit::T2P_COOKIE_CONDITION.0 | 1 << bit::T2P_COOKIE_CONDITIONAL.0
    });
    u64::from(jump.depth) << bit::T2P_COOKIE_DEPTH.0
        | u64::from(number) << bit::T2P_COOKIE_REGISTER.0
        | u64::from(kind.0) << bit::T2P_COOKIE_VALUE.0
        | condition
}

pub(super) fn unfollowed(found: &Found, offset: u64, why: Unclear) -> Unfollowed {
    let library = &found.library;
    let named = library.offsets.places().find(|(_, place)| place.offset == offset);
    let rustls = library.rustls.iter().flat_map(|rustls| &rustls.places).find(|place| place.entry == offset);
    Unfollowed {
        function: match (named, rustls) {
            (Some((function, _)), _) => function.symbol().to_owned(),
            (_, Some(place)) => place.name.clone(),
            _ => "the internal function of SSL_read or SSL_write".to_owned(),
        },
        path: printable::path(&found.path),
        why,
        moves_data: named.is_none_or(|(function, _)| function.moves_data()),
    }
}
