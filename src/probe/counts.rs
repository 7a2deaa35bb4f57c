//! What the kernel side counted, and what the kernel counted about it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use libbpf_rs::libbpf_sys::{bpf_prog_get_info_by_fd, bpf_prog_info};
use libbpf_rs::query::{LinkTypeInfo, PerfEventType};
use libbpf_rs::skel::Skel;
use libbpf_rs::{Link, MapCore, MapFlags};

use super::skeleton::types;
use super::{Probe, from_bytes};
use crate::event::record::Counter;
use crate::event::{Counters, ProcessKey, ProcessLoss};

impl Probe {
    /// What the kernel side counted.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn counters(&self) -> Result<Counters, libbpf_rs::Error> {
        let map = &self.skeleton.maps.counters;
        let mut sums = Vec::new();
        for index in 0..map.max_entries() {
            let values = map.lookup_percpu(&index.to_ne_bytes(), MapFlags::ANY)?.unwrap_or_default();
            let number = |v: &Vec<u8>| v.first_chunk().map_or(0, |b| u64::from_ne_bytes(*b));
            sums.push(values.iter().map(number).sum());
        }
        if let Some(missed) = sums.get_mut(Counter::MissedRuns as usize) {
            *missed = self.missed_runs();
        }
        Ok(Counters(sums))
    }

    /// Runs of probes that the kernel left out because another was running on the same CPU. Kernels
    /// before 5.12 do not tell; of a kprobe that was hit inside another, those before 6.7 do not.
    fn missed_runs(&self) -> u64 {
        let programs = self.skeleton.object().progs();
        let of_programs = programs.map(|program| recursion_misses(program.as_fd())).sum::<u64>();
        let of_links = self.links.iter().take(self.own_links).map(missed_hits).sum::<u64>();
        of_programs + of_links
    }

    /// What the kernel side counted as lost, by process.
    pub fn losses(&self) -> Vec<ProcessLoss> {
        let map = &self.skeleton.maps.losses;
        let mut losses: Vec<ProcessLoss> = map
            .keys()
            .filter_map(|key| {
                let value = map.lookup(&key, MapFlags::ANY).ok().flatten()?;
                let key: types::loss_key = from_bytes(&key)?;
                let loss: types::loss = from_bytes(&value)?;
                Some(ProcessLoss {
                    process: ProcessKey { pid: key.tgid, generation: key.process },
                    reason: key.reason,
                    events: loss.events,
                    bytes: loss.bytes,
                })
            })
            .collect();
        losses.sort_by_key(|loss| (loss.process, loss.reason));
        losses
    }
}

fn recursion_misses(program: BorrowedFd<'_>) -> u64 {
    let mut info = bpf_prog_info::default();
    let mut len = size_of::<bpf_prog_info>() as u32;
    // SAFETY: a valid place of the length that is told. An older kernel fills in less and leaves 0,
    // as does a program that is not loaded.
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
