//! A private nginx: HTTP/1.1 and HTTP/2 over TLS on one port, nothing of the system's setup.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use nix::sys::signal::Signal;

use super::netns::Netns;
use super::{Process, Test, process, until};

/// Length of `/big`.
pub const BIG: usize = 20 << 20;
/// The small page, `/page.html`.
pub const PAGE: &str = "<!DOCTYPE html>\n<title>A small page</title>\n<p>Served over TLS.\n";

/// A request as nginx logged it.
#[derive(Clone, Debug)]
pub struct Logged {
    /// The client's address and port.
    pub client: SocketAddr,
    /// The address and port it asked.
    pub server: SocketAddr,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub protocol: String,
    /// The path it asked for.
    pub uri: String,
    /// The status of the answer.
    pub status: u16,
}

/// What is served, and where.
pub struct Site {
    /// Address to ask.
    pub address: SocketAddr,
    /// The configuration file.
    pub config: String,
    /// Certificate to trust.
    pub cert: String,
    log: PathBuf,
}

/// A running nginx with one worker.
pub struct Nginx {
    /// What it serves.
    pub site: Site,
    process: Process,
}

impl Site {
    /// Writes a configuration for a free port of `ip`.
    pub fn prepare(test: &Test, ip: &str) -> Site {
        let ip: std::net::IpAddr = ip.parse().unwrap();
        let port = TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap().port();
        Site::on(test, SocketAddr::new(ip, port))
    }

    /// Writes a configuration for an address.
    pub fn on(test: &Test, address: SocketAddr) -> Site {
        let (cert, key) = test.certificate();
        let dir = test.folder("nginx");
        let root = test.folder("nginx/root");
        fs::write(format!("{root}/page.html"), PAGE).unwrap();
        symlink(big_file(), format!("{root}/big")).unwrap();
        let config = format!("{dir}/nginx.conf");
        let text = format!(
            r#"
user root;
worker_processes 1;
daemon off;
pid {dir}/pid;
error_log {dir}/error.log;
events {{ worker_connections 256; }}
http {{
    log_format tuple '$remote_addr $remote_port $server_addr $server_port $server_protocol $request_uri $status';
    access_log {dir}/access.log tuple;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    default_type text/plain;
    types {{ text/html html; }}
    keepalive_requests 10000;
    server {{
        listen {address} ssl http2;
        server_name localhost;
        ssl_certificate {cert};
        ssl_certificate_key {key};
        root {root};
        location /echo/ {{ return 200 "you asked for $request_uri from port $remote_port\n"; }}
    }}
}}
"#
        );
        fs::write(&config, text).unwrap();
        Site { address, config, cert, log: format!("{dir}/access.log").into() }
    }

    /// URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    /// The command that serves it in the foreground.
    pub fn command(&self) -> Vec<String> {
        let dir = Path::new(&self.config).parent().unwrap().to_str().unwrap();
        vec!["nginx".into(), "-e".into(), format!("{dir}/start.log"), "-p".into(), dir.into(), "-c".into()]
            .into_iter()
            .chain([self.config.clone()])
            .collect()
    }

    /// The first `count` requests in the log; waits until there are so many.
    pub fn logged(&self, count: usize) -> Vec<Logged> {
        until(&format!("{count} requests in nginx's log"), || {
            let text = fs::read_to_string(&self.log).ok()?;
            let lines: Vec<Logged> = text.lines().map(parse).collect();
            (lines.len() >= count && text.ends_with('\n')).then_some(lines)
        })
    }
}

fn parse(line: &str) -> Logged {
    let words: Vec<&str> = line.split(' ').collect();
    let [ip, port, server_ip, server_port, protocol, uri, status] = words[..] else {
        panic!("nginx logged {line:?}");
    };
    let address = |ip: &str, port: &str| SocketAddr::new(ip.parse().unwrap(), port.parse().unwrap());
    Logged {
        client: address(ip, port),
        server: address(server_ip, server_port),
        protocol: protocol.into(),
        uri: uri.into(),
        status: status.parse().unwrap(),
    }
}

impl Nginx {
    /// Serves on 127.0.0.1.
    pub fn start(test: &Test) -> Nginx {
        Nginx::start_on(test, "127.0.0.1")
    }

    /// Serves on an address of this host.
    pub fn start_on(test: &Test, ip: &str) -> Nginx {
        let site = Site::prepare(test, ip);
        let command = site.command();
        let process = Process::start(Command::new(&command[0]).args(&command[1..]), test.path("nginx.err"));
        Nginx { site, process }.ready(|address| TcpStream::connect(address).is_ok())
    }

    /// Serves in a network namespace.
    pub fn start_in(test: &Test, netns: &Netns, address: &str) -> Nginx {
        let site = Site::on(test, address.parse().unwrap());
        let command = site.command();
        let process = Process::start(netns.command(&command[0]).args(&command[1..]), test.path("nginx.err"));
        Nginx { site, process }.ready(|address| {
            let listening = netns.command("ss").args(["-Hltn"]).output().unwrap().stdout;
            String::from_utf8_lossy(&listening).contains(&address.to_string())
        })
    }

    fn ready(mut self, is_ready: impl Fn(SocketAddr) -> bool) -> Nginx {
        until("nginx to listen", || {
            if let Some(status) = self.process.ended() {
                panic!("nginx: {status}\n{}", self.process.stderr());
            }
            is_ready(self.site.address).then_some(())
        });
        self
    }

    /// Pid of its main process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Pid of its worker.
    pub fn worker(&self) -> u32 {
        until("nginx's worker", || process::children(self.process.pid()).first().copied())
    }

    /// Ends it and waits for that.
    pub fn stop(&mut self) {
        self.process.signal(Signal::SIGTERM);
        self.process.wait();
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // By SIGTERM, since a killed master would leave its worker behind.
        if self.process.ended().is_none() {
            self.stop();
        }
    }
}

/// The file served as `/big`: random bytes, made once and kept with the build.
pub fn big_file() -> PathBuf {
    use std::io::Read;
    static MADE: Mutex<()> = Mutex::new(());
    let _one_at_a_time = MADE.lock();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("big");
    if fs::metadata(&path).map_or(0, |m| m.len()) != BIG as u64 {
        let mut bytes = vec![0; BIG];
        fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
        fs::write(&path, bytes).unwrap();
    }
    path
}
