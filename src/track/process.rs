//! The known processes.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::segment::Process;
use super::slot::Slot;
use super::summary::{Bounds, ProcessSummary, Traffic};
use crate::event::{ProcessFacts, ProcessKey, ProcessSeen};

#[derive(Debug)]
struct Entry {
    /// A snapshot: connections that were opened with it keep it when more is learned.
    process: Arc<Process>,
    /// /proc has been read.
    facts: bool,
    exited: bool,
    handles: BTreeSet<Slot>,
    traffic: Traffic,
}

/// The table of processes. Full, it forgets the one that ended first, and refuses new ones while
/// none has ended.
#[derive(Debug)]
pub(super) struct Processes {
    entries: HashMap<ProcessKey, Entry>,
    /// The last generation that was introduced for a pid.
    by_pid: HashMap<u32, ProcessKey>,
    exited: VecDeque<ProcessKey>,
    others: Traffic,
    limit: usize,
}

fn unknown(key: ProcessKey) -> Process {
    Process { key, comm: String::new(), exe: String::new(), args: Vec::new(), uid: 0, container: None }
}

impl Processes {
    pub fn new(limit: usize) -> Processes {
        Processes {
            entries: HashMap::new(),
            by_pid: HashMap::new(),
            exited: VecDeque::new(),
            others: Traffic::default(),
            limit,
        }
    }

    fn entry(&mut self, key: ProcessKey, bounds: &mut Bounds) -> Option<&mut Entry> {
        if !self.entries.contains_key(&key) {
            if self.entries.len() >= self.limit && !self.evict(bounds) {
                bounds.processes_refused += 1;
                return None;
            }
            let entry = Entry {
                process: Arc::new(unknown(key)),
                facts: false,
                exited: false,
                handles: BTreeSet::new(),
                traffic: Traffic::default(),
            };
            self.entries.insert(key, entry);
        }
        self.entries.get_mut(&key)
    }

    fn evict(&mut self, bounds: &mut Bounds) -> bool {
        let Some(key) = self.exited.pop_front() else { return false };
        if let Some(entry) = self.entries.remove(&key) {
            self.others.merge(&entry.traffic);
            bounds.processes_evicted += u64::from(!entry.traffic.is_empty());
        }
        if self.by_pid.get(&key.pid) == Some(&key) {
            self.by_pid.remove(&key.pid);
        }
        true
    }

    /// The kernel introduces a process. Gives the process that had its pid before, if it has not
    /// ended yet: an exec, or an end that was not seen.
    pub fn seen(&mut self, seen: ProcessSeen, bounds: &mut Bounds) -> Option<ProcessKey> {
        let entry = self.entry(seen.key, bounds)?;
        let facts = entry.facts;
        let process = Arc::make_mut(&mut entry.process);
        process.comm = seen.comm;
        process.uid = seen.uid;
        // Every process has a complete path from the kernel, however short its life: it is preferred to that of
        // /proc.
        if process.exe.is_empty() || !facts || seen.exe.starts_with('/') {
            process.exe = seen.exe;
        }
        if process.args.is_empty() || !facts {
            process.args = seen.args;
        }
        let before = self.by_pid.get(&seen.key.pid).copied();
        if before.is_some_and(|before| before.generation >= seen.key.generation) {
            return None;
        }
        self.by_pid.insert(seen.key.pid, seen.key);
        before.filter(|before| self.entries.get(before).is_some_and(|e| !e.exited))
    }

    /// Adds what /proc has about a process. What it lacks stays as the kernel reported it.
    pub fn facts(&mut self, key: ProcessKey, facts: ProcessFacts, bounds: &mut Bounds) {
        let Some(entry) = self.entry(key, bounds) else { return };
        entry.facts = true;
        let process = Arc::make_mut(&mut entry.process);
        if let Some(exe) = facts.exe.filter(|_| !process.exe.starts_with('/')) {
            process.exe = exe;
        }
        if !facts.args.is_empty() {
            process.args = facts.args;
        }
        if facts.container.is_some() {
            process.container = facts.container;
        }
    }

    /// The process has exited.
    pub fn exit(&mut self, key: ProcessKey) {
        if let Some(entry) = self.entries.get_mut(&key)
            && !entry.exited
        {
            entry.exited = true;
            self.exited.push_back(key);
        }
    }

    /// Whether nothing more will be learned about it.
    pub fn is_settled(&self, key: ProcessKey) -> bool {
        self.entries.get(&key).is_none_or(|e| e.facts || e.exited)
    }

    /// What is known of it so far.
    pub fn get(&self, key: ProcessKey) -> Arc<Process> {
        self.entries.get(&key).map_or_else(|| Arc::new(unknown(key)), |e| Arc::clone(&e.process))
    }

    pub fn add_handle(&mut self, key: ProcessKey, slot: Slot, bounds: &mut Bounds) {
        if let Some(entry) = self.entry(key, bounds) {
            entry.handles.insert(slot);
        }
    }

