//! G15, a server under load: nginx with one worker, asked by h2load over connections that stay open.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use memchr::memmem;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::floor::Place;
use crate::table::{Row, Samples};
use crate::tool::Running;
use crate::{Bench, Res};

/// Bytes of the page that is asked for.
const PAGE: usize = 1400;
/// What it begins with, so that answers can be counted in the file.
const MARK: &str = "page of the benchmark, once in each answer: ";
/// How long tls2pcap gets to try its cheap sites.
const TRIAL: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    master: Child,
    worker: u32,
    port: u16,
}

impl Server {
    /// Runs with the benchmark's own copy of libssl.
    fn start(bench: &Bench) -> Res<Server> {
        let folder = bench.work.path().join("server");
        fs::create_dir_all(&folder)?;
        let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
        if !cert.exists() {
            let mut openssl = Command::new("openssl");
            openssl.args([
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "30",
                "-subj",
                "/CN=localhost",
            ]);
            openssl.arg("-keyout").arg(&key).arg("-out").arg(&cert).stderr(Stdio::null());
            if !openssl.status().map_err(|e| format!("openssl: {e}"))?.success() {
                return Err("openssl makes no certificate".into());
            }
        }
        fs::write(folder.join("page"), format!("{MARK:-<PAGE$}"))?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let root = folder.display();
        let config = format!(
            "worker_processes 1; daemon off; user root; pid {root}/pid; error_log {root}/error.log;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 1h;\n\
             client_body_temp_path {root}; proxy_temp_path {root}; fastcgi_temp_path {root};\n\
             uwsgi_temp_path {root}; scgi_temp_path {root};\n\
             server {{ listen 127.0.0.1:{port} ssl http2; root {root};\n\
             ssl_certificate {cert}; ssl_certificate_key {key}; }} }}\n",
            cert = cert.display(),
            key = key.display(),
        );
        fs::write(folder.join("nginx.conf"), config)?;
        let mut master = Command::new("nginx")
            .arg("-p")
            .arg(&folder)
            .arg("-c")
            .arg(folder.join("nginx.conf"))
            .env("LD_LIBRARY_PATH", bench.load.folder())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("nginx: {e}"))?;
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if master.try_wait()?.is_some() || began.elapsed() > PATIENCE {
                let _ = master.kill();
                return Err(format!("nginx does not serve: see {root}/error.log").into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", master.id()))?;
        let worker = children.split_whitespace().next().ok_or("nginx has no worker")?.parse()?;
        Ok(Server { master, worker, port })
    }

    /// Processor time of the worker for each of so many requests, µs.
    fn load(&self, http1: bool, requests: u64) -> Res<f64> {
        let cpu = || -> Res<f64> {
            let stat = fs::read_to_string(format!("/proc/{}/schedstat", self.worker))?;
            Ok(stat.split(' ').next().unwrap_or_default().parse::<f64>()? / 1000.0)
        };
        let before = cpu()?;
        let mut h2load = Command::new("h2load");
        h2load.args(["-c", "20", "-m", "4", "-n", &requests.to_string()]);
        if http1 {
            h2load.arg("--h1");
        }
        let said = h2load.arg(format!("https://127.0.0.1:{}/page", self.port)).output();
        let said = String::from_utf8(said.map_err(|e| format!("h2load: {e}"))?.stdout)?;
        if !said.contains(&format!(" {requests} succeeded")) {
            return Err(format!("h2load: {said}").into());
        }
        Ok((cpu()? - before) / requests as f64)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.master.id().cast_signed()), Signal::SIGTERM);
        let _ = self.master.wait();
    }
}

/// CPU of one request, and of how many the answers are in the file.
struct Captured {
    cpu: f64,
    answers: u64,
    all: u64,
}

fn captured(bench: &Bench, server: &Server, http1: bool, requests: u64) -> Res<Captured> {
    let file: PathBuf = bench.work.path().join("server.pcapng");
    let library: &Path = &bench.load.library;
    let tool = Running::tls2pcap(bench.work.path(), &file, server.worker, library, &[])?;
    let (began, mut all) = (Instant::now(), requests);
    while began.elapsed() < TRIAL {
        server.load(http1, 1000)?;
        all += 1000;
    }
    let cpu = server.load(http1, requests)?;
    tool.end()?;
    let answers = memmem::find_iter(&fs::read(&file)?, MARK).count() as u64;
    fs::remove_file(&file)?;
    Ok(Captured { cpu, answers, all })
}

pub fn rows(bench: &Bench) -> Res<Vec<Row>> {
    let mut rows = Vec::new();
    for (http1, name) in [(true, "HTTP/1.1"), (false, "HTTP/2")] {
        let requests = bench.scaled(60_000);
        let server = Server::start(bench)?;
        server.load(http1, 2000)?;
        let (mut unprobed, mut empty, mut same, mut own) = <(Samples, Samples, Samples, Samples)>::default();
        let (mut answers, mut all) = (0, 0);
        for _ in 0..bench.rounds {
            unprobed.0.push(server.load(http1, requests)?);
            let links = bench.floor.attach(Place::Internal, server.worker, &bench.load.library)?;
            empty.0.push(server.load(http1, requests)?);
            drop(links);
            let links = bench.floor.attach(Place::Instructions, server.worker, &bench.load.library)?;
            same.0.push(server.load(http1, requests)?);
            drop(links);
            let captured = captured(bench, &server, http1, requests)?;
            own.0.push(captured.cpu);
            answers += captured.answers;
            all += captured.all;
        }
        if answers != all {
            bench
                .wrong
                .borrow_mut()
                .push(format!("nginx, {name}: {answers} of {all} answers are in the file"));
        }
        let ratio = |of: &Samples| own.0.iter().zip(&of.0).map(|(own, of)| own / of).collect::<Samples>();
        let show = |samples: &Samples| format!("{:.2}", samples.median());
        rows.push(Row {
            goal: "G15",
            what: format!("nginx's CPU per request ÷ unprobed, {name}, {PAGE} B"),
            samples: ratio(&unprobed),
            digits: 2,
            most: Some(1.25),
            beside: format!(
                "µs a request: unprobed {}, an empty session at the internal functions {}, tls2pcap {}; \
                 empty probes on the same instructions {}, {answers} of {all} answers in the file",
                show(&unprobed),
                show(&empty),
                show(&own),
                show(&same)
            ),
            ..Default::default()
        });
        rows.push(Row {
            goal: "G15",
            what: format!("the same ÷ the same with that empty session, {name}"),
            samples: ratio(&empty),
            digits: 2,
            ..Default::default()
        });
        rows.push(Row {
            goal: "G15",
            what: format!("the same ÷ the same with empty probes on the same instructions, {name}"),
            samples: ratio(&same),
            digits: 2,
            ..Default::default()
        });
    }
    Ok(rows)
}
