//! Has the compiler compare the records of [`crate::event::record`] with the types that the C
//! header compiled to.

use std::mem::offset_of;

use super::skeleton::types;
use crate::event::record;

macro_rules! same_layout {
    ($raw:ident = $c:ident { $($field:ident: $c_field:ident),* $(,)? }) => {
        const _: () = {
            assert!(size_of::<record::$raw>() == size_of::<types::$c>());
            $(assert!(offset_of!(record::$raw, $field) == offset_of!(types::$c, $c_field));)*
        };
    };
    ($raw:ident = $c:ident { $($field:ident),* $(,)? }) => {
        same_layout!($raw = $c { $($field: $field),* });
    };
}

same_layout!(RawHead = t2p_head { kind: r#type, tgid: tgid, tid: tid, library: library, process: process });
same_layout!(
    RawData = t2p_data {
        head,
        handle,
        generation,
        entered,
        returned,
        call_offset,
        call_len,
        chunk_offset,
        chunk_len,
        captured,
        call_seq,
        awaits_write,
        direction,
        function,
        missing,
        tuple_source,
    }
);
same_layout!(
    RawBind = t2p_bind {
        head,
        handle,
        generation,
        time,
        socket,
        socket_generation,
        inode,
        cookie,
        netns,
        local_isn,
        remote_isn,
        fd,
        local,
        remote,
        local_port,
        remote_port,
        family,
        role,
        tuple_source,
        fresh,
        rtt,
        rtt_min,
    }
);
same_layout!(
    RawHandle = t2p_handle {
        head,
        handle,
        generation,
        time,
        read_end,
        write_end,
        other,
        other_generation,
        call_seq,
        fact,
        direction,
        text_len,
        text,
    }
);
same_layout!(RawSocket = t2p_socket { head, time, socket, socket_generation, error, before, after, flags });
same_layout!(
    RawProcess = t2p_process {
        head,
        time,
        start_time,
        cgroup,
        uid,
        gid,
        parent,
        netns,
        exe_len,
        args_len,
        comm,
        exe,
        args,
    }
);
same_layout!(RawExit = t2p_exit { head, time });
same_layout!(RawFile = t2p_file { head, time, inode, device, stopped });
same_layout!(RawNoSocket = t2p_no_socket { head, time, stopped, other_stack });

// A record of the ring of notices is followed by its place.
const _: () = {
    assert!(size_of::<types::t2p_noted_file>() == size_of::<record::RawFile>() + size_of::<u64>());
    assert!(size_of::<types::t2p_noted_no_socket>() == size_of::<record::RawNoSocket>() + size_of::<u64>());
    assert!(size_of::<types::t2p_noted_process>() == size_of::<record::RawProcess>() + size_of::<u64>());
};
