//! The sizes of the kernel side's tables, and the entries that user space returns. See `bpf/room.bpf.h`.

use std::sync::atomic::{AtomicU32, Ordering};

use libbpf_rs::OpenMapMut;
use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::Struct;
use libbpf_rs::libbpf_sys::BPF_F_NO_PREALLOC;

use super::skeleton::OpenTls2pcapSkel;
use super::skeleton::types::{self, room as Room};

/// So many times as many entries where a table takes memory only for those that it has.
const GROWTH: u32 = 4;

/// Tells the programs the sizes of the tables that no process may fill alone. If the kernel can allocate memory
/// inside a probe (Linux 6.1) they grow as needed; otherwise all of it is allocated at the start.
pub(super) fn prepare(open: &mut OpenTls2pcapSkel<'_>) -> libbpf_rs::Result<()> {
    let grows =
        Btf::from_vmlinux().is_ok_and(|btf| btf.type_by_name::<Struct<'_>>("bpf_mem_alloc").is_some());
    let size = |map: &mut OpenMapMut<'_>| -> libbpf_rs::Result<u32> {
        if grows {
            map.set_map_flags(map.map_flags() | BPF_F_NO_PREALLOC)?;
            map.set_max_entries(map.max_entries() * GROWTH)?;
        }
        Ok(map.max_entries())
    };
    let maps = &mut open.maps;
    let sizes = [
        (Room::ROOM_HANDLES, size(&mut maps.handles)?),
        (Room::ROOM_THREADS, size(&mut maps.threads)?),
        (Room::ROOM_GOROUTINES, size(&mut maps.goroutines)?),
        (Room::ROOM_RUSTLS, size(&mut maps.rustls_calls)?),
        (Room::ROOM_SOCKETS, size(&mut maps.sockets)?),
    ];
    let knobs = maps.rodata_data.as_deref_mut().expect("the object has constants");
    for (room, size) in sizes {
        knobs.room_size[room.0 as usize] = size;
    }
    Ok(())
}

/// Counts an entry that user space has deleted of a process that has ended; `user`: its row.
pub(super) fn give_back(variables: &mut types::bss, room: Room, user: u32) {
    let room = room.0 as usize;
    let row = &mut variables.room_of_users[user as usize % variables.room_of_users.len()];
    for count in [&mut row[room], &mut variables.room_taken[room]] {
        // SAFETY: a valid, aligned place in the mapped .bss, which the kernel side changes by atomic operations only.
        unsafe { AtomicU32::from_ptr(count) }.fetch_sub(1, Ordering::Relaxed);
    }
}
