//! Wireshark's external capture interface: this program as one of its interfaces.
//!
//! Wireshark asks for the interface, its options and the processes to choose from, each with a run of
//! its own, and reads lines of `sentence {key=value}…` from standard output. A capture is then an
//! ordinary one: its options are those of the command line, under the same names (`options`). Whatever
//! stands on standard error is shown to the user as an error, so nothing else does.

mod options;
mod processes;

use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::thread;
use std::time::Duration;

use crate::companion;
use crate::config::Query;
use crate::failure::{Exit, Failure};
use crate::privilege;

/// Name of the interface: `tshark -i tls2pcap`.
pub const INTERFACE: &str = "tls2pcap";
/// What the user reads.
const DISPLAY: &str = "TLS plaintext: this host";
/// LINKTYPE_ETHERNET. What the file says counts; this is what dialogs show.
const LINK: u32 = 1;

/// How often, and how long apart, a reader of the FIFO is looked for.
const HANG_UP_TRIES: u32 = 80;
const HANG_UP_PAUSE: Duration = Duration::from_millis(10);

/// What Wireshark calls for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// An answer.
    Query(Query),
    /// A capture: the arguments that the command line has for it, the program's name first.
    Capture(Vec<OsString>),
}

/// Whether these arguments, the program's name first, are a call by Wireshark.
pub fn is_call(args: &[OsString]) -> bool {
    let ours = |arg: &&OsString| *arg != "--";
    let names = |arg: &OsString| arg == "--capture" || arg.as_encoded_bytes().starts_with(b"--extcap-");
    args.iter().skip(1).take_while(ours).any(names)
}

/// The arguments for people, without those of the command to run, which may hold secrets.
pub fn shown(args: &[OsString]) -> String {
    let inline = format!("{}=", options::COMMAND);
    let mut before = OsStr::new("");
    let mut words = Vec::new();
    for arg in args {
        let text = arg.to_string_lossy();
        words.push(match text.strip_prefix(&inline) {
            _ if before == options::COMMAND => options::program(&text),
            Some(line) => inline.clone() + &options::program(line),
            None => text.into_owned(),
        });
        before = arg;
    }
    words.join(" ")
}

/// What is called for.
///
/// # Errors
/// [`Exit::Usage`] with a sentence for the user.
pub fn parse(args: &[OsString]) -> Result<Call, Failure> {
    let call = Arguments::read(args)?;
    if let Some(name) = &call.interface
        && name != INTERFACE
    {
        return Err(usage(
            format!("there is no interface '{}'", name.display()),
            format!("the only one is {INTERFACE}"),
        ));
    }
    if !call.capture {
        return match call.query {
            Some(Query::Interfaces) => Ok(Call::Query(Query::Interfaces)),
            Some(_) if call.interface.is_none() => {
                Err(usage("--extcap-interface is missing", format!("use --extcap-interface {INTERFACE}")))
            }
            Some(query) => Ok(Call::Query(query)),
            None => {
                Err(usage("this call is incomplete", "it is made by Wireshark: choose the interface there"))
            }
        };
    }
    if call.interface.is_none() {
        return Err(usage("--extcap-interface is missing", format!("use --extcap-interface {INTERFACE}")));
    }
    if let Some(Query::Filter(filter)) = &call.query
        && let Some(sentence) = objection(filter)
    {
        return Err(usage(sentence, ""));
    }
    let Some(fifo) = call.fifo.filter(|path| !path.is_empty()) else {
        return Err(usage("--fifo is missing", "name the FIFO to write to"));
    };
    let names_whom = |word: &OsString| ["--pid", "--uid", "--all"].iter().any(|name| word == name);
    if call.command.is_empty() && !call.options.iter().any(names_whom) {
        // Wireshark keeps what was chosen by profile, and has nothing for one that it has just changed to.
        return Err(usage(
            "nothing is selected to capture",
            "open the interface's options and choose a process, a command, a user, or every program (Wireshark remembers the choice separately for each profile)",
        ));
    }
    let program = args.first().cloned().unwrap_or_default();
    let words = |name: &str| OsString::from(name);
    let mut line = vec![program, words("--quiet"), words("--output"), fifo];
    line.extend(call.options);
    if !call.command.is_empty() {
        line.push(words("--"));
        line.extend(call.command);
    }
    Ok(Call::Capture(line))
}

/// A call taken apart.
#[derive(Default)]
struct Arguments {
    capture: bool,
    query: Option<Query>,
    interface: Option<OsString>,
    fifo: Option<OsString>,
    /// Those of the command line.
    options: Vec<OsString>,
    command: Vec<OsString>,
}

