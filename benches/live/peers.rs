//! Other tools on the same load, as their packages install them.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tls2pcap::discover::Discovery;
use tls2pcap::discover::function::Function;

use crate::load::Load;
use crate::table::{Samples, percent};
use crate::tool::Running;
use crate::{Bench, Case, Res, With};

/// Another tool.
pub struct Peer {
    name: &'static str,
    /// Names of the program, in the order in which they are tried.
    programs: &'static [&'static str],
    /// Adds arguments: process, library, file for its output.
    arguments: fn(&mut Command, u32, &Path, &Path),
    /// Writes to the file itself, and not to standard output.
    writes: bool,
    /// Longer messages stand in several pieces in what it writes, which `count` does not join.
    longest: u64,
}

/// What it showed.
pub struct Shown {
    /// Processor time of the load and of the tool, in µs.
    pub load_cpu: f64,
    pub cpu: f64,
    /// Messages of which it shows at least the beginning, at either end.
    pub events: u64,
    /// Messages that it shows whole.
    pub whole: u64,
}

/// Of bcc.
pub const SSLSNIFF: Peer = Peer {
    name: "sslsniff",
    programs: &["sslsniff-bpfcc", "sslsniff"],
    arguments: |command, pid, library, _| {
        command.args(["-p", &pid.to_string(), "--no-openssl", "--no-gnutls", "--no-nss"]);
        command.args(["--max-buffer-size", "16384"]);
        command.arg("--extra-lib").arg(format!("openssl:{}", library.display()));
    },
    writes: false,
    longest: u64::MAX,
};

const BPFTRACE: Peer = Peer {
    name: "bpftrace (200 B of payload)",
    programs: &["bpftrace"],
    arguments: |command, pid, library, _| {
        let library = library.display();
        command.env("BPFTRACE_STRLEN", "200").args(["-q", "-p", &pid.to_string(), "-e"]).arg(format!(
            "uprobe:{library}:SSL_write {{ printf(\"%s\\n\", str(arg1, arg2)); }} \
             uprobe:{library}:SSL_read {{ @buf[tid] = arg1; }} \
             uretprobe:{library}:SSL_read /@buf[tid]/ {{ printf(\"%s\\n\", str(@buf[tid], retval)); delete(@buf[tid]); }}"
        ));
    },
    writes: false,
    longest: u64::MAX,
};

const FRITAP: Peer = Peer {
    name: "friTap",
    programs: &["fritap", "friTap"],
    arguments: |command, pid, _, file| {
        command.arg("-p").arg(file).arg(pid.to_string());
    },
    writes: true,
    longest: 16_384,
};

/// How long a tool may take until its probes are there.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it is then left alone: its reader may start after its probes.
const SETTLE: Duration = Duration::from_secs(1);

/// Runs a load with a tool; `None` if that is not installed, or does not run here.
pub fn run(bench: &Bench, peer: &Peer, case: &Case) -> Res<Option<Shown>> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let mut places = peer.programs.iter().flat_map(|p| std::env::split_paths(&paths).map(move |d| d.join(p)));
    let Some(program) = places.find(|p| p.exists()) else { return Ok(None) };
    let waiting = bench.load.start(&case.arguments())?;
    let code = Code::of(waiting.pid(), &bench.load)?;
    let output = bench.work.path().join("peer.out");
    let (errors, said) = crate::create(bench.work.path(), "peer.err")?;
    fs::remove_file(&output).ok();
    let mut command = Command::new(program);
    (peer.arguments)(&mut command, waiting.pid(), &bench.load.library, &output);
    let stdout = if peer.writes { said.try_clone()? } else { File::create(&output)? };
    let began = Instant::now();
    let mut child =
        command.current_dir(bench.work.path()).stdin(Stdio::null()).stdout(stdout).stderr(said).spawn()?;
    while !code.is_changed()? {
        if child.try_wait()?.is_some() || began.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            let text = fs::read_to_string(&errors)?;
            eprintln!(
                "{} does not run here: {}",
                peer.name,
                text.lines().last().unwrap_or("it says nothing")
            );
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(5));
    }
    thread::sleep(SETTLE);
    let tool = Running::other(child, &errors, began.elapsed());
    let report = waiting.run()?;
    // Tools that are behind are given the time to show what they have.
    let mut shown = u64::MAX;
    while fs::metadata(&output).map_or(0, |m| m.len()) != shown {
        shown = fs::metadata(&output).map_or(0, |m| m.len());
        thread::sleep(SETTLE);
    }
    let ended = tool.end()?;
    let bytes = fs::read(&output).unwrap_or_default();
    fs::remove_file(&output).ok();
    let (events, whole) = count(&bytes, case);
    Ok(Some(Shown { load_cpu: report.cpu(), cpu: ended.cpu, events, whole }))
}

/// Heads of messages, and how many different messages there are from head to tail.
fn count(bytes: &[u8], case: &Case) -> (u64, u64) {
    let mut events = 0;
    let mut whole = vec![false; case.messages as usize];
    for at in memchr::memchr_iter(b'<', bytes) {
        let Some(number) = stamp(bytes, at, b'<', b'>') else { continue };
        events += 1;
        if stamp(bytes, at + case.size as usize - 16, b'[', b']') == Some(number)
            && let Some(seen) = whole.get_mut(number as usize)
        {
            *seen = true;
        }
    }
    (events, whole.iter().filter(|w| **w).count() as u64)
}

