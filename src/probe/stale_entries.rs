//! Entries of the kernel side's tables that outlived their object.

use std::collections::HashSet;
use std::path::Path;

use libbpf_rs::{MapCore, MapFlags};

use super::attach::Leaving;
use super::map_value::{bytes_of, from_bytes};
use super::skeleton::types::{self, room as Room, t2p_stack_key};
use super::{Probe, table_sizes, unreported_ends};
use crate::event::ProcessKey;

impl Probe {
    /// Gives back the table entries of processes that have ended.
    pub fn forget(&mut self, ended: &HashSet<ProcessKey>) {
        let before = (self.desired.into_memory.len(), self.desired.stacks.len());
        self.desired.into_memory.retain(|process, _| !ended.contains(process));
        self.desired.stacks.retain(|process, _| !ended.contains(process));
        if before != (self.desired.into_memory.len(), self.desired.stacks.len()) {
            self.bring_about(Leaving::Unwatched);
        }
        let Some(variables) = self.kernel.skeleton.maps.bss_data.as_deref_mut() else { return };
        let handles = &self.kernel.skeleton.maps.handles;
        let stale: Vec<_> =
            unreported_ends::handles(handles).filter(|h| ended.contains(&h.key.process)).collect();
        for handle in stale {
            let mut key = types::handle_key::default();
            (key.address, key.tgid) = (handle.key.address, handle.key.process.pid);
            let value = handles.lookup(bytes_of(&key), MapFlags::ANY).ok().flatten();
            let now = value.and_then(|value| from_bytes::<types::handle>(&value));
            // After exec a handle of the new program may be there by now.
            let Some(now) = now.filter(|now| now.process == handle.key.process.generation) else { continue };
            if handles.delete(bytes_of(&key)).is_ok() {
                table_sizes::give_back(variables, Room::ROOM_HANDLES, now.user);
            }
        }
        let (goroutines, threads) =
            (&self.kernel.skeleton.maps.goroutines, &self.kernel.skeleton.maps.threads);
        let pid_of = |key: &[u8]| Some(from_bytes::<types::goroutine_key>(key)?.tgid);
        let mut give_back =
            |of: Room, calls: &types::thread| table_sizes::give_back(variables, of, calls.user.into());
        forget_calls(goroutines, ended, pid_of, |calls| give_back(Room::ROOM_GOROUTINES, calls));
        forget_calls(threads, ended, pid_of_stack, |calls| give_back(Room::ROOM_THREADS, calls));
        forget_threads(threads, ended, |calls| give_back(Room::ROOM_THREADS, calls));
    }
}

/// Takes out goroutines and stacks that were in a call when their process ended. `pid_of`: whose a key is.
fn forget_calls(
    map: &impl MapCore,
    ended: &HashSet<ProcessKey>,
    pid_of: impl Fn(&[u8]) -> Option<u32>,
    mut forgotten: impl FnMut(&types::thread),
) {
    let of_ended = |key: &Vec<u8>| {
        let pid = pid_of(key)?;
        let value = map.lookup(key, MapFlags::ANY).ok().flatten()?;
        let thread: types::thread = from_bytes(&value)?;
        ended.contains(&ProcessKey { pid, generation: thread.process }).then_some(thread)
    };
    let stale: Vec<Vec<u8>> = map.keys().filter(|key| of_ended(key).is_some()).collect();
    for key in stale {
        // As above: after exec they may be the new program's.
        if let Some(thread) = of_ended(&key).filter(|_| map.delete(&key).is_ok()) {
            forgotten(&thread);
        }
    }
}

/// Takes out threads that are no more and whose end was not seen: those that called exec and were not the first
/// of their process get another number.
fn forget_threads(
    threads: &impl MapCore,
    ended: &HashSet<ProcessKey>,
    mut forgotten: impl FnMut(&types::thread),
) {
    let pids: HashSet<u32> = ended.iter().map(|process| process.pid).collect();
    let is_gone = |key: &Vec<u8>| {
        let Some(key) = key.first_chunk().map(|key| u64::from_ne_bytes(*key)) else { return false };
        let (pid, tid) = ((key >> 32) as u32, key as u32);
        !is_stack(key) && pids.contains(&pid) && !Path::new(&format!("/proc/{pid}/task/{tid}")).exists()
    };
    let stale: Vec<Vec<u8>> = threads.keys().filter(is_gone).collect();
    for key in stale {
        let value = threads.lookup(&key, MapFlags::ANY).ok().flatten();
        let Some(thread) = value.and_then(|value| from_bytes(&value)) else { continue };
        // Gone already is as good.
        if threads.delete(&key).is_ok() {
            forgotten(&thread);
        }
    }
}

const STACK: u64 = 1 << t2p_stack_key::T2P_STACK_KEY.0;

fn is_stack(key: u64) -> bool {
    key & STACK != 0
}

/// Whose stack a key of the table of threads is, if it is one: `stack_key` of `bpf/stack.bpf.h`.
fn pid_of_stack(key: &[u8]) -> Option<u32> {
    let key = u64::from_ne_bytes(*key.first_chunk()?);
    is_stack(key).then_some(((key & !STACK) >> t2p_stack_key::T2P_STACK_PID.0) as u32)
}