impl Arguments {
    fn read(args: &[OsString]) -> Result<Arguments, Failure> {
        let mut call = Arguments::default();
        let mut rest = args.iter().skip(1);
        while let Some(arg) = rest.next() {
            let (name, mut inline) = split(arg);
            let mut value = || {
                let value = inline.take().or_else(|| rest.next().cloned());
                value.ok_or_else(|| usage(format!("{} has no value", name.display()), ""))
            };
            let text = |value: OsString| value.to_string_lossy().into_owned();
            match name.to_str() {
                Some("--extcap-interfaces") => call.ask(Query::Interfaces),
                Some("--extcap-dlts") => call.ask(Query::Links),
                Some("--extcap-config") => call.ask(Query::Options),
                Some("--extcap-reload-option") => call.query = Some(Query::Reload(text(value()?))),
                Some("--extcap-capture-filter") => call.ask(Query::Filter(text(value()?))),
                Some("--extcap-interface") => call.interface = Some(value()?),
                // All releases speak one language so far.
                Some("--extcap-version") => drop(value()?),
                // For toolbars, which this interface has none of.
                Some("--extcap-control-in" | "--extcap-control-out") => drop(value()?),
                Some("--capture") => call.capture = true,
                Some("--fifo") => call.fifo = Some(value()?),
                Some(options::COMMAND) => call.command = options::words(&text(value()?))?,
                known => match known.and_then(options::find) {
                    Some(option) if option.is_flag() => call.options.push(name),
                    // What was left empty was not chosen.
                    Some(_) => match value()? {
                        value if value.is_empty() => {}
                        value => call.options.extend([name, value]),
                    },
                    None => {
                        return Err(usage(
                            format!("'{}' is not an option of this interface", name.display()),
                            "open its options in Wireshark and save them again",
                        ));
                    }
                },
            }
        }
        Ok(call)
    }

    /// `--extcap-config --extcap-reload-option X` asks for the second.
    fn ask(&mut self, query: Query) {
        if !matches!(self.query, Some(Query::Reload(_))) {
            self.query = Some(query);
        }
    }
}

/// After a capture that failed: Wireshark opens the FIFO to read, and would wait for its writer for ever
/// instead of telling the user what was said on standard error.
pub fn hang_up(args: &[OsString]) {
    if !is_call(args) {
        return;
    }
    privilege::lower();
    let fifo = args.iter().position(|arg| arg == "--fifo").and_then(|at| args.get(at + 1));
    let Some(fifo) = fifo.filter(|path| fs::metadata(path).is_ok_and(|m| m.file_type().is_fifo())) else {
        return;
    };
    for _ in 0..HANG_UP_TRIES {
        // Opens only if there is a reader.
        match OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(fifo) {
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => thread::sleep(HANG_UP_PAUSE),
            _ => return,
        }
    }
}

/// `--name=value` in its parts.
fn split(arg: &OsStr) -> (OsString, Option<OsString>) {
    match arg.to_str().and_then(|arg| arg.strip_prefix("--")?.split_once('=')) {
        Some((name, value)) => (format!("--{name}").into(), Some(value.into())),
        None => (arg.to_owned(), None),
    }
}

/// Why a capture filter cannot be honoured.
fn objection(filter: &str) -> Option<&'static str> {
    (!filter.trim().is_empty()).then_some(
        "TLS plaintext has no capture filter, because it is not captured from packets: choose a process, user or command in the interface's options, and narrow down what is shown with a display filter",
    )
}

/// Answers on standard output.
///
/// # Errors
/// [`Exit::Usage`] for an option that has nothing to choose from.
pub fn answer(query: &Query) -> Result<Exit, Failure> {
    let text = match query {
        Query::Interfaces => format!(
            "extcap {{version={}}}{}{{display=tls2pcap}}\ninterface {{value={INTERFACE}}}{{display={DISPLAY}}}\n",
            env!("CARGO_PKG_VERSION"),
            companion::help_page()
                .map(|page| format!("{{help=file://{}}}", page.display()))
                .unwrap_or_default(),
        ),
        Query::Links => {
            format!("dlt {{number={LINK}}}{{name=EN10MB}}{{display=TCP/IP with the plaintext of TLS}}\n")
        }
        Query::Options => options::sentences(),
        Query::Reload(name) => options::reload(name.trim_start_matches('-'))?,
        Query::Filter(filter) => objection(filter).map(|text| format!("{text}\n")).unwrap_or_default(),
    };
    // Nobody is left to tell that standard output is closed.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(Exit::Success)
}

fn usage(message: impl Into<String>, cure: impl Into<String>) -> Failure {
    Failure::new(Exit::Usage, message, cure)
}

#[cfg(test)]
mod tests;
