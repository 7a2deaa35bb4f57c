//! What was found in processes and files is probed, and what cannot be is reported.

use std::io;
use std::time::Instant;

use super::{Control, Look, Looked, Sight};
use crate::discover::process;
use crate::discover::{Bio, Found, InProcess};
use crate::event::{Event, FileSeen, NoSocket, ProcessKey, Verdict};
use crate::failure::{Exit, Failure};
use crate::printable;
use crate::probe::{Attachment, Unfollowed, described, is_denied};

impl Control {
    /// Probes a library, of a command in this process. Functions that are not followed are reported.
    pub(in crate::capture) fn attach(
        &mut self,
        found: &Found,
        process: Option<u32>,
    ) -> Result<Attachment, Failure> {
        let libraries = self.probe.new_libraries(found);
        for library in &libraries {
            self.tell(Event::Library(library.clone()));
        }
        if let Some(library) = libraries.first().filter(|_| found.library.has_to_prove_itself()) {
            self.tell(Event::Verdict(library.id, Verdict::Pending));
        }
        match self.probe.attach(found, process) {
            Ok(Attachment::Fresh(unclear)) => {
                let symbols = &found.library.named_by;
                for library in &libraries {
                    self.say.detail(&format!(
                        "probed: {} ({}){symbols}",
                        printable::line(&library.path),
                        library.version
                    ));
                }
                if !libraries.is_empty() {
                    if self.say.is_verbose() {
                        described(found).iter().for_each(|line| self.say.detail(line));
                    }
                    self.tell_unfollowed(unclear);
                }
                Ok(Attachment::Fresh(Vec::new()))
            }
            // If the process has exited, its number is free for the next library.
            Ok(attachment) => Ok(attachment),
            Err(error) => {
                let denied = is_denied(&error);
                Err(Failure::new(
                    if denied { Exit::NotPermitted } else { Exit::Kernel },
                    format!("{}: probes cannot be attached: {error:#}", printable::path(&found.path)),
                    if denied { "run it with sudo" } else { "" },
                ))
            }
        }
    }

    pub(in crate::capture) fn target(&mut self, pid: u32) -> Result<(), Failure> {
        self.probe.add_target(pid, self.waits.target()).map_err(|error| {
            Failure::new(Exit::Kernel, format!("process {pid} cannot be made a target: {error}"), "")
        })?;
        // Nobody would hear of an end that came before.
        if process::is_gone(pid) {
            self.probe.remove_target(pid);
        }
        Ok(())
    }

    /// A process that is already running may have connections whose socket only their records reveal.
    pub(in crate::capture) fn watch(&mut self, pid: u32, bios: io::Result<Vec<Bio>>) {
        let result = bios.map_err(|e| e.to_string());
        let result = result.and_then(|bios| self.probe.watch_bio(pid, &bios).map_err(|e| format!("{e:#}")));
        if let Err(error) = result {
            self.say.detail(&format!("process {pid}: its BIO functions cannot be probed: {error}"));
        }
    }

    pub(super) fn looked(&mut self, looked: Looked) {
        match (self.looker.over(), looked.sight) {
            (Some(Look::File(file)), Sight::Libraries(found)) => {
                self.mind_coroutines(looked.has_seen_switcher);
                self.found_in(&file, found);
            }
            (Some(Look::Process(pid)), Sight::Libraries(Ok(in_process))) => {
                for found in &in_process.found {
                    match self.attach(found, Some(pid)) {
                        Ok(attached) => {
                            self.not_captured.library(&found.path, matches!(attached, Attachment::Fresh(_)));
                            self.probe.mark_probed_ahead(pid, found);
                        }
                        Err(_) if process::is_gone(pid) => {}
                        Err(failure) => self.say.warn(&failure.to_string()),
                    }
                }
            }
            (Some(Look::Bios(seen)), Sight::Bios(bios)) => self.probe_bio(&seen, bios),
            (Some(look @ Look::Stacks(seen)), Sight::Found(found)) => {
                self.follow_stacks(seen.process, &found);
                self.let_go_after(&look);
            }
            _ => {}
        }
    }

