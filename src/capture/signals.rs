//! Signals that end a capture, or ask how it is going.
//!
//! One wish to stop often arrives as several signals: `timeout` signals its child and then the whole process
//! group, sudo relays what the terminal has sent already, and a closing terminal sends SIGHUP beside SIGTERM. So
//! what comes within a moment is one request. Only a later signal hastens the end.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use signal_hook::consts::{SIGHUP, SIGINT, SIGIO, SIGTERM, SIGUSR1};
use signal_hook::low_level::emulate_default_handler;

use super::queue::Queue;
use super::threads::Message;
use crate::failure::{Exit, Failure};
use crate::limits;
use crate::printable;

/// Signals that are not further apart are one request.
pub(super) const MOMENT: Duration = Duration::from_secs(1);

/// How far the capture has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing is captured yet.
    SetUp,
    Running,
    /// What was captured is being written.
    Ending(Instant),
    /// All is written, and the summary is printed.
    Written(Instant),
}

/// What a signal does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// It belongs to an earlier one.
    Nothing,
    /// The control thread acts on it.
    Passed,
    /// What is not written yet is dropped.
    Hastens,
    /// The program ends immediately.
    Ends,
}

#[derive(Debug)]
struct Progress {
    phase: Phase,
    /// When each signal was passed on last.
    passed: [Option<Instant>; SIGNALS.len()],
    /// The signal that hastened the end, and when.
    hastened: Option<(i32, Instant)>,
}

const SIGNALS: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

impl Progress {
    const NEW: Progress = Progress { phase: Phase::SetUp, passed: [None; SIGNALS.len()], hastened: None };

    /// `signal` came at `now`.
    fn hear(&mut self, signal: i32, now: Instant) -> Effect {
        let Some(own) = SIGNALS.iter().position(|s| *s == signal) else { return Effect::Nothing };
        let is_recent = |at: Instant| now.saturating_duration_since(at) < MOMENT;
        let is_repeated = self.passed.iter().flatten().any(|at| is_recent(*at));
        match self.phase {
            Phase::SetUp if self.was_asked() => {
                if is_repeated {
                    Effect::Nothing
                } else {
                    Effect::Ends
                }
            }
            Phase::SetUp | Phase::Running => {
                // A command may treat different signals differently: it gets each of them.
                if self.passed[own].is_some_and(is_recent) {
                    return Effect::Nothing;
                }
                self.passed[own] = Some(now);
                Effect::Passed
            }
            // It may have been meant for the capture that ran.
            Phase::Ending(since) | Phase::Written(since) if is_recent(since) || is_repeated => {
                Effect::Nothing
            }
            Phase::Ending(_) => {
                if self.hastened.is_some() {
                    return Effect::Ends;
                }
                self.hastened = Some((signal, now));
                self.passed[own] = Some(now);
                Effect::Hastens
            }
            Phase::Written(_) => Effect::Ends,
        }
    }

    fn was_asked(&self) -> bool {
        self.passed.iter().any(Option::is_some)
    }
}

/// The thread that hears signals, and what it has heard.
#[derive(Clone, Debug)]
pub(super) struct Signals(Arc<Mutex<Progress>>);

impl Signals {
    /// From now on signals end the capture in an orderly way. `quietly`: skipping the end is not reported.
    pub(super) fn listen(
        messages: Sender<Message>,
        queue: Arc<Queue>,
        quietly: bool,
    ) -> Result<Signals, Failure> {
        let failed = |e: io::Error| Failure::new(Exit::Io, format!("signals cannot be handled: {e}"), "");
        // nohup ignores SIGHUP, and means it. A shell ignores SIGINT for background jobs, which may be sent one on
        // purpose all the same.
        let wanted = SIGNALS.into_iter().filter(|signal| *signal != SIGHUP || !limits::is_ignored(SIGHUP));
        // Not of those: one comes when a lease is asked for, the other asks for the numbers so far.
        let wanted = wanted.chain([SIGIO, SIGUSR1]);
        let mut incoming = signal_hook::iterator::Signals::new(wanted).map_err(failed)?;
        let signals = Signals(Arc::new(Mutex::new(Progress::NEW)));
        let heard = signals.clone();
        thread::spawn(move || {
            for signal in incoming.forever() {
                let beside = match signal {
                    SIGIO => Some(Message::FileWanted),
                    SIGUSR1 => Some(Message::NumbersWanted),
                    _ => None,
                };
                if let Some(message) = beside {
                    let _ = messages.send(message);
                    continue;
                }
                let effect = heard.state().hear(signal, Instant::now());
                match effect {
                    Effect::Nothing => {}
                    Effect::Passed => drop(messages.send(Message::Signal(signal))),
                    Effect::Hastens => {
                        let bytes = queue.give_up();
                        if !quietly {
                            printable::say(&format!(
                                "tls2pcap: ended by a second signal: the end of the capture is not written, at least {bytes} bytes of it\n"
                            ));
                        }
                    }
                    Effect::Ends => drop(emulate_default_handler(signal)),
                }
            }
        });
        Ok(signals)
    }

