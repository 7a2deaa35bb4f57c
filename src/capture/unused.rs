//! Regularly checks which probed files are no longer used, where all processes have the probes: those of
//! removed files keep disk space, others keep a file system busy.
//!
//! A mistake would cost a program's plaintext. So first the last known user of a file is checked. If it no
//! longer has the file, the kernel side reports from then on each process that maps it; only then are all
//! processes checked.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::threads::Message;
use crate::discover::maps::{self, Mapped};
use crate::probe::{Candidate, Probe};

/// Time between two checks.
const INTERVAL: Duration = Duration::from_secs(10);

/// The result of a check.
pub(super) enum Answer {
    /// These may be unused, and keep space or a file system busy.
    InQuestion(Vec<Candidate>),
    /// Who uses them. `None`: it cannot be known.
    Users(Vec<Candidate>, Option<HashMap<Mapped, u32>>),
}

pub(super) struct Unused {
    messages: Sender<Message>,
    since: Instant,
    is_busy: bool,
}

impl Unused {
    pub(super) fn new(messages: Sender<Message>) -> Unused {
        Unused { messages, since: Instant::now(), is_busy: false }
    }

    /// To be called now and then.
    pub(super) fn look(&mut self, probe: &Probe) {
        if self.is_busy || self.since.elapsed() < INTERVAL {
            return;
        }
        self.since = Instant::now();
        let candidates = probe.candidates();
        if !candidates.is_empty() {
            self.ask(move || Answer::InQuestion(candidates.into_iter().filter(is_in_question).collect()));
        }
    }

    pub(super) fn answered(&mut self, probe: &mut Probe, answer: Answer) {
        self.is_busy = false;
        match answer {
            Answer::InQuestion(files) if files.is_empty() => {}
            Answer::InQuestion(files) => {
                probe.watch_users(&files);
                self.ask(move || {
                    let mapped: Vec<Mapped> = files.iter().map(|file| file.mapped).collect();
                    Answer::Users(files, maps::users_of(&mapped))
                });
            }
            Answer::Users(_, None) => {}
            Answer::Users(files, Some(users)) => {
                for file in files {
                    match users.get(&file.mapped) {
                        Some(pid) => probe.note_other_user(file.id, *pid),
                        None => probe.let_file_go(file.id),
                    }
                }
            }
        }
    }

    /// Beside all else: a file system may not answer.
    fn ask(&mut self, question: impl FnOnce() -> Answer + Send + 'static) {
        let messages = self.messages.clone();
        let ask = move || drop(messages.send(Message::Unused(question())));
        self.is_busy = thread::Builder::new().name("unused".into()).spawn(ask).is_ok();
    }
}

fn is_in_question(file: &Candidate) -> bool {
    let root = std::fs::metadata("/").map_or(0, |root| root.dev());
    let is_in_the_way =
        file.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0 || metadata.dev() != root);
    is_in_the_way && !maps::has_mapped(file.pid, file.mapped).unwrap_or(false)
}
