//! Entries of the kernel side's tables that outlived what they stand for.

use std::collections::HashSet;
use std::path::Path;

use libbpf_rs::{MapCore, MapFlags};

use super::skeleton::types::{self, t2p_stack_key};
use super::{Probe, from_bytes};
use crate::event::ProcessKey;

impl Probe {
    /// Gives back the table entries of processes that have ended.
    pub fn forget(&mut self, ended: &HashSet<ProcessKey>) {
        self.bios.retain(|process, _| !ended.contains(process));
        self.stacks.retain(|process, _| !ended.contains(process));
        let handles = &self.skeleton.maps.handles;
        let of_ended = |key: &Vec<u8>| {
            let value = handles.lookup(key, MapFlags::ANY).ok().flatten()?;
            let handle: types::handle = from_bytes(&value)?;
            let pid = from_bytes::<types::handle_key>(key)?.tgid;
            ended.contains(&ProcessKey { pid, generation: handle.process }).then_some(())
        };
        let stale: Vec<Vec<u8>> = handles.keys().filter(|key| of_ended(key).is_some()).collect();
        for key in stale {
            // After exec a handle of the new program may stand there by now.
            if of_ended(&key).is_some() {
                // Gone already is as good.
                let _ = handles.delete(&key);
            }
        }
        let (goroutines, threads) = (&self.skeleton.maps.goroutines, &self.skeleton.maps.threads);
        forget_calls(goroutines, ended, |key| Some(from_bytes::<types::goroutine_key>(key)?.tgid));
        forget_calls(threads, ended, pid_of_stack);
        forget_threads(threads, ended);
    }
}

/// Takes out goroutines and stacks that were in a call when their process ended. `pid_of`: whose a key is.
fn forget_calls(map: &impl MapCore, ended: &HashSet<ProcessKey>, pid_of: impl Fn(&[u8]) -> Option<u32>) {
    let of_ended = |key: &Vec<u8>| {
        let pid = pid_of(key)?;
        let value = map.lookup(key, MapFlags::ANY).ok().flatten()?;
        let thread: types::thread = from_bytes(&value)?;
        ended.contains(&ProcessKey { pid, generation: thread.process }).then_some(())
    };
    let stale: Vec<Vec<u8>> = map.keys().filter(|key| of_ended(key).is_some()).collect();
    for key in stale {
        // As above: after exec they may be the new program's.
        if of_ended(&key).is_some() {
            let _ = map.delete(&key);
        }
    }
}

/// Takes out threads that are no more and whose end was not seen: those that called exec and were not the first
/// of their process get another number.
fn forget_threads(threads: &impl MapCore, ended: &HashSet<ProcessKey>) {
    let pids: HashSet<u32> = ended.iter().map(|process| process.pid).collect();
    let is_gone = |key: &Vec<u8>| {
        let Some(key) = key.first_chunk().map(|key| u64::from_ne_bytes(*key)) else { return false };
        let (pid, tid) = ((key >> 32) as u32, key as u32);
        !is_stack(key) && pids.contains(&pid) && !Path::new(&format!("/proc/{pid}/task/{tid}")).exists()
    };
    let stale: Vec<Vec<u8>> = threads.keys().filter(is_gone).collect();
    for key in stale {
        // Gone already is as good.
        let _ = threads.delete(&key);
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
