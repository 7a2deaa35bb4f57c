//! Probes on the instructions with which functions return (`discover/returns.rs`), in place of the kernel's return
//! probes. Those put an address of their own in place of the return address: exceptions, cancelled threads, backtraces,
//! shadow stacks and coroutines are harmed by it.

use std::collections::HashSet;
use std::path::Path;

use libbpf_rs::{Link, UprobeMultiOpts, UprobeOpts};

use super::sites::{Group, Kind, Programs, Role, Site, sites};
use super::skeleton::types::{t2p_cookie_bit, t2p_site, t2p_value};
use super::{Attached, COOKIE_RETURN, Probe, cookie};
use crate::discover::Found;
use crate::discover::returns::{self, Cheap, Unclear, Value};
use crate::event::LibraryId;
use crate::printable;

/// A function whose returns are not known, so that its calls are not followed.
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

/// An instruction that is probed.
pub(super) struct Return {
    site: t2p_site,
    kind: Kind,
    group: Group,
    pub offset: u64,
    /// What the attach cookie says beside site and library.
    bits: u64,
}

impl Probe {
    /// Every probe of a library. Without return probes the functions behind exports are probed only where it is known
    /// how they return.
    pub(super) fn sites_of(&self, found: &Found) -> Vec<Site> {
        let mut all = sites(&found.library, self.programs);
        all.retain(|site| site.group != Group::Internal || self.is_seen_to_return(found, site.offset));
        all
    }

    /// Whether a function that is probed at this offset is seen to return.
    pub(super) fn is_seen_to_return(&self, found: &Found, offset: u64) -> bool {
        !self.without_return_probes || found.library.returns.of(offset).is_ok()
    }

    /// Where one return is probed, and what the cookies there say.
    pub(super) fn probed_at(&self, found: &returns::Return) -> Vec<(u64, u64)> {
        match found {
            // Without a cookie nobody knows what is on the stack there.
            returns::Return::Ret { cheap, .. } if self.has_cookie && !cheap.is_empty() => {
                cheap.iter().map(|jump| (jump.at, COOKIE_RETURN | bits_of(jump))).collect()
            }
            returns::Return::Ret { at, .. } => vec![(*at, COOKIE_RETURN)],
            returns::Return::Behind { at, .. } => vec![(*at, 0)],
        }
    }

    /// Where what is probed of a library returns, and the functions of which that is not known.
    pub(super) fn returns_of(&self, found: &Found) -> (Vec<Return>, Vec<Unfollowed>) {
        let wanted = |site: &Site| {
            let kind = site.kind == Kind::C || self.without_return_probes && site.kind == Kind::Rustls;
            kind && (site.entry.is_none() || self.programs == Programs::Session && !site.alone)
        };
        let mut known = HashSet::new();
        let (mut all, mut unclear) = (Vec::new(), Vec::new());
        for site in self.sites_of(found).into_iter().filter(wanted) {
            let Site { site: number, kind, group, offset, .. } = site;
            match self.returns_from(found, offset) {
                // Functions that end in the same one share its returns.
                Ok(places) => all.extend(places.into_iter().filter_map(|(offset, bits)| {
                    let is_new = known.insert((offset, bits, group, kind));
                    is_new.then_some(Return { site: number, kind, group, offset, bits })
                })),
                Err(why) => unclear.push(unfollowed(found, offset, why)),
            }
        }
        (all, unclear)
    }

    fn returns_from(&self, found: &Found, offset: u64) -> Result<Vec<(u64, u64)>, Unclear> {
        let places = found.library.returns.of(offset)?;
        if self.without_return_probes {
            return Ok(places.iter().flat_map(|place| self.probed_at(place)).collect());
        }
        // Beside return probes, only what is no place for one.
        let ret = |place: &returns::Return| match place {
            returns::Return::Ret { at, .. } => Ok((*at, COOKIE_RETURN)),
            returns::Return::Behind { .. } => Err(Unclear::Jump),
        };
        places.iter().map(ret).collect()
    }

    /// Probes where the functions of these groups return. Returns the functions whose calls are not followed.
    pub(super) fn probe_returns(
        &self,
        attached: &mut Attached,
        is_wanted: impl Fn(Group) -> bool,
    ) -> Result<Vec<Unfollowed>, libbpf_rs::Error> {
        let (returns, unclear) = self.returns_of(&attached.found);
        let path = attached.found.attach_path();
        let mut rest: Vec<Return> = returns.into_iter().filter(|at| is_wanted(at.group)).collect();
        while let Some(first) = rest.first() {
            let (group, kind) = (first.group, first.kind);
            let (run, others) = rest.into_iter().partition(|at| (at.group, at.kind) == (group, kind));
            rest = others;
            let id = self.number_of(attached.id, kind);
            let links = self.attach_returns(attached.pid, &path, &run, id)?;
            attached.links.extend(links.into_iter().map(|link| (group, Role::Instruction, link)));
        }
        Ok(unclear)
    }

    /// Attaches the program for returns to instructions, all of one kind.
    pub(super) fn attach_returns(
        &self,
        pid: i32,
        path: &Path,
        returns: &[Return],
        id: LibraryId,
    ) -> Result<Vec<Link>, libbpf_rs::Error> {
        let cookie_of = |at: &Return| cookie(at.site, id) | at.bits;
        let Some(first) = returns.first() else { return Ok(Vec::new()) };
        let site = |at: &Return| Site::at_return(at.site, at.offset, at.kind, at.group);
        if self.programs.in_bulk() {
            let options = UprobeMultiOpts {
                offsets: returns.iter().map(|at| at.offset as usize).collect(),
                cookies: returns.iter().map(cookie_of).collect(),
                session: self.programs == Programs::Session,
                ..UprobeMultiOpts::default()
            };
            let program = self.program(self.programs.name(&site(first)))?;
            return Ok(vec![program.attach_uprobe_multi_with_opts(pid, path, "", options)?]);
        }
        let attach = |at: &Return| {
            let cookie = if self.has_cookie { cookie_of(at) } else { 0 };
            let options = UprobeOpts { cookie, ..UprobeOpts::default() };
            let program = self.program(self.programs.name(&site(at)))?;
            program.attach_uprobe_with_opts(pid, path, at.offset as usize, options)
        };
        returns.iter().map(attach).collect()
    }
}

/// What a cookie says of a jump that leads to a return.
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

fn unfollowed(found: &Found, offset: u64, why: Unclear) -> Unfollowed {
    let library = &found.library;
    let named = library.offsets.places().find(|(_, place)| place.offset == offset);
    let rustls = library.rustls.iter().flat_map(|rustls| &rustls.places).find(|place| place.entry == offset);
    Unfollowed {
        function: match (named, rustls) {
            (Some((function, _)), _) => function.symbol().to_owned(),
            (_, Some(place)) => place.name.clone(),
            _ => "the function behind SSL_read or SSL_write".to_owned(),
        },
        path: printable::path(&found.path),
        why,
        moves_data: named.is_none_or(|(function, _)| function.moves_data()),
    }
}
