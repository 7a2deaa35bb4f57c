//! Ends of handles, processes and sockets that did not fit into the ring.

use std::io;

use bytes::Bytes;
use libbpf_rs::{MapCore, MapFlags, MapHandle, MapImpl};

use super::map_value::{bytes_of, from_bytes};
use super::skeleton::types::{self, ended_kind, t2p_counter};

use crate::event::record::{decode, encode};
use crate::event::{Ends, Event, HandleKey, ProcessKey};

/// The ends of handles, processes and sockets that the kernel side kept instead of putting them into the ring (at most
/// 1024; what is beyond that is counted as lost), and the handles that end with their process.
pub struct UnreportedEnds {
    kept: MapHandle,
    handles: MapHandle,
    losses: MapHandle,
}

impl UnreportedEnds {
    pub(super) fn new(
        kept: &MapImpl<'_>,
        handles: &MapImpl<'_>,
        losses: &MapImpl<'_>,
    ) -> io::Result<UnreportedEnds> {
        let handle = |map: &MapImpl<'_>| MapHandle::try_from(map).map_err(io::Error::other);
        Ok(UnreportedEnds { kept: handle(kept)?, handles: handle(handles)?, losses: handle(losses)? })
    }

    /// Takes out all records. Each is like one of the ring's, and belongs after everything that the ring holds
    /// at this moment.
    pub fn take(&self) -> Vec<Vec<u8>> {
        // In this order: what was kept of the handles of a process was kept before its end. A socket may have
        // ended before its handles, which come first so that nothing of them follows the end of their
        // connection.
        let sockets = self.take_if(is_socket);
        let exits = self.take_if(|record| exit_of(record).is_some());
        let mut records = self.take_if(|record| exit_of(record).is_none() && !is_socket(record));
        for exit in exits {
            records.extend(exit_of(&exit).iter().flat_map(|process| self.finals(*process)));
            records.push(exit);
        }
        records.extend(sockets);
        records
    }

    /// What must be known of a process's handles before it ends, in records: their offsets, if the ring refused
    /// some of their bytes. To be called when its end is in the ring and everything before that is taken.
    pub fn of(&self, process: ProcessKey) -> Vec<Vec<u8>> {
        let mut records = self.take_if(|record| process_of(record) == Some(process));
        records.extend(self.finals(process));
        records
    }

    fn finals(&self, process: ProcessKey) -> Vec<Vec<u8>> {
        let reason = t2p_counter::T2P_COUNT_RING_FULL;
        let key = types::loss_key { process: process.generation, tgid: process.pid, reason };
        if !matches!(self.losses.lookup(bytes_of(&key), MapFlags::ANY), Ok(Some(_))) {
            return Vec::new();
        }
        let handles = handles(&self.handles).filter(|handle| handle.key.process == process);
        handles.filter_map(|handle| Some(encode(&Event::Final(handle.key, handle.ends))?.to_vec())).collect()
    }

    fn take_if(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        let read = |key: &Vec<u8>| {
            let mut record = self.kept.lookup(key, MapFlags::ANY).ok().flatten()?;
            record.truncate(match from_bytes::<types::ended_key>(key)?.kind {
                ended_kind::ENDED_PROCESS => size_of::<types::t2p_exit>(),
                ended_kind::ENDED_SOCKET => size_of::<types::t2p_socket>(),
                _ => record.len(),
            });
            Some(record)
        };
        let taken = |key: Vec<u8>| {
            // The kernel side enters it first, and writes it then; what is not whole yet cannot be decoded. What can
            // be may have been copied while it was written: whole it is the next time.
            read(&key).filter(|record| decode(&Bytes::copy_from_slice(record)).is_ok())?;
            let record = read(&key)?;
            (wanted(&record) && self.kept.delete(&key).is_ok()).then_some(record)
        };
        let keys: Vec<Vec<u8>> = self.kept.keys().collect();
        keys.into_iter().filter_map(taken).collect()
    }
}

/// Whose end, or the end of whose handle, a record is about; `None` if it is none of either.
pub fn process_of(record: &[u8]) -> Option<ProcessKey> {
    match decode(&Bytes::copy_from_slice(record)) {
        Ok(Event::Handle(fact)) => Some(fact.handle.process),
        Ok(Event::Exit(process, _)) => Some(process),
        _ => None,
    }
}

fn is_socket(record: &[u8]) -> bool {
    matches!(decode(&Bytes::copy_from_slice(record)), Ok(Event::SocketEnd(_)))
}

/// Of which process it is the end.
pub fn exit_of(record: &[u8]) -> Option<ProcessKey> {
    match decode(&Bytes::copy_from_slice(record)) {
        Ok(Event::Exit(process, _)) => Some(process),
        _ => None,
    }
}

/// A handle in the kernel side's table.
#[derive(Clone, Copy, Debug)]
pub struct Handle {
    /// Which.
    pub key: HandleKey,
    /// How far it has come.
    pub ends: Ends,
    /// A write has begun and not returned.
    pub is_writing: bool,
}

pub(super) fn handles(handles: &impl MapCore) -> impl Iterator<Item = Handle> {
    /// Entries that one system call brings.
    const BATCH: u32 = 1024;
    let entries = handles.lookup_batch(BATCH, MapFlags::ANY, MapFlags::ANY).into_iter().flatten();
    entries.filter_map(|(key, value)| {
        let key: types::handle_key = from_bytes(&key)?;
        let handle: types::handle = from_bytes(&value)?;
        let process = ProcessKey { pid: key.tgid, generation: handle.process };
        Some(Handle {
            key: HandleKey { process, address: key.address, generation: handle.generation },
            ends: Ends { read: handle.read_end, write: handle.write_end },
            is_writing: handle.inflight != 0,
        })
    })
}
