//! Attaches and detaches probes until they are those that there should be (`parts.rs`), by difference.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};

use libbpf_rs::Link;

use super::Probe;
use super::parts::{Holder, Part, What, Where, Why};
use super::proving::News;
use crate::discover::FileId;
use crate::discover::process::is_gone;
use crate::printable;

/// The probes that there are.
pub(super) type Attached = BTreeMap<Part, Probes>;

/// Those of a part.
pub(super) struct Probes {
    pub file: FileId,
    path: PathBuf,
    pub offsets: Vec<u64>,
    links: Vec<Link>,
}

/// Probes that are being removed, and the files that they are in.
pub(super) struct Going {
    pub files: Vec<FileId>,
    pub thread: JoinHandle<()>,
}

/// When code that removes probes continues, because the kernel takes its time to remove them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    /// When they are removed. New ones are attached before.
    Awaited,
    /// At once.
    Unwatched,
}

/// Parts that should be probed and cannot be, and why.
pub(super) struct Failures(Vec<(Part, libbpf_rs::Error)>);

impl Failures {
    /// Whether something of the same library cannot be probed for the same holder.
    fn has_one_beside(&self, part: &Part) -> bool {
        self.0.iter().any(|(failed, _)| (failed.place, failed.holder) == (part.place, part.holder))
    }

    /// # Errors
    /// The first of these parts, if any.
    pub(super) fn of(self, is_it: impl Fn(&Part) -> bool) -> Result<(), libbpf_rs::Error> {
        self.0.into_iter().find(|(part, _)| is_it(part)).map_or(Ok(()), |(_, error)| Err(error))
    }
}

impl Probe {
    /// Attaches the probes that should be and are not, and takes those away that should not be. To be called after
    /// each change of the state. Forgets processes that have ended or become another program.
    pub(super) fn bring_about(&mut self, leaving: Leaving) -> Failures {
        self.bring_about_in(None, leaving)
    }

    /// The same, for the probes of one process only, or those that all have (-1).
    pub(super) fn bring_about_in(&mut self, pid: Option<i32>, leaving: Leaving) -> Failures {
        let is_its = |part: &Part| pid.is_none_or(|pid| part.holder.pid == pid);
        let mut failures = Failures(Vec::new());
        let mut news = Changes::default();
        let mut wanted = self.desired.wanted(pid);
        let left: BTreeSet<Holder> = (wanted.keys().filter(|part| !self.attached.contains_key(part)))
            .map(|part| part.holder)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .filter(|holder| self.has_left(*holder))
            .collect();
        if !left.is_empty() {
            self.forget_holders(&left);
            wanted = self.desired.wanted(pid);
        }
        if leaving == Leaving::Unwatched {
            // A process that has become another program soon has one set of probes again.
            self.take_surplus(|part| is_its(part) && !wanted.contains_key(part), leaving, &mut news);
        }
        let missing = wanted.iter().filter(|(part, _)| !self.attached.contains_key(part));
        let mut gone = BTreeSet::new();
        for (part, why) in missing.map(|(part, why)| (*part, *why)).collect::<Vec<_>>() {
            // Without returns, entries would report calls that never end.
            if gone.contains(&part.holder) || failures.has_one_beside(&part) {
                continue;
            }
            match self.attach_part(&part) {
                Ok(probes) => {
                    news.add(&part, &probes, Some(why));
                    self.attached.insert(part, probes);
                }
                Err(_) if self.has_left(part.holder) => drop(gone.insert(part.holder)),
                Err(error) => failures.0.push((part, error)),
            }
        }
        if !gone.is_empty() {
            self.forget_holders(&gone);
            wanted = self.desired.wanted(pid);
        }
        // Where something is missing, what was there before is better than nothing.
        let is_surplus =
            |part: &Part| is_its(part) && !wanted.contains_key(part) && !failures.has_one_beside(part);
        self.take_surplus(is_surplus, leaving, &mut news);
        self.unsaid.extend(news.lines().map(News::Detail));
        failures
    }

    /// Processes that have ended or become another program.
    pub(super) fn forget_holders(&mut self, left: &BTreeSet<Holder>) {
        self.desired.leave(|holding| left.contains(&holding.holder));
        self.desired.stacks.retain(|process, _| !left.contains(&Holder::from(*process)));
        self.desired.into_memory.retain(|process, _| !left.contains(&Holder::from(*process)));
    }

