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
same_layout!(RawSocket = t2p_socket { head, time, socket, socket_generation, error });
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

// Behind a record of the ring of notices stands its place.
const _: () = {
    assert!(size_of::<types::t2p_noted_file>() == size_of::<record::RawFile>() + size_of::<u64>());
    assert!(size_of::<types::t2p_noted_no_socket>() == size_of::<record::RawNoSocket>() + size_of::<u64>());
    assert!(size_of::<types::t2p_noted_process>() == size_of::<record::RawProcess>() + size_of::<u64>());
};

macro_rules! same_counters {
    ($($counter:ident = $c:ident),* $(,)?) => {
        const _: () = { $(assert!(record::Counter::$counter as u32 == types::t2p_counter::$c.0);)* };
    };
}

same_counters!(
    Calls = T2P_COUNT_CALLS,
    Bytes = T2P_COUNT_BYTES,
    RingFull = T2P_COUNT_RING_FULL,
    RingFullBytes = T2P_COUNT_RING_FULL_BYTES,
    Unreadable = T2P_COUNT_UNREADABLE,
    UnreadableBytes = T2P_COUNT_UNREADABLE_BYTES,
    Limit = T2P_COUNT_LIMIT,
    LimitBytes = T2P_COUNT_LIMIT_BYTES,
    Sendfile = T2P_COUNT_SENDFILE,
    SendfileBytes = T2P_COUNT_SENDFILE_BYTES,
    ThreadsFull = T2P_COUNT_THREADS_FULL,
    HandlesFull = T2P_COUNT_HANDLES_FULL,
    ProcessesFull = T2P_COUNT_PROCESSES_FULL,
    SocketsFull = T2P_COUNT_SOCKETS_FULL,
    Depth = T2P_COUNT_DEPTH,
    Unfinished = T2P_COUNT_UNFINISHED,
    FactLost = T2P_COUNT_FACT_LOST,
    Twice = T2P_COUNT_TWICE,
    Conflict = T2P_COUNT_CONFLICT,
    NotTcp = T2P_COUNT_NOT_TCP,
    Snaplen = T2P_COUNT_SNAPLEN,
    SnaplenBytes = T2P_COUNT_SNAPLEN_BYTES,
    MissedRuns = T2P_COUNT_MISSED_RUNS,
    MissedSocketRuns = T2P_COUNT_MISSED_SOCKET_RUNS,
    LossesFull = T2P_COUNT_LOSSES_FULL,
    OtherStack = T2P_COUNT_OTHER_STACK,
    NoticeLost = T2P_COUNT_NOTICE_LOST,
);
