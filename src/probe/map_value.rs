//! Keys and values of the kernel side's tables, as bytes and back.

use super::skeleton::types;

/// A struct whose every byte belongs to a field: its bytes may be read.
///
/// # Safety
/// It has no padding.
pub(super) unsafe trait Unpadded: Copy {}

/// A struct of which every pattern of bytes is a value.
///
/// # Safety
/// It holds integers only.
pub(super) unsafe trait Integers: Copy {}

/// Names all fields of each struct, so that the compiler checks that nothing lies between them.
macro_rules! unpadded {
    ($($name:ident { $($field:ident),* })*) => { $(
        const _: () = {
            // SAFETY: it holds integers only.
            let types::$name { $($field),* } = unsafe { std::mem::zeroed() };
            assert!(size_of::<types::$name>() == 0 $(+ size_of_val(&$field))*);
        };
        // SAFETY: checked above.
        unsafe impl Unpadded for types::$name {}
        // SAFETY: BTF has no other scalar types in it, and an enumeration is generated as its number.
        unsafe impl Integers for types::$name {}
    )* };
}

macro_rules! integers {
    ($($name:ident)*) => { $(
        // SAFETY: as above.
        unsafe impl Integers for types::$name {}
    )* };
}

unpadded! {
    process { generation, flags, idle, user, taken, __pad_52 }
    handle_key { address, tgid, pad }
    ended_key { generation, tgid, kind }
    loss_key { process, tgid, reason }
    evidence { agreed, disagreed, pending, pad }
    seen_file { stamp, told, state, pad }
    file_key { inode, device, pad }
    held_library { inode, device, pad }
    probed_key { inode, device, tgid }
}

integers! { goroutine_key handle loss t2p_hold t2p_stack_key thread }

/// The bytes of a key or value.
pub(super) fn bytes_of<T: Unpadded>(value: &T) -> &[u8] {
    // SAFETY: all of its bytes are those of its fields.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// A key or value; `None`: these bytes are none.
pub(super) fn from_bytes<T: Integers>(bytes: &[u8]) -> Option<T> {
    // SAFETY: the length is checked, and any bytes are a value.
    (bytes.len() == size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}
