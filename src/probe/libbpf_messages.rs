//! Messages of libbpf while the kernel side is loaded. If something else works they do not matter, so they are
//! kept, and shown only if nothing works.

use std::sync::{Mutex, MutexGuard};

use libbpf_rs::{PrintLevel, set_print};

/// Bytes that are kept, the last.
const KEPT: usize = 16 << 10;

static HEARD: Mutex<String> = Mutex::new(String::new());

/// Begins to listen, or makes libbpf say nothing.
pub(super) fn listen(wanted: bool) {
    heard().clear();
    set_print(wanted.then_some((PrintLevel::Warn, |_, text| keep(&mut heard(), &text))));
}

/// Ends it; returns the messages.
pub(super) fn end() -> String {
    set_print(None);
    std::mem::take(&mut *heard())
}

fn heard() -> MutexGuard<'static, String> {
    // Whoever panicked has left a text that is whole.
    HEARD.lock().unwrap_or_else(|e| e.into_inner())
}

fn keep(kept: &mut String, text: &str) {
    kept.push_str(text);
    let mut excess = kept.len().saturating_sub(KEPT);
    while !kept.is_char_boundary(excess) {
        excess += 1;
    }
    kept.drain(..excess);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_kept() {
        let mut kept = String::new();
        (0..20_000).for_each(|_| keep(&mut kept, "ä"));
        keep(&mut kept, "the end\n");
        assert!(kept.len() <= KEPT && kept.len() > KEPT - 4, "{}", kept.len());
        assert!(kept.starts_with('ä') && kept.ends_with("äthe end\n"));
    }
}
