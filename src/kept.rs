//! Whether the output files keep what was written to them, and what the user is told if they do not.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::failure::{Exit, Failure};
use crate::printable;
use crate::sink::{Fate, Whereabouts};
use crate::status::{self, Cut, Numbers};

/// Time between two checks of the files while a capture runs.
const INTERVAL: Duration = Duration::from_millis(500);

/// The capture file and the recording, those of them that are regular files.
#[derive(Debug)]
pub(crate) struct Kept {
    file: Option<Whereabouts>,
    recording: Option<Whereabouts>,
    /// Files that were reported as deleted.
    told: Vec<PathBuf>,
    looked: Instant,
}

impl Kept {
    pub(crate) fn new(file: Option<Whereabouts>, recording: Option<Whereabouts>) -> Kept {
        Kept { file, recording, told: Vec::new(), looked: Instant::now() }
    }

    /// To be called periodically: warnings about deleted files while their contents can still be copied.
    pub(crate) fn look(&mut self) -> Vec<String> {
        if self.looked.elapsed() < INTERVAL {
            return Vec::new();
        }
        self.looked = Instant::now();
        let mut warnings = Vec::new();
        for place in [&self.file, &self.recording].into_iter().flatten() {
            let path = place.path();
            if place.name_fate() == Fate::Deleted && !self.told.iter().any(|told| told == path) {
                self.told.push(path.to_owned());
                warnings.push(format!(
                    "{} was deleted; while the capture runs, its contents can be copied from {}",
                    path.display(),
                    place.descriptor()
                ));
            }
        }
        warnings
    }

    /// The end: prints the summary, if `wanted`, and why a file does not contain what it should. `named`: the
    /// capture file as the user named it.
    pub(crate) fn summarise(
        &self,
        numbers: &Numbers,
        duration: Duration,
        named: Option<&Path>,
        wanted: bool,
    ) -> Result<(), Failure> {
        let mut numbers = numbers.clone();
        let fate = self.file.as_ref().map(Whereabouts::fate);
        let (mut path, mut note) = (named.map(Path::to_owned), None);
        match fate {
            Some(Fate::Deleted) => {
                numbers.cut_short = Some(Cut::Deleted);
                path = None;
            }
            // Writing fails on such a file, but what was written before is not all there either.
            Some(Fate::Changed) => numbers.cut_short = Some(Cut::Changed),
            Some(Fate::Renamed(now)) => {
                note =
                    named.map(|named| format!("note: {} was renamed during the capture\n", named.display()));
                path = Some(now);
            }
            Some(Fate::Kept) | None => {}
        }
        if wanted {
            printable::say(&note.unwrap_or_default());
            printable::say(&status::summary(&numbers, duration, path.as_deref()));
        }
        let failures = [&self.file, &self.recording].into_iter().flatten();
        failures.filter_map(|place| failure(place.path(), &place.fate())).next().map_or(Ok(()), Err)
    }
}

fn failure(path: &Path, fate: &Fate) -> Option<Failure> {
    let (message, cure) = match fate {
        Fate::Kept | Fate::Renamed(_) => return None,
        Fate::Deleted => (
            "was deleted before it was complete: everything written to it is lost",
            "leave the file in place until the capture ends",
        ),
        Fate::Changed => (
            "was changed by another program during the capture: it no longer contains what was written to it",
            "make sure that no other program writes to it or truncates it",
        ),
    };
    Some(Failure::new(Exit::Io, format!("{}: {message}", path.display()), cure))
}
