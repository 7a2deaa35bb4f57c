//! What can be probed of a library with the programs that this kernel accepts. `parts.rs` says which of it is
//! probed where.

use std::collections::{BTreeMap, HashSet};

use super::parts::What;
use super::returns::{self, Unfollowed};
use super::sites::{Kind, Programs, Site, sites};
use super::{COOKIE_ENTRY_ONLY, cookie};
use crate::discover::Found;
use crate::discover::returns::{Return, Unclear};
use crate::event::LibraryId;

/// The number of all libraries while programs cannot tell them apart.
const ANY_LIBRARY: LibraryId = 0;

/// How this kernel probes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub programs: Programs,
    /// The kernel tells a program which library it was attached to (Linux 5.15).
    pub has_cookie: bool,
    /// There never are return probes.
    pub without_return_probes: bool,
}

impl Way {
    /// The number by which programs know a library.
    pub(super) fn number(self, id: LibraryId) -> LibraryId {
        if self.has_cookie { id } else { ANY_LIBRARY }
    }

    /// Whether a function of a library that is probed at this offset is seen to return.
    pub(super) fn is_seen_to_return(self, found: &Found, offset: u64) -> bool {
        !self.without_return_probes || found.library.returns.of(offset).is_ok()
    }
}

/// One probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub program: &'static str,
    /// File offset.
    pub offset: u64,
    /// What the program is told when it is hit; 0 if the kernel cannot tell it.
    pub cookie: u64,
}

/// A library, and what can be probed of it.
pub(super) struct Blueprint {
    pub id: LibraryId,
    pub found: Found,
    parts: BTreeMap<What, Vec<Spot>>,
    /// Functions that are not seen to return without return probes.
    pub unfollowed: Vec<Unfollowed>,
}

impl Blueprint {
    /// `beside`: the number of rustls in the same file, if that is another library.
    pub(super) fn new(found: &Found, id: LibraryId, beside: Option<LibraryId>, way: Way) -> Blueprint {
        let mut blueprint =
            Blueprint { id, found: found.clone(), parts: BTreeMap::new(), unfollowed: Vec::new() };
        let number = |kind| way.number(beside.filter(|_| kind == Kind::Rustls).unwrap_or(id));
        let of_session = way.programs == Programs::Session;
        let all: Vec<Site> = sites(&found.library, way.programs)
            .into_iter()
            .filter(|site| !site.is_behind() || way.is_seen_to_return(found, site.offset))
            .collect();
        for site in &all {
            let only_entry = if site.alone && of_session { COOKIE_ENTRY_ONLY } else { 0 };
            blueprint.add(
                way,
                way.programs.what(site),
                site,
                cookie(site.site, number(site.kind)) | only_entry,
            );
        }
        let returns = |site: &&Site| {
            let kind = site.kind == Kind::C || way.without_return_probes && site.kind == Kind::Rustls;
            kind && (site.entry.is_none() || of_session && !site.alone)
        };
        let mut known = HashSet::new();
        for site in all.iter().filter(returns) {
            let places = match returns_from(found, site.offset, way) {
                Ok(places) => places,
                Err(why) => {
                    blueprint.unfollowed.push(returns::unfollowed(found, site.offset, why));
                    continue;
                }
            };
            for (offset, bits) in places {
                // Functions that end in the same one share its returns.
                if known.insert((offset, bits, site.group, site.kind)) {
                    let at = Site::at_return(site.site, offset, site.kind, site.group);
                    let what = What::Returns(site.group, site.kind);
                    blueprint.add(way, what, &at, cookie(site.site, number(site.kind)) | bits);
                }
            }
        }
        blueprint
    }

    fn add(&mut self, way: Way, what: What, site: &Site, cookie: u64) {
        let program = way.programs.name(site);
        let cookie = if way.has_cookie { cookie } else { 0 };
        self.parts.entry(what).or_default().push(Spot { program, offset: site.offset, cookie });
    }

    /// What there is to probe.
    pub(super) fn parts(&self) -> impl Iterator<Item = What> + '_ {
        self.parts.keys().copied()
    }

    /// The probes of a part.
    pub(super) fn spots(&self, what: What) -> &[Spot] {
        self.parts.get(&what).map_or(&[], Vec::as_slice)
    }
}

/// Where the function at this offset returns, and what the cookies there say.
fn returns_from(found: &Found, offset: u64, way: Way) -> Result<Vec<(u64, u64)>, Unclear> {
    let places = found.library.returns.of(offset)?;
    if way.without_return_probes {
        return Ok(places.iter().flat_map(|place| returns::probed_at(place, way.has_cookie)).collect());
    }
    // Beside return probes, only what is no place for one.
    let ret = |place: &Return| match place {
        Return::Ret { at, .. } => Ok((*at, super::COOKIE_RETURN)),
        Return::Behind { .. } => Err(Unclear::Jump),
    };
    places.iter().map(ret).collect()
}