    fn state(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The signal that asked for the end, if one came before the capture ran.
    pub(super) fn asked(&self) -> Option<i32> {
        let state = self.state();
        SIGNALS.into_iter().zip(state.passed).find_map(|(signal, passed)| passed.map(|_| signal))
    }

    /// The capture runs from now on.
    pub(super) fn running(&self) {
        self.state().phase = Phase::Running;
    }

    /// The capture ends from now on, which may wait for the reader of the output.
    pub(super) fn ending(&self) {
        self.state().phase = Phase::Ending(Instant::now());
    }

    /// All is written.
    pub(super) fn written(&self) {
        self.state().phase = Phase::Written(Instant::now());
    }

    /// The signal that hastened the end, and when it came.
    pub(super) fn hastened(&self) -> Option<(i32, Instant)> {
        self.state().hastened
    }

    /// Whoever hastened the end sees that the signal did it.
    pub(super) fn die_if_hastened(&self) {
        if let Some((signal, _)) = self.hastened() {
            let _ = emulate_default_handler(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Signals and phases at their times in ms, and what each signal does.
    fn story(steps: &[(u64, &str)]) -> String {
        let start = Instant::now();
        let mut state = Progress::NEW;
        let mut effects = Vec::new();
        for (ms, step) in steps {
            let now = start + Duration::from_millis(*ms);
            match *step {
                "running" => state.phase = Phase::Running,
                "ending" => state.phase = Phase::Ending(now),
                "written" => state.phase = Phase::Written(now),
                signal => {
                    let number = match signal {
                        "INT" => SIGINT,
                        "TERM" => SIGTERM,
                        _ => SIGHUP,
                    };
                    effects.push(format!("{signal} {:?}", state.hear(number, now)));
                }
            }
        }
        effects.join(", ")
    }

    #[test]
    fn what_comes_within_a_moment_is_one_request() {
        // `timeout`, before the end has begun and after it.
        for second in [0, 1, 30, 300, 999] {
            let steps = [(0, "running"), (10, "TERM"), (10 + second, "TERM")];
            assert_eq!(story(&steps), "TERM Passed, TERM Nothing", "{second}");
            let steps = [(0, "running"), (10, "TERM"), (11, "ending"), (10 + second.max(1), "TERM")];
            assert_eq!(story(&steps), "TERM Passed, TERM Nothing", "{second}");
        }
        // A closing terminal.
        let steps = [(0, "running"), (5, "HUP"), (6, "ending"), (7, "TERM"), (8, "INT")];
        assert_eq!(story(&steps), "HUP Passed, TERM Nothing, INT Nothing");
        // Ctrl-C ends the command, whose end is that of the capture, and sudo relays it.
        let steps = [(0, "running"), (500, "INT"), (1600, "ending"), (1800, "INT")];
        assert_eq!(story(&steps), "INT Passed, INT Nothing");
    }

    #[test]
    fn a_command_gets_each_signal_once_in_a_moment() {
        let steps = [(0, "running"), (1, "TERM"), (2, "HUP"), (3, "TERM"), (1002, "TERM"), (1003, "HUP")];
        assert_eq!(story(&steps), "TERM Passed, HUP Passed, TERM Nothing, TERM Passed, HUP Passed");
    }

    #[test]
    fn a_later_signal_hastens_the_end() {
        let steps = [(0, "running"), (5, "INT"), (6, "ending"), (1006, "INT"), (1007, "INT"), (2006, "TERM")];
        assert_eq!(story(&steps), "INT Passed, INT Hastens, INT Nothing, TERM Ends");
        // The capture ended without a signal: the first one is too early to mean that.
        let steps = [(0, "running"), (10, "ending"), (20, "INT"), (1010, "INT")];
        assert_eq!(story(&steps), "INT Nothing, INT Hastens");
        let steps = [(0, "running"), (5, "INT"), (6, "ending"), (9, "written"), (800, "INT"), (1010, "INT")];
        assert_eq!(story(&steps), "INT Passed, INT Nothing, INT Ends");
    }

    #[test]
    fn before_the_capture_runs_the_first_is_kept_and_a_later_one_ends_the_program() {
        let steps = [(0, "TERM"), (1, "TERM"), (2, "HUP"), (999, "INT"), (1000, "TERM")];
        assert_eq!(story(&steps), "TERM Passed, TERM Nothing, HUP Nothing, INT Nothing, TERM Ends");
    }
}
