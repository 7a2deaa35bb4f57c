//! What the kernel side must know of files: which were inspected, and in which processes their libraries are
//! probed.

use libbpf_rs::{MapCore, MapFlags};

use super::Probe;
use super::map_value::{bytes_of, from_bytes};
use super::skeleton::types::{self, file_state};
use crate::discover::{Found, Plain};
use crate::event::FileSeen;

impl Probe {
    /// This file has been inspected, in the state that it was in then: the next process that maps it need not
    /// wait.
    pub fn mark_seen(&self, file: &FileSeen, is_library: bool) {
        self.mark(file, if is_library { file_state::FILE_LIBRARY } else { file_state::FILE_PLAIN });
    }

    /// The library in this file is probed in the process that has mapped it.
    pub fn mark_probed_in(&self, file: &FileSeen) {
        self.mark_probed(file.pid, file.inode, file.device);
    }

    /// This file must not be inspected until [`mark_unseen`](Self::mark_unseen), although it may contain a
    /// library. Processes that map it meanwhile and should wait are counted.
    pub fn mark_resting(&self, file: &FileSeen) {
        self.mark(file, file_state::FILE_RESTS);
    }

    fn mark(&self, file: &FileSeen, state: file_state) {
        let key = types::file_key { inode: file.inode, device: file.device, ..Default::default() };
        let files = &self.kernel.skeleton.maps.files;
        let seen = files.lookup(bytes_of(&key), MapFlags::ANY).ok().flatten();
        // If it was written to meanwhile, or other processes wait for an inspection as well, a later one will
        // show.
        if let Some(mut seen) =
            seen.and_then(|seen| from_bytes::<types::seen_file>(&seen)).filter(|seen| seen.told == file.time)
        {
            seen.state = state;
            // If it fails, the file is inspected again.
            let _ = files.update(bytes_of(&key), bytes_of(&seen), MapFlags::EXIST);
        }
    }

    /// A library is probed in a process from the start.
    pub fn mark_probed_ahead(&self, pid: u32, found: &Found) {
        if let Some(((major, minor), inode)) = found.mapped {
            self.mark_probed(pid, inode, device_of(major, minor));
        }
    }

    fn mark_probed(&self, pid: u32, inode: u64, device: u32) {
        if !self.by_process {
            return;
        }
        let Some(process) = self.process(pid) else { return };
        let key = types::probed_key { inode, device, tgid: pid };
        let generation = process.generation.to_ne_bytes();
        // If it fails, the process is inspected once more.
        let _ = self.kernel.skeleton.maps.probed.update(bytes_of(&key), &generation, MapFlags::ANY);
        let library = types::held_library { inode, device, ..Default::default() };
        // If it fails children are probed with the next library that they map.
        let _ = self.kernel.skeleton.maps.held.update(&pid.to_ne_bytes(), bytes_of(&library), MapFlags::ANY);
    }

    /// A file that no process has mapped yet has nothing to probe: a process that maps it need not wait.
    pub fn mark_plain(&self, file: &Plain) {
        let key = types::file_key {
            inode: file.inode,
            device: device_of(file.device.0, file.device.1),
            ..Default::default()
        };
        let seen =
            types::seen_file { stamp: stamp_of(file), state: file_state::FILE_PLAIN, ..Default::default() };
        // If it fails, or the kernel side already has it, it is inspected when it is mapped.
        let _ = self.kernel.skeleton.maps.files.update(bytes_of(&key), bytes_of(&seen), MapFlags::NO_EXIST);
    }

    /// This file must be inspected again when it is next mapped.
    pub fn mark_unseen(&self, file: &FileSeen) {
        self.forget_file(file.inode, file.device);
    }

    pub(super) fn forget_found(&self, found: &Found) {
        if let Some(((major, minor), inode)) = found.mapped {
            self.forget_file(inode, device_of(major, minor));
        }
    }

    /// Whether the kernel side has reported a file since it was forgotten.
    pub(super) fn is_told(&self, inode: u64, device: u32) -> bool {
        let key = types::file_key { inode, device, ..Default::default() };
        let found = self.kernel.skeleton.maps.files.lookup(bytes_of(&key), MapFlags::ANY);
        found.is_ok_and(|found| found.is_some())
    }

    pub(super) fn forget_file(&self, inode: u64, device: u32) {
        let key = types::file_key { inode, device, ..Default::default() };
        // Forgotten already is as good.
        let _ = self.kernel.skeleton.maps.files.delete(bytes_of(&key));
    }
}

/// As the kernel side has it.
fn stamp_of(file: &Plain) -> u64 {
    let (seconds, nanoseconds) = (file.changed.0.cast_unsigned(), file.changed.1.cast_unsigned());
    (seconds << 30 ^ nanoseconds)
        .wrapping_add(file.size.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .wrapping_add(u64::from(file.generation).wrapping_mul(0xc2b2_ae3d_27d4_eb4f))
}

/// As the kernel keeps it.
fn device_of(major: u32, minor: u32) -> u32 {
    major << 20 | minor
}
