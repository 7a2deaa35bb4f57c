//! Which threads of the command wait for user space.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use libbpf_rs::{MapCore, MapFlags, MapHandle, MapMut};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::Probe;
use super::map_value::from_bytes;
use super::ring::{Disposition, Ring};
use super::skeleton::types::{self, t2p_hold_way};

/// How a thread of the command is made to wait during an inspection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldWay {
    /// SIGSTOP, which its parent sees.
    Signal,
    /// The reader of [`Holds`] seizes it.
    Tracer,
}

/// A thread that waits, and for what: the time is that of the record that gives the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Its process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// See above.
    pub time: u64,
}

/// Where a thread that is in a system call enters its program again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyscallReturn {
    /// Number of the system call.
    pub call: u64,
    /// Instruction pointer.
    pub ip: u64,
    /// Stack pointer; 0: unknown.
    pub sp: u64,
}

impl SyscallReturn {
    /// Whether a thread that was to be held here, and has stopped there, has not left the kernel in between.
    pub fn is_same(self, there: SyscallReturn) -> bool {
        let is_on_stack = self.sp == 0 || self.sp == there.sp;
        self.call == there.call && self.ip == there.ip && is_on_stack
    }
}

/// The threads that must be seized, as reported by the kernel side. Lives in one thread. Another one may have
/// the same: each receives what the other has not taken.
pub struct Holds {
    ring: Arc<Mutex<Ring>>,
    waker: Epoll,
    bell: Arc<EventFd>,
    /// The kernel side's table of processors of such threads, the index of this one, and its current entry.
    holders: MapHandle,
    index: u32,
    processor: u32,
}

impl Holds {
    /// Waits until there is one, or the [`bell`](Self::bell) has been rung; no longer than `patience`, if
    /// given.
    pub fn wait(&self, patience: Option<Duration>) {
        let patience = patience.map_or(Ok(EpollTimeout::NONE), EpollTimeout::try_from);
        // A signal ends the wait early, which is harmless.
        let _ = self.waker.wait(&mut [EpollEvent::empty(); 2], patience.unwrap_or(EpollTimeout::ZERO));
    }

    /// Tells the kernel side which processor this thread runs on. Only for one that has priority over all
    /// others there.
    pub fn tell_processor(&mut self) {
        // SAFETY: a plain system call. It does not fail on Linux: then this is 0, and nothing is known.
        let processor = unsafe { libc::sched_getcpu() }.wrapping_add(1).cast_unsigned();
        let (key, value) = (self.index.to_ne_bytes(), processor.to_ne_bytes());
        if processor != self.processor && self.holders.update(&key, &value, MapFlags::ANY).is_ok() {
            self.processor = processor;
        }
    }

    /// Ends a wait when it is written to.
    pub fn bell(&self) -> Arc<EventFd> {
        Arc::clone(&self.bell)
    }

    /// Those that came meanwhile; with each, where it is to be held, if that is known and it is in a system call.
    pub fn take(&mut self, mut act: impl FnMut(Hold, Option<SyscallReturn>)) {
        while let Some((hold, place)) = self.next() {
            act(hold, place);
        }
    }

    /// One by one: the other thread may act on the next.
    fn next(&mut self) -> Option<(Hold, Option<SyscallReturn>)> {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let until = ring.written();
        let mut next = None;
        ring.take(until, |record| {
            let mut bytes = [0; size_of::<types::t2p_hold>()];
            record.copy(&mut bytes);
            next = from_bytes::<types::t2p_hold>(&bytes);
            Disposition::Last
        });
        let types::t2p_hold { tgid: pid, tid, time, ip, sp, call } = next?;
        let is_in_call = ip != 0 && call.cast_signed() >= 0;
        Some((Hold { pid, tid, time }, is_in_call.then_some(SyscallReturn { call, ip, sp })))
    }
}

/// The kernel side's own table of those that are stopped by a signal.
#[derive(Debug)]
pub struct HeldThreads(MapHandle);

impl HeldThreads {
    /// Whether the process waits for [`Probe::end_stop`].
    pub fn has(&self, pid: u32) -> bool {
        self.0.lookup(&pid.to_ne_bytes(), MapFlags::ANY).is_ok_and(|found| found.is_some())
    }
}

impl Probe {
    /// How threads are made to wait from now on.
    pub fn hold_by(&mut self, way: HoldWay) {
        let way = match way {
            HoldWay::Signal => t2p_hold_way::T2P_HOLD_BY_SIGNAL,
            HoldWay::Tracer => t2p_hold_way::T2P_HOLD_BY_TRACER,
        };
        self.kernel.set(|variables| &mut variables.hold_way, way);
    }

    /// For two threads: the first one seizes the thread that must be held.
    ///
    /// # Errors
    /// If no descriptor is left for it, or a ring cannot be mapped.
    pub fn holds(&self) -> io::Result<[Holds; 2]> {
        let map = &self.kernel.skeleton.maps.holds;
        let ring = Arc::new(Mutex::new(Ring::new(map.as_fd(), map.max_entries() as usize)?));
        Ok([self.holds_in(map, &ring, 0)?, self.holds_in(map, &ring, 1)?])
    }

    fn holds_in(&self, map: &MapMut<'_>, ring: &Arc<Mutex<Ring>>, index: u32) -> io::Result<Holds> {
        let waker = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let bell = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        for source in [map.as_fd(), bell.as_fd()] {
            waker.add(source, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0))?;
        }
        let holders = MapHandle::try_from(&self.kernel.skeleton.maps.holders).map_err(io::Error::other)?;
        Ok(Holds { ring: Arc::clone(ring), waker, bell, holders, index, processor: 0 })
    }

    /// # Errors
    /// If no descriptor is left for it.
    pub fn stops(&self) -> io::Result<HeldThreads> {
        MapHandle::try_from(&self.kernel.skeleton.maps.stopped).map(HeldThreads).map_err(io::Error::other)
    }

    /// The process is stopped no more. To be called before it is sent SIGCONT.
    pub fn end_stop(&self, pid: u32) {
        // If it is not there it has ended.
        let _ = self.kernel.skeleton.maps.stopped.delete(&pid.to_ne_bytes());
    }
}