    pub fn remove_handle(&mut self, key: ProcessKey, slot: Slot) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.handles.remove(&slot);
        }
    }

    /// Its handles, oldest slot first.
    pub fn handles(&self, key: ProcessKey) -> Vec<Slot> {
        self.entries.get(&key).map_or_else(Vec::new, |e| e.handles.iter().copied().collect())
    }

    pub fn count(&mut self, key: ProcessKey, traffic: &Traffic) {
        self.entries.get_mut(&key).map_or(&mut self.others, |e| &mut e.traffic).merge(traffic);
    }

    /// A row for each process that carried bytes, and the sum of those without one. `live` is traffic that was
    /// not yet passed to [`Processes::count`].
    pub fn rows(&self, live: &HashMap<ProcessKey, Traffic>) -> (Vec<ProcessSummary>, Traffic) {
        let mut others = self.others;
        live.iter().filter(|(k, _)| !self.entries.contains_key(k)).for_each(|(_, t)| others.merge(t));
        let row = |(key, entry): (&ProcessKey, &Entry)| {
            let mut traffic = entry.traffic;
            live.get(key).inspect(|t| traffic.merge(t));
            let comm = entry.process.comm.clone();
            (!traffic.is_empty()).then_some(ProcessSummary { key: *key, comm, traffic })
        };
        let mut rows: Vec<_> = self.entries.iter().filter_map(row).collect();
        rows.sort_by_key(|row| row.key);
        (rows, others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(pid: u32, generation: u64, comm: &str) -> ProcessSeen {
        ProcessSeen {
            key: ProcessKey { pid, generation },
            time: 0,
            start_time: 0,
            cgroup: 0,
            uid: 5,
            gid: 5,
            parent: 1,
            netns: 1,
            comm: comm.into(),
            exe: "short".into(),
            args: vec!["cut".into()],
        }
    }

    #[test]
    fn what_proc_tells_is_better_than_what_the_kernel_said_in_either_order() {
        let facts =
            ProcessFacts { exe: Some("/bin/a".into()), args: vec!["a".into(), "b".into()], container: None };
        let key = ProcessKey { pid: 1, generation: 1 };
        let mut bounds = Bounds::default();
        let mut first = Processes::new(9);
        first.seen(seen(1, 1, "a"), &mut bounds);
        let before = first.get(key);
        first.facts(key, facts.clone(), &mut bounds);
        let mut second = Processes::new(9);
        second.facts(key, facts.clone(), &mut bounds);
        second.seen(seen(1, 1, "a"), &mut bounds);
        assert_eq!(first.get(key), second.get(key));
        assert_eq!((&*first.get(key).exe, first.get(key).args.len(), first.get(key).uid), ("/bin/a", 2, 5));
        assert_eq!(before.exe, "short", "a snapshot does not change");

        let mut whole = Processes::new(9);
        whole.seen(ProcessSeen { exe: "/bin/kernel".into(), ..seen(1, 1, "a") }, &mut bounds);
        whole.facts(key, facts, &mut bounds);
        assert_eq!(&*whole.get(key).exe, "/bin/kernel", "a whole path is the same for all processes");

        let mut gone = Processes::new(9);
        gone.seen(seen(1, 1, "a"), &mut bounds);
        gone.facts(key, ProcessFacts::default(), &mut bounds);
        assert_eq!((&*gone.get(key).exe, gone.get(key).args.len()), ("short", 1));
        assert!(gone.is_settled(key));
    }

    #[test]
    fn a_new_generation_ends_the_one_before_and_an_old_one_does_not() {
        let mut bounds = Bounds::default();
        let mut p = Processes::new(9);
        assert_eq!(p.seen(seen(1, 5, "sh"), &mut bounds), None);
        assert_eq!(p.seen(seen(1, 4, "late"), &mut bounds), None);
        assert_eq!(p.seen(seen(1, 5, "sh"), &mut bounds), None);
        assert_eq!(p.seen(seen(1, 6, "curl"), &mut bounds), Some(ProcessKey { pid: 1, generation: 5 }));
    }

    #[test]
    fn a_full_table_forgets_the_ended_and_refuses_for_the_living() {
        let mut bounds = Bounds::default();
        let mut p = Processes::new(2);
        let key = |pid| ProcessKey { pid, generation: 1 };
        p.seen(seen(1, 1, "a"), &mut bounds);
        p.seen(seen(2, 1, "b"), &mut bounds);
        p.seen(seen(3, 1, "c"), &mut bounds);
        assert_eq!((bounds.processes_refused, &*p.get(key(3)).comm), (1, ""));
        assert!(p.is_settled(key(3)), "nothing will come of what is not in the table");
        p.count(key(1), &Traffic { read: 4, ..Traffic::default() });
        p.count(key(3), &Traffic { read: 2, ..Traffic::default() });
        p.exit(key(1));
        p.exit(key(1));
        p.seen(seen(3, 1, "c"), &mut bounds);
        assert_eq!((bounds.processes_evicted, &*p.get(key(3)).comm), (1, "c"));
        let (rows, others) = p.rows(&HashMap::from([(key(3), Traffic { read: 1, ..Traffic::default() })]));
        assert_eq!((rows.len(), rows[0].key, rows[0].traffic.read, others.read), (1, key(3), 1, 6));
    }
}