    fn attach_part(&self, part: &Part) -> Result<Probes, libbpf_rs::Error> {
        let pid = part.holder.pid;
        let by_returns = self.desired.by_returns;
        match part.place {
            Where::Library(id) => {
                let blueprint =
                    self.desired.blueprint(id).expect("what is wanted is of a library that is known");
                let (found, path) = (&blueprint.found, blueprint.found.attach_path());
                let (links, offsets) = match (part.what, found.library.bio) {
                    (What::Records, Some((write, read))) => {
                        let returns = found.library.returns.of(read).unwrap_or_default();
                        let at = (write, read);
                        (self.kernel.attach_records(pid, &path, at, returns, by_returns)?, vec![write, read])
                    }
                    (what, _) => {
                        let spots = blueprint.spots(what);
                        let offsets = spots.iter().map(|spot| spot.offset).collect();
                        (self.kernel.attach_spots(what, pid, &path, spots)?, offsets)
                    }
                };
                Ok(Probes { file: found.key.id(), path: found.path.clone(), offsets, links })
            }
            Where::Bio(file, write, read) => {
                let bio = self.desired.bio(part.holder, (file, write, read));
                let bio = bio.expect("what is wanted is of a process that is known");
                let (path, at) = (bio.attach_path(), (write, read));
                let links = self.kernel.attach_records(pid, &path, at, &bio.returns, by_returns)?;
                Ok(Probes { file, path: bio.path.clone(), offsets: vec![write, read], links })
            }
        }
    }

    /// A path to the file of a part, for this process.
    pub(super) fn attach_path(&self, part: &Part) -> Option<PathBuf> {
        match part.place {
            Where::Library(id) => Some(self.desired.blueprint(id)?.found.attach_path()),
            Where::Bio(file, write, read) => {
                Some(self.desired.bio(part.holder, (file, write, read))?.attach_path())
            }
        }
    }

    /// Whether a process has ended or become another program.
    fn has_left(&self, holder: Holder) -> bool {
        let is_same = |pid: u32| {
            !is_gone(pid) && self.process(pid).is_some_and(|process| process.generation == holder.generation)
        };
        u32::try_from(holder.pid).is_ok_and(|pid| !is_same(pid))
    }

    /// Takes probes away, in the reverse order.
    fn take_surplus(&mut self, is_surplus: impl Fn(&Part) -> bool, leaving: Leaving, news: &mut Changes) {
        let (mut entries, mut others, mut files) = (Vec::new(), Vec::new(), Vec::new());
        let surplus: Vec<Part> = self.attached.keys().filter(|part| is_surplus(part)).copied().collect();
        for part in surplus {
            let Some(probes) = self.attached.remove(&part) else { continue };
            news.add(&part, &probes, None);
            files.push(probes.file);
            let is_entry = matches!(part.what, What::Entries(..));
            (if is_entry { &mut entries } else { &mut others }).extend(probes.links);
        }
        match leaving {
            Leaving::Awaited => {
                detach(entries);
                detach(others);
            }
            Leaving::Unwatched => self.discard([entries, others], files),
        }
    }

    /// Detaches from these files, one lot after the other; the kernel takes its time for that.
    pub(super) fn discard(&mut self, lots: [Vec<Link>; 2], mut files: Vec<FileId>) {
        if lots.iter().all(Vec::is_empty) {
            return;
        }
        files.sort_unstable();
        files.dedup();
        self.going.retain(|going| !going.thread.is_finished());
        self.going.push(Going { files, thread: thread::spawn(move || lots.into_iter().for_each(detach)) });
    }
}

/// All links of what is attached.
pub(super) fn links_of(attached: Attached) -> impl Iterator<Item = Link> {
    attached.into_values().rev().flat_map(|probes| probes.links)
}

/// For each link the kernel waits until its program runs nowhere: for many links at the same time that takes no
/// longer.
pub(super) fn detach(links: Vec<Link>) {
    const THREADS: usize = 16;
    let mut shares: Vec<Vec<Link>> = (0..THREADS).map(|_| Vec::new()).collect();
    for (index, link) in links.into_iter().enumerate() {
        shares[index % THREADS].push(link);
    }
    thread::scope(|scope| {
        for share in shares.into_iter().filter(|share| !share.is_empty()) {
            scope.spawn(move || drop(share));
        }
    });
}

/// How many probes of a kind came for a reason, or went.
type Counts = BTreeMap<(&'static str, Option<Why>), usize>;

/// What was attached and removed, for people to read: a line for each file and holder.
#[derive(Default)]
struct Changes(BTreeMap<(PathBuf, i32), Counts>);

impl Changes {
    /// `why`: they came for this reason; `None`: they went.
    fn add(&mut self, part: &Part, probes: &Probes, why: Option<Why>) {
        let noun = match part.what {
            What::Records => "BIO functions",
            What::ReturnProbes(..) => "return probes",
            What::Returns(..) => "return instructions",
            What::Entries(..) => "functions",
        };
        let of_file = self.0.entry((probes.path.clone(), part.holder.pid)).or_default();
        *of_file.entry((noun, why)).or_default() += probes.offsets.len();
    }

    fn lines(self) -> impl Iterator<Item = String> {
        self.0.into_iter().map(|((path, pid), changes)| {
            let mut line = match pid {
                -1 => "all processes".to_owned(),
                pid => format!("process {pid}"),
            };
            let _ = write!(line, ": probes of {}:", printable::path(&path));
            for (index, ((noun, why), count)) in changes.into_iter().enumerate() {
                let comma = if index > 0 { "," } else { "" };
                let _ = match why {
                    Some(why) => write!(line, "{comma} +{count} {noun} ({why})"),
                    None => write!(line, "{comma} -{count} {noun}"),
                };
            }
            line
        })
    }
}