    /// A process has mapped a file for the first time: it may be a TLS library.
    pub(super) fn found_in(&mut self, file: &FileSeen, looked: io::Result<InProcess>) {
        // A process that is gone or has unmapped the file has nothing to probe, but who maps it next has.
        // Outside of this process's pid namespace (pid 0) none can ever be looked at.
        if file.pid != 0 && looked.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            if self.recheck.count(file, Instant::now()) {
                self.probe.mark_resting(file);
            }
            self.not_looked_at(file);
            return;
        }
        // One whose mappings are hidden has no library to probe either. Late: something was not probed when the file was
        // mapped.
        let (mut is_library, mut is_late) = (false, false);
        if let Ok(in_process) = looked {
            for found in &in_process.found {
                let is_it = found.mapped.is_some_and(|(_, inode)| inode == file.inode);
                let attached = match self.attach(found, Some(file.pid)) {
                    // Who has ended needs none, and others do.
                    Err(_) if self.probe.has_holders() && process::is_gone(file.pid) => Ok(Attachment::Gone),
                    attached => attached,
                };
                match attached {
                    Ok(attached) => {
                        let is_fresh = matches!(attached, Attachment::Fresh(_));
                        is_library |= is_it;
                        is_late |= is_fresh || is_it && attached == Attachment::Gone;
                        self.not_captured.library(&found.path, is_fresh && !file.stopped);
                        if is_it && attached == Attachment::Known {
                            self.probe.note_heir();
                        }
                        if is_it && attached != Attachment::Gone {
                            self.probe.mark_probed_in(file);
                            self.probe.note_user(found, file);
                        }
                    }
                    Err(failure) => {
                        self.not_captured.not_attached(file.pid, &found.path);
                        self.say.warn(&failure.to_string());
                    }
                }
            }
            in_process.plain.iter().for_each(|file| self.probe.mark_plain(file));
            for (path, why) in &in_process.unprobed {
                self.not_captured.unprobed(file.pid, path, why);
            }
            if let Some(process) = self.probe.with_stacks(file.pid) {
                self.follow_stacks(process, &in_process.found);
            }
            for (path, error) in &in_process.unreadable {
                self.say.detail(&format!("{}: not inspected: {error}", printable::path(path)));
            }
        }
        if is_late {
            self.check_in_time(file);
        }
        self.probe.mark_seen(file, is_library);
        if file.stopped && !is_library {
            // It may be about to remove what ended processes of the command have left.
            self.probe.let_go();
            self.probe.await_unmountable();
        }
        self.let_go_after(&Look::File(*file));
    }

    /// A process opens a probed file for writing, and waits until its probes are removed.
    pub(super) fn yield_files(&mut self) {
        for path in self.probe.yield_files() {
            self.say.warn(&format!(
                "{}: it is opened for writing, so its probes are removed: programs that run it are no longer captured. \
                 Those that are started later are",
                printable::path(&path)
            ));
        }
    }

    /// A process encrypts into memory: its records reveal which sockets they pass through.
    pub(super) fn probe_bio(&mut self, seen: &NoSocket, bios: io::Result<Vec<Bio>>) {
        let pid = seen.process.pid;
        let result = bios.map_err(|e| e.to_string()).and_then(|bios| {
            let paths: Vec<_> = bios.iter().map(|bio| printable::path(&bio.path)).collect();
            self.probe.attach_bio(seen.process, &bios).map_err(|e| format!("{e:#}"))?;
            Ok(paths.join(", "))
        });
        // They may go and come again.
        let is_news = self.told_of_bios.insert(seen.process);
        match result {
            Ok(_) if !is_news => {}
            Ok(paths) if paths.is_empty() => self.say.detail(&format!(
                "process {pid} encrypts into memory, and its library has no BIO functions to probe"
            )),
            Ok(paths) => self
                .say
                .detail(&format!("process {pid} encrypts into memory: probed the BIO functions of {paths}")),
            Err(error) => self.say.detail(&format!(
                "process {pid} encrypts into memory; its BIO functions cannot be probed: {error}"
            )),
        }
        self.let_go_after(&Look::Bios(*seen));
    }

    /// A process makes TLS calls on stacks of coroutines, where return probes do harm or none are.
    pub(super) fn follow_stacks(&mut self, process: ProcessKey, found: &[Found]) {
        let pid = process.pid;
        match self.probe.follow_stacks(process, found) {
            Ok(unclear) => {
                self.say.detail(&format!("process {pid} has coroutines: probed the returns of its TLS library"));
                self.tell_unfollowed(unclear);
            }
            Err(error) => self.say.warn(&format!(
                "process {pid} has coroutines; their TLS calls are not captured: probes cannot be attached: {error:#}"
            )),
        }
    }

    pub(super) fn tell_unfollowed(&self, functions: Vec<Unfollowed>) {
        for Unfollowed { function, path, why, moves_data } in functions {
            if moves_data {
                self.say.warn(&format!(
                    "{function} of {path}: its calls are not captured, because its returns were not found: {why} \
                     (--return-probes captures them)"
                ));
            } else {
                self.say.detail(&format!("{function} of {path}: its return is not seen: {why}"));
            }
        }
    }

    /// Takes return probes away if there are programs that these would harm.
    pub(in crate::capture) fn mind_coroutines(&mut self, has_seen_switcher: bool) {
        if !has_seen_switcher {
            return;
        }
        match self.probe.avoid_return_probes() {
            Ok(unclear) => self.tell_unfollowed(unclear),
            Err(error) => self.say.warn(&format!("calls of coroutines are not captured: {error:#}")),
        }
    }

    /// A process ran on although it is unknown whether it has mapped a TLS library.
    pub(super) fn not_looked_at(&mut self, file: &FileSeen) {
        self.check_in_time(file);
        self.resume(file);
    }

    /// Whether a process was held before it ran on with a file that it has mapped. If not, that is counted.
    pub(super) fn check_in_time(&mut self, file: &FileSeen) {
        if let Err(why) = self.waits.in_time(Look::File(*file).held()) {
            self.say.detail(&format!("process {} was not held at a file that it mapped: {why}", file.pid));
            self.probe.note_unheld(file.pid);
        }
    }
}
