//! The load: built here, run on a copy of libssl that no other program has mapped.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::Res;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/live/load.c");

/// The program and the library that it is run with.
#[derive(Clone, Debug)]
pub struct Load {
    pub program: PathBuf,
    /// The private copy.
    pub library: PathBuf,
}

/// Started, with its library mapped; has not begun.
pub struct Waiting {
    child: Child,
    out: BufReader<ChildStdout>,
}

/// What the load says of itself.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub connections: Vec<Connection>,
    pub numbers: HashMap<String, u64>,
    /// Bytes of a message.
    pub size: u64,
}

/// A connection and what was sent on it.
#[derive(Clone, Debug)]
pub struct Connection {
    pub number: u64,
    /// Client, server; 0 if there is no socket.
    pub ports: [u16; 2],
    /// Addresses of the TLS handles: client, server.
    pub handles: [String; 2],
    /// By who sends: client, server.
    pub streams: [Sent; 2],
}

/// A stream as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub bytes: u64,
    pub sha256: String,
}

impl Load {
    /// Compiles the load and copies the libraries that it would be run with.
    pub fn build(work: &Path) -> Res<Load> {
        let program = work.join("load");
        let mut gcc = Command::new("gcc");
        gcc.args(["-O2", "-Wall", "-Wextra", "-o"]).arg(&program).arg(SOURCE);
        if !gcc.args(["-lssl", "-lcrypto", "-pthread"]).status().map_err(|e| format!("gcc: {e}"))?.success() {
            return Err("gcc cannot build the load: are OpenSSL's headers installed?".into());
        }
        let listed = Command::new("ldd").arg(&program).output()?;
        let folder = work.join("lib");
        fs::create_dir_all(&folder)?;
        for line in String::from_utf8_lossy(&listed.stdout).lines() {
            let mut words = line.split_whitespace();
            if let (Some(name), Some("=>"), Some(path)) = (words.next(), words.next(), words.next())
                && (name.starts_with("libssl.") || name.starts_with("libcrypto."))
            {
                // Not a link: probes go by inode.
                fs::remove_file(folder.join(name)).ok();
                fs::copy(path, folder.join(name))?;
            }
        }
        let library = folder.join("libssl.so.3");
        if !library.exists() {
            return Err("the load is not linked with libssl.so.3".into());
        }
        Ok(Load { program, library })
    }

    /// The same with a library in which no internal function can be found: the section that tells
    /// where functions begin has another name.
    pub fn exports_only(&self, work: &Path) -> Res<Load> {
        let folder = work.join("lib-exports");
        fs::create_dir_all(&folder)?;
        for entry in fs::read_dir(self.folder())? {
            let path = entry?.path();
            fs::copy(&path, folder.join(path.file_name().expect("of a folder")))?;
        }
        let library = folder.join("libssl.so.3");
        let mut bytes = fs::read(&library)?;
        let name = b"\0.eh_frame\0";
        let at = memchr::memmem::rfind(&bytes, name).ok_or("libssl has no .eh_frame")?;
        bytes[at + name.len() - 2] = b'_';
        fs::write(&library, bytes)?;
        Ok(Load { library, ..self.clone() })
    }

    /// Where the copies are.
    pub fn folder(&self) -> &Path {
        self.library.parent().expect("in a folder")
    }

    /// Starts it; `arguments` as the head of load.c tells.
    pub fn start(&self, arguments: &str) -> Res<Waiting> {
        let mut child = Command::new(&self.program)
            .args(arguments.split_whitespace())
            .env("LD_LIBRARY_PATH", self.folder())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        out.read_line(&mut line)?;
        let waiting = Waiting { child, out };
        let maps = fs::read_to_string(format!("/proc/{}/maps", waiting.pid()))?;
        let mut mapped = maps.lines().filter(|l| l.contains("/libssl.")).peekable();
        let private = self.library.to_str().ok_or("a path that is not UTF-8")?;
        if line != "ready\n" || mapped.peek().is_none() || !mapped.all(|l| l.ends_with(private)) {
            return Err("the load does not run with its own copy of libssl".into());
        }
        Ok(waiting)
    }
}

impl Waiting {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it run, to its end.
    pub fn run(mut self) -> Res<Report> {
        self.child.stdin.take().expect("piped").write_all(b"\n")?;
        let mut report = Report::default();
        for line in (&mut self.out).lines() {
            let line = line?;
            let pairs: HashMap<&str, &str> = line.split(' ').filter_map(|w| w.split_once('=')).collect();
            if pairs.contains_key("conn") {
                report.connections.push(Connection::parse(&pairs).ok_or("the load says what it should not")?);
            } else {
                let number = |(k, v): (&&str, &&str)| Some((k.to_string(), v.parse().ok()?));
                report.numbers.extend(pairs.iter().filter_map(number));
            }
        }
        if !self.child.wait()?.success() {
            return Err("the load failed".into());
        }
        Ok(report)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // After an error; else it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Report {
    fn number(&self, name: &str) -> f64 {
        self.numbers.get(name).map_or(f64::NAN, |n| *n as f64)
    }

    /// Processor time of the load in µs, without its start and handshakes.
    pub fn cpu(&self) -> f64 {
        self.number("user_us") + self.number("system_us")
    }

    /// Time that it took, in µs.
    pub fn wall(&self) -> f64 {
        self.number("wall_us")
    }

    /// Calls of SSL_read and SSL_write.
    pub fn calls(&self) -> f64 {
        self.number("writes") + self.number("reads")
    }

    /// Time of one call in the mode `steps`: of the function whose first instruction is emulated,
    /// and of the other, in ns.
    pub fn steps(&self) -> [f64; 2] {
        [self.number("emulated_ns"), self.number("single_ns")]
    }

    /// Bytes sent, in all streams.
    pub fn bytes(&self) -> u64 {
        self.connections.iter().flat_map(|c| &c.streams).map(|s| s.bytes).sum()
    }

    /// Millions of bytes sent a second.
    pub fn rate(&self) -> f64 {
        self.bytes() as f64 / self.wall()
    }
}

impl Connection {
    fn parse(pairs: &HashMap<&str, &str>) -> Option<Connection> {
        let sent = |name: &str| {
            let (bytes, sha256) = pairs.get(name)?.split_once(':')?;
            Some(Sent { bytes: bytes.parse().ok()?, sha256: sha256.into() })
        };
        Some(Connection {
            number: pairs.get("conn")?.parse().ok()?,
            ports: [pairs.get("client_port")?.parse().ok()?, pairs.get("server_port")?.parse().ok()?],
            handles: [pairs.get("client")?.to_string(), pairs.get("server")?.to_string()],
            streams: [sent("c2s")?, sent("s2c")?],
        })
    }
}
