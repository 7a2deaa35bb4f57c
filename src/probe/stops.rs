//! Which threads of the command wait for user space.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::Probe;
use super::ring::{Ring, Verdict};
use super::skeleton::types::{self, t2p_hold_way};

/// How a thread of the command is made to wait while something is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldWay {
    /// SIGSTOP, which its parent sees.
    Signal,
    /// Somebody seizes it who reads [`Holds`].
    Tracer,
}

/// A thread that waits, and for what: the time is that of the record that says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Its process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// See above.
    pub time: u64,
}

/// The threads that are to be seized, as the kernel side tells. Lives in one thread.
pub struct Holds {
    ring: Ring,
    waker: Epoll,
    bell: Arc<EventFd>,
}

impl Holds {
    /// Waits until there is one, or somebody has rung the [`bell`](Self::bell); no longer than `patience`, if it is
    /// some.
    pub fn wait(&self, patience: Option<Duration>) {
        let patience = patience.map_or(Ok(EpollTimeout::NONE), EpollTimeout::try_from);
        // A signal ends the wait early, which is harmless.
        let _ = self.waker.wait(&mut [EpollEvent::empty(); 2], patience.unwrap_or(EpollTimeout::ZERO));
    }

    /// Ends a wait when it is written to.
    pub fn bell(&self) -> Arc<EventFd> {
        Arc::clone(&self.bell)
    }

    /// Those that came meanwhile.
    pub fn take(&mut self, mut act: impl FnMut(Hold)) {
        let until = self.ring.written();
        self.ring.take(until, |record| {
            let mut bytes = [0; size_of::<types::t2p_hold>()];
            record.copy(&mut bytes);
            let number = |at: usize| bytes[at..].first_chunk().map_or(0, |n| u32::from_ne_bytes(*n));
            let time = bytes.last_chunk().map_or(0, |n| u64::from_ne_bytes(*n));
            act(Hold { pid: number(0), tid: number(4), time });
            Verdict::Taken
        });
    }
}

const _: () = {
    assert!(std::mem::offset_of!(types::t2p_hold, tgid) == 0);
    assert!(std::mem::offset_of!(types::t2p_hold, tid) == 4);
    assert!(std::mem::offset_of!(types::t2p_hold, time) == 8 && size_of::<types::t2p_hold>() == 16);
};

/// The kernel side's own table of those that are stopped by a signal.
#[derive(Debug)]
pub struct Stops(MapHandle);

impl Stops {
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
        if let Some(bss) = self.skeleton.maps.bss_data.as_deref_mut() {
            // SAFETY: a valid, aligned place in the mapped .bss; the kernel only reads it.
            unsafe { std::ptr::from_mut(&mut bss.hold_way).write_volatile(way) };
        }
    }

    /// # Errors
    /// If no descriptor is left for it, or the ring cannot be mapped.
    pub fn holds(&self) -> io::Result<Holds> {
        let map = &self.skeleton.maps.holds;
        let waker = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let bell = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        for source in [map.as_fd(), bell.as_fd()] {
            waker.add(source, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0))?;
        }
        Ok(Holds { ring: Ring::new(map.as_fd(), map.max_entries() as usize)?, waker, bell })
    }

    /// # Errors
    /// If no descriptor is left for it.
    pub fn stops(&self) -> io::Result<Stops> {
        MapHandle::try_from(&self.skeleton.maps.stopped).map(Stops).map_err(io::Error::other)
    }

    /// The process is stopped no more. To be called before it is sent SIGCONT.
    pub fn end_stop(&self, pid: u32) {
        // If it is not there it has ended.
        let _ = self.skeleton.maps.stopped.delete(&pid.to_ne_bytes());
    }
}
