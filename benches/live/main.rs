//! What a live capture costs and what it keeps: tls2pcap, empty probes and no probes on the same
//! load in turns. docs/performance.md tells what each line means. Needs root.
//!
//! Every probe goes into a copy of libssl that only the load has mapped.

mod check;
mod floor;
mod goals;
mod load;
mod packets;
mod peers;
mod server;
mod soak;
mod table;
mod tool;

use std::cell::RefCell;
use std::error::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use crate::check::Verdict;
use crate::floor::{Floor, Place};
use crate::load::{Load, Report};
use crate::tool::{Ended, Running};

/// Errors are for people here.
type Res<T> = Result<T, Box<dyn Error>>;

/// Measures live capture on a load of its own. Needs root.
#[derive(Debug, Parser)]
#[command(name = "live", bin_name = "cargo bench --bench live --")]
struct Options {
    /// A tenth of the load, two rounds: whether all works, not how fast
    #[arg(long)]
    quick: bool,
    /// Twice the load, nine rounds
    #[arg(long, conflicts_with = "quick")]
    full: bool,
    /// Measure the other tools that are installed (sslsniff, bpftrace, friTap), not the goals
    #[arg(long)]
    peers: bool,
    /// Millions of calls in the soak [default: 1]
    #[arg(long, value_name = "MILLIONS")]
    soak: Option<f64>,
    /// Only this goal, such as G5
    #[arg(long, value_name = "GOAL")]
    only: Option<String>,
    /// Put the table into this document too, between its marks; may be repeated
    #[arg(long, value_name = "FILE")]
    write: Vec<PathBuf>,
    /// Folder for captures (up to 3 GB at a time)
    #[arg(long, value_name = "DIR", default_value = env!("CARGO_TARGET_TMPDIR"))]
    dir: PathBuf,
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// A load to be put on.
#[derive(Clone, Debug)]
struct Case {
    mode: &'static str,
    size: u64,
    messages: u64,
    more: String,
}

/// What a load is run with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum With {
    Nothing,
    Empty(Place),
    Tls2pcap,
}

/// What a run showed.
#[derive(Debug, Default)]
struct Run {
    report: Report,
    tool: Option<Ended>,
    verdict: Option<Verdict>,
}

/// Everything that is needed for runs.
struct Bench {
    work: tempfile::TempDir,
    load: Load,
    exports_only: Load,
    floor: Floor,
    rounds: usize,
    scale: f64,
    /// What each start took, in seconds.
    ready: RefCell<Vec<f64>>,
    /// What should not have been.
    wrong: RefCell<Vec<String>>,
}

impl Case {
    /// A load with `messages` of `size` bytes.
    fn new(mode: &'static str, size: u64, messages: u64) -> Case {
        Case { mode, size, messages, more: String::new() }
    }

    /// Before the messages that are timed come two seconds of others, in which the cheap sites are tried.
    fn warm(self) -> Case {
        self.with("-w 800".into())
    }

    /// With more arguments.
    fn with(self, more: String) -> Case {
        Case { more: self.more + " " + &more, ..self }
    }

    /// How many ends of a connection a capture shows: both only if no socket tells that they are one.
    fn views(&self) -> u64 {
        if self.mode == "mem" { 2 } else { 1 }
    }

    fn arguments(&self) -> String {
        format!("{} -s {} -n {} {}", self.mode, self.size, self.messages, self.more)
    }
}

impl Bench {
    fn prepare(options: &Options) -> Res<Bench> {
        fs::create_dir_all(&options.dir)?;
        let work = tempfile::tempdir_in(&options.dir)?;
        let load = Load::build(work.path())?;
        Ok(Bench {
            exports_only: load.exports_only(work.path())?,
            floor: Floor::load(work.path())?,
            load,
            work,
            rounds: if options.quick { 2 } else { [5, 9][usize::from(options.full)] },
            scale: if options.quick { 0.1 } else { [1.0, 2.0][usize::from(options.full)] },
            ready: RefCell::default(),
            wrong: RefCell::default(),
        })
    }

    /// So many messages, more or less as the user wants it.
    fn scaled(&self, messages: u64) -> u64 {
        ((messages as f64 * self.scale) as u64).max(200)
    }

    /// One run from start to end. The capture file is compared with what was sent, and removed.
    fn run(&self, load: &Load, case: &Case, with: With, more: &[&str]) -> Res<Run> {
        let waiting = load.start(&case.arguments())?;
        let sized = |report| Report { size: case.size, ..report };
        match with {
            With::Nothing => Ok(Run { report: sized(waiting.run()?), ..Default::default() }),
            With::Empty(place) => {
                let _links = self.floor.attach(place, waiting.pid(), &load.library)?;
                Ok(Run { report: sized(waiting.run()?), ..Default::default() })
            }
            With::Tls2pcap => {
                let file = self.work.path().join("capture.pcapng");
                let tool = Running::tls2pcap(self.work.path(), &file, waiting.pid(), &load.library, more)?;
                let report = sized(waiting.run()?);
                let tool = tool.end()?;
                let verdict = check::check(&file, &report, case.views())?;
                fs::remove_file(&file)?;
                self.note(case, &tool, &verdict);
                Ok(Run { report, tool: Some(tool), verdict: Some(verdict) })
            }
        }
    }

    /// Keeps what all runs are asked.
    fn note(&self, case: &Case, tool: &Ended, verdict: &Verdict) {
        self.ready.borrow_mut().push(tool.ready.as_secs_f64());
        let mut wrong = self.wrong.borrow_mut();
        wrong.extend(verdict.wrong.iter().take(3).map(|w| format!("{}: {w}", case.arguments())));
        if verdict.equal != verdict.streams && tool.lost == 0 {
            wrong.push(format!("{}: a stream is not whole, and nothing is reported lost", case.arguments()));
        }
    }
}

/// Why this cannot be measured here.
fn unable() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("probes need root: sudo, or benches/run".into());
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Some("the kernel has no BTF (/sys/kernel/btf/vmlinux)".into());
    }
    let missing = ["gcc", "clang", "ldd"].into_iter().find(|program| {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        !std::env::split_paths(&paths).any(|p| p.join(program).exists())
    });
    missing.map(|program| format!("{program} is missing: tests/setup build bench"))
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(why) = unable() {
        println!("SKIPPED live: {why}");
        return ExitCode::SUCCESS;
    }
    match measure(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("live: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures and prints; whether the captures were right.
fn measure(options: &Options) -> Res<bool> {
    let bench = Bench::prepare(options)?;
    let found = tls2pcap::discover::Discovery::default().at(&bench.load.library)?;
    let machine = table::machine(&found.version);
    eprintln!("{machine}");
    let tables = match options.peers {
        true => vec![("peers", peers::table(&bench)?)],
        false => {
            let soak = options.soak.unwrap_or(bench.scale.min(1.0));
            let rows = goals::rows(&bench, options.only.as_deref().unwrap_or(""), soak)?;
            vec![("live", table::goals(&rows))]
        }
    };
    let texts: Vec<(&str, String)> =
        tables.into_iter().map(|(name, table)| (name, format!("{machine}.\n\n{table}"))).collect();
    println!("{}", texts[0].1);
    for file in &options.write {
        table::insert(file, &texts)?;
    }
    let wrong = bench.wrong.borrow();
    wrong.iter().for_each(|w| println!("WRONG: {w}"));
    Ok(wrong.is_empty())
}

/// Creates a file in a folder.
fn create(folder: &Path, name: &str) -> Res<(PathBuf, File)> {
    let path = folder.join(name);
    let file = File::create(&path)?;
    Ok((path, file))
}