fn stamp(bytes: &[u8], at: usize, open: u8, close: u8) -> Option<u64> {
    let [first, digits @ .., last] = bytes.get(at..at + 16)? else { return None };
    let digits = std::str::from_utf8(digits).ok().filter(|_| *first == open && *last == close)?;
    u64::from_str_radix(digits, 16).ok()
}

/// The first bytes of SSL_read and SSL_write in a process: whoever probes or hooks changes them.
struct Code {
    memory: PathBuf,
    addresses: [u64; 2],
    before: [[u8; 16]; 2],
}

impl Code {
    fn of(pid: u32, load: &Load) -> Res<Code> {
        let offsets = Discovery::default().at(&load.library)?.library.offsets.clone();
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let address = |function| {
            let wanted = offsets.get(function)?;
            maps.lines().filter(|l| l.ends_with(load.library.to_str().unwrap_or_default())).find_map(|line| {
                let mut words = line.split_whitespace();
                let hex = |text: &str| u64::from_str_radix(text, 16).ok();
                let (start, end) =
                    words.next()?.split_once('-').and_then(|(s, e)| Some((hex(s)?, hex(e)?)))?;
                let offset = hex(words.nth(1)?)?;
                (offset..offset + end - start).contains(&wanted).then(|| start + wanted - offset)
            })
        };
        let addresses = [address(Function::Read), address(Function::Write)];
        let [Some(read), Some(write)] = addresses else {
            return Err("the load's libssl is not mapped".into());
        };
        let mut code = Code {
            memory: format!("/proc/{pid}/mem").into(),
            addresses: [read, write],
            before: [[0; 16]; 2],
        };
        code.before = code.now()?;
        Ok(code)
    }

    fn now(&self) -> Res<[[u8; 16]; 2]> {
        let mut file = File::open(&self.memory)?;
        let mut bytes = [[0; 16]; 2];
        for (place, address) in bytes.iter_mut().zip(self.addresses) {
            file.seek(SeekFrom::Start(address))?;
            file.read_exact(place)?;
        }
        Ok(bytes)
    }

    fn is_changed(&self) -> Res<bool> {
        Ok(self.now()?.iter().zip(&self.before).all(|(now, before)| now != before))
    }
}

/// All of them and tls2pcap, as Markdown.
pub fn table(bench: &Bench) -> Res<String> {
    let mut text = String::from(
        "| tool | message | application CPU ÷ unprobed (BIO pair) | messages whole (unpaced loopback) | \
         tool CPU per event shown, µs |\n|---|---|---|---|---|\n",
    );
    let sizes = [(64, 20_000), (1400, 20_000), (16_384, 6_000), (65_536, 2_000)];
    let rounds = bench.rounds.min(3);
    for (size, messages) in sizes {
        let mem = Case::new("mem", size, bench.scaled(messages)).warm();
        let stream = Case::new("stream", size, bench.scaled(messages));
        let mut line = |name: &str, slower: &Samples, whole: &Samples, cpu: &Samples| {
            let all = stream.messages * whole.0.len() as u64;
            let row = format!(
                "| {name} | {size} B | {} | {} | {} |\n",
                slower.show(1),
                percent(whole.0.iter().sum::<f64>() as u64, all),
                cpu.show(1)
            );
            eprint!("{row}");
            text.push_str(&row);
        };
        'peers: for peer in [&SSLSNIFF, &BPFTRACE, &FRITAP].into_iter().filter(|p| size <= p.longest) {
            let [mut slower, mut whole, mut cpu] = [(); 3].map(|()| Samples::default());
            for _ in 0..rounds {
                let without = bench.run(&bench.load, &mem, With::Nothing, &[])?.report.cpu();
                let Some(with) = run(bench, peer, &mem)? else { continue 'peers };
                let Some(shown) = run(bench, peer, &stream)? else { continue 'peers };
                slower.0.push(with.load_cpu / without);
                whole.0.push(shown.whole as f64);
                cpu.0.extend((shown.events > 0).then(|| shown.cpu / shown.events as f64));
            }
            line(peer.name, &slower, &whole, &cpu);
        }
        let [mut slower, mut whole, mut cpu] = [(); 3].map(|()| Samples::default());
        for _ in 0..rounds {
            let without = bench.run(&bench.load, &mem, With::Nothing, &[])?.report.cpu();
            let with = bench.run(&bench.load, &mem, With::Tls2pcap, &[])?.report.cpu();
            let run = bench.run(&bench.load, &stream, With::Tls2pcap, &[])?;
            slower.0.push(with / without);
            whole.0.extend(run.verdict.map(|v| v.whole as f64));
            cpu.0.extend(run.tool.map(|t| t.cpu / run.report.calls()));
        }
        line("tls2pcap", &slower, &whole, &cpu);
    }
    Ok(text)
}
