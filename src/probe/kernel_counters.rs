//! What the kernel side counted, and what the kernel counted about it.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::{fs, io};

use libbpf_rs::libbpf_sys::{bpf_prog_get_info_by_fd, bpf_prog_info};
use libbpf_rs::query::{LinkTypeInfo, PerfEventType};
use libbpf_rs::skel::Skel;
use libbpf_rs::{Link, MapCore, MapFlags, MapType, Object};

use super::Probe;
use super::map_value::from_bytes;
use super::programs::Job;
use super::skeleton::types;
use crate::event::record::Counter;
use crate::event::{Counters, ProcessKey, ProcessLoss};

/// Processes whose runs without probes are counted separately; the rest is only in the sum.
const UNHELD_MAX: usize = 4096;

/// How often a process ran on before a library of it was probed.
#[derive(Debug, Default)]
pub(super) struct Unheld {
    times: u64,
    by_process: HashMap<ProcessKey, u64>,
}

impl Probe {
    /// A process of the command ran on before a library was probed in it: what it sent until then is unknown.
    pub fn note_unheld(&mut self, pid: u32) {
        self.unheld.times += 1;
        // One that has exited was never seen by name.
        let Some(process) = self.process(pid) else { return };
        let key = ProcessKey { pid, generation: process.generation };
        let by_process = &mut self.unheld.by_process;
        if by_process.len() < UNHELD_MAX || by_process.contains_key(&key) {
            *by_process.entry(key).or_default() += 1;
        }
    }

    /// Bytes of kernel memory that the rings and the tables take now. Some tables grow as needed
    /// (`table_sizes.rs`).
    ///
    /// # Errors
    /// If the kernel does not report it (/proc is not mounted).
    pub fn memory(&self) -> io::Result<(u64, u64)> {
        let (mut rings, mut tables) = (0, 0);
        for map in self.kernel.skeleton.object().maps() {
            let sum = if map.map_type() == MapType::RingBuf { &mut rings } else { &mut tables };
            *sum += map_bytes(map.as_fd())?;
        }
        Ok((rings, tables))
    }

    /// What the kernel side counted.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn counters(&self) -> Result<Counters, libbpf_rs::Error> {
        let map = &self.kernel.skeleton.maps.counters;
        let mut sums = Vec::new();
        for index in 0..map.max_entries() {
            let values = map.lookup_percpu(&index.to_ne_bytes(), MapFlags::ANY)?.unwrap_or_default();
            let number = |v: &Vec<u8>| v.first_chunk().map_or(0, |b| u64::from_ne_bytes(*b));
            sums.push(values.iter().map(number).sum());
        }
        let (others, sockets) = self.missed_runs();
        let of_user_space = [
            (Counter::MissedRuns, others),
            (Counter::MissedSocketRuns, sockets),
            (Counter::Unheld, self.unheld.times),
        ];
        for (index, times) in of_user_space {
            if let Some(sum) = sums.get_mut(index as usize) {
                *sum += times;
            }
        }
        Ok(Counters(sums))
    }

    /// Runs of probes that the kernel skipped because the same was running on that CPU: an interrupt arrived.
    /// Those on sockets, where it happens, are the second. Kernels before 5.12 do not report them; those before
    /// 6.7 do not for a kprobe that was hit inside another.
    fn missed_runs(&self) -> (u64, u64) {
        let (mut others, mut sockets) = (0, 0);
        let objects = std::iter::once(self.kernel.skeleton.object()).chain(self.kernel.later.loaded());
        for program in objects.flat_map(Object::progs) {
            let name = program.name().to_string_lossy();
            *(if Job::is_of_sockets(&name) { &mut sockets } else { &mut others }) +=
                recursion_misses(program.as_fd());
        }
        sockets += self.kernel.own_links.iter().map(missed_hits).sum::<u64>();
        (others, sockets)
    }

    /// What the kernel side counted as lost, by process.
    pub fn losses(&self) -> Vec<ProcessLoss> {
        let map = &self.kernel.skeleton.maps.losses;
        let mut losses: Vec<ProcessLoss> = map
            .keys()
            .filter_map(|key| {
                let value = map.lookup(&key, MapFlags::ANY).ok().flatten()?;
                let key: types::loss_key = from_bytes(&key)?;
                let loss: types::loss = from_bytes(&value)?;
                Some(ProcessLoss {
                    process: ProcessKey { pid: key.tgid, generation: key.process },
                    reason: key.reason.0,
                    events: loss.events,
                    bytes: loss.bytes,
                })
            })
            .collect();
        for (process, times) in &self.unheld.by_process {
            let (process, reason) = (*process, Counter::Unheld as u32);
            match losses.iter_mut().find(|loss| (loss.process, loss.reason) == (process, reason)) {
                Some(loss) => loss.events += times,
                None => losses.push(ProcessLoss { process, reason, events: *times, bytes: 0 }),
            }
        }
        losses.sort_by_key(|loss| (loss.process, loss.reason));
        losses
    }
}

/// What the kernel charges for a map: `memlock` of its fdinfo (proc_pid_fdinfo(5)).
fn map_bytes(map: BorrowedFd<'_>) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
    let bytes = text.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok());
    bytes.ok_or_else(|| io::ErrorKind::Unsupported.into())
}

fn recursion_misses(program: BorrowedFd<'_>) -> u64 {
    let mut info = bpf_prog_info::default();
    let mut len = size_of::<bpf_prog_info>() as u32;
    // SAFETY: a valid place of the given length. An older kernel fills in less and leaves 0, as does a program
    // that is not loaded.
    unsafe { bpf_prog_get_info_by_fd(program.as_raw_fd(), &mut info, &mut len) };
    info.recursion_misses
}

fn missed_hits(link: &Link) -> u64 {
    match link.info().map(|info| info.info) {
        Ok(LinkTypeInfo::PerfEvent(event)) => match event.event_type {
            PerfEventType::Kprobe { missed, .. } => missed,
            _ => 0,
        },
        _ => 0,
    }
}
