//! What is captured, shown while it goes on: by the blocks that go to the file, so that both say the same.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use super::flows::{Plan, Viewer};
use super::{limits, view};
use crate::config::Show;
use crate::input::container::{PACKET, Section};
use crate::privilege;
use crate::sink::each_block;

/// Bytes that may wait to be shown. Beyond, packets are left out of the view if they are in a file too, and else waited for.
const BEHIND_MAX: usize = 32 << 20;

/// Shows blocks in a thread of its own.
pub struct LiveView {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// There is nothing else that the capture goes to.
    is_alone: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<Backlog>,
    changed: Condvar,
}

#[derive(Default)]
struct Backlog {
    waiting: VecDeque<Vec<u8>>,
    /// Bytes of these, and of what is being shown.
    behind: usize,
    has_ended: bool,
    /// Nothing can be shown any more.
    is_gone: bool,
    failed: Option<io::Error>,
    left_out: u64,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, Backlog> {
        self.state.lock().unwrap_or_else(|error| error.into_inner())
    }
}

/// What became of a view, for whoever tells the user.
#[derive(Clone)]
pub struct Shown(Arc<Shared>);

impl Shown {
    /// Packets that were not shown because whoever reads was too slow; they are in the file.
    pub fn left_out(&self) -> u64 {
        self.0.state().left_out
    }

    /// Why it could not be written, once; that nobody reads any more is no reason.
    pub fn failed(&self) -> Option<io::Error> {
        self.0.state().failed.take().filter(|error| error.kind() != io::ErrorKind::BrokenPipe)
    }
}

impl LiveView {
    /// Begins to show on standard output. `is_alone`: the capture goes nowhere else.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn begin(show: Show, is_alone: bool) -> io::Result<LiveView> {
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("view".into()).spawn(move || run(show, &own))?;
        Ok(LiveView { shared, thread: Some(thread), is_alone })
    }

    /// What becomes of it.
    pub fn shown(&self) -> Shown {
        Shown(Arc::clone(&self.shared))
    }

    /// Passes whole blocks on.
    ///
    /// # Errors
    /// If they cannot be shown, and there is nothing else to write to.
    pub fn blocks(&self, blocks: &[u8]) -> io::Result<()> {
        let mut state = self.shared.state();
        if self.is_alone {
            let is_full = |state: &mut Backlog| state.behind > BEHIND_MAX && !state.is_gone;
            let waited = self.shared.changed.wait_while(state, is_full);
            state = waited.unwrap_or_else(|error| error.into_inner());
        }
        if state.is_gone {
            let error = state.failed.take().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into());
            return if self.is_alone { Err(error) } else { Ok(()) };
        }
        let kept = if state.behind > BEHIND_MAX {
            // Of interfaces the view needs all.
            let is_packet = |block: &(u32, &[u8])| block.0 == PACKET;
            state.left_out += each_block(blocks).filter(is_packet).count() as u64;
            each_block(blocks)
                .filter(|block| !is_packet(block))
                .flat_map(|(_, block)| block.to_vec())
                .collect()
        } else {
            blocks.to_vec()
        };
        if !kept.is_empty() {
            state.behind += kept.len();
            state.waiting.push_back(kept);
            self.shared.changed.notify_all();
        }
        Ok(())
    }
}

impl Drop for LiveView {
    /// Waits until all is shown.
    fn drop(&mut self) {
        self.shared.state().has_ended = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

fn run(show: Show, shared: &Shared) {
    privilege::lower();
    let limits = limits(show.format, show.body);
    let plan = Plan { filter: None, leaves_unknown: false, limits };
    let mut viewer = Viewer::new(plan, view(show.format, false), Box::new(io::stdout()));
    let mut section = Section::default();
    loop {
        let is_idle = |state: &mut Backlog| state.waiting.is_empty() && !state.has_ended;
        let waited = shared.changed.wait_while(shared.state(), is_idle);
        let Some(blocks) = waited.unwrap_or_else(|error| error.into_inner()).waiting.pop_front() else {
            break;
        };
        for (_, block) in each_block(&blocks) {
            // What this program writes is valid.
            if let Ok(item) = section.own(block.to_vec()) {
                viewer.block(&item, false, section.is_big());
            }
        }
        viewer.write();
        let failed = viewer.failed();
        let mut state = shared.state();
        state.behind -= blocks.len();
        state.is_gone = failed.is_some();
        state.failed = failed;
        shared.changed.notify_all();
        if state.is_gone {
            return;
        }
    }
    viewer.finish();
    shared.state().failed = viewer.failed();
}
