//! What Wireshark's own companions make of a capture: the Lua plugin, the profile, the process
//! blocks, and how they are installed.
//!
//! The judges are `tshark-4.0`, `-4.4` and `-4.6` in `$T2P_CACHE/bin` (`tests/.cache/bin`). One that
//! is absent is named as skipped; with `T2P_REQUIRE_ORACLES=1`, or if none is there, that is a failure. Wireshark loads no
//! scripts of root, so as root they run as another user, who owns a home folder of the test's.

#[allow(dead_code)]
#[path = "capture/support/gate.rs"]
mod gate;

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tempfile::TempDir;
use tls2pcap::event::{HandleKey, Library, Missing, ProcessKey, TupleSource};
use tls2pcap::sink::{self, Format, Header, Link, PcapngWriter};
use tls2pcap::synth::{Ports, Synthesizer};
use tls2pcap::track::segment::{
    Connection, ConnectionId, Payload, Process, RoleSource, Segment, SegmentBody, Side, Tuple,
};

use Side::{Client, Server};

/// The user who runs tshark where root must not: nobody.
const NOBODY: u32 = 65534;

/// Not as root.
fn as_nobody(command: &mut Command) -> &mut Command {
    if nix::unistd::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// A program of a release, such as `tshark`; where it is not there, or cannot be run, that is reported.
fn program(name: &str, release: &str) -> Option<PathBuf> {
    let skipped = |why: &str| {
        gate::skipped(&format!("every check with {name} {release}"), why, "T2P_REQUIRE_ORACLES");
    };
    let Some(path) = gate::cached_tool(&format!("{name}-{release}")) else {
        skipped(&format!("{name}-{release} not found (run tests/oracles)"));
        return None;
    };
    // In a checkout that only root may enter nobody else can run it.
    let mut command = Command::new(&path);
    if let Err(error) = as_nobody(&mut command).arg("--version").output() {
        skipped(&format!("nobody but root can run {}: {error}", path.display()));
        return None;
    }
    Some(path)
}

/// The tsharks that there are. Fails if there is none: without a judge a test would show nothing.
fn tsharks() -> &'static [(&'static str, PathBuf)] {
    static FOUND: OnceLock<Vec<(&str, PathBuf)>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let find = |release| Some((release, program("tshark", release)?));
        gate::RELEASES.into_iter().filter_map(find).collect()
    });
    assert!(!found.is_empty(), "no release of tshark is there to judge");
    found
}

/// A home folder of a user who is not root.
struct Home(TempDir);

impl Home {
    fn new() -> Home {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let home = Home(folder);
        home.give(home.path());
        home
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Under root a file must be made the user's.
    fn give(&self, path: &Path) {
        if nix::unistd::geteuid().is_root() {
            chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }

    /// A program as this home's user sees it.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        for name in
            ["XDG_CONFIG_HOME", "WIRESHARK_CONFIG_DIR", "WIRESHARK_PLUGIN_DIR", "WIRESHARK_EXTCAP_DIR"]
                .into_iter()
                .chain(["SUDO_UID", "SUDO_GID", "SUDO_USER"])
        {
            command.env_remove(name);
        }
        command.env("HOME", self.path()).current_dir(self.path()).stdin(std::process::Stdio::null());
        as_nobody(&mut command);
        command
    }

    /// `tls2pcap wireshark ...`, from a copy that this home's user can reach.
    fn companion(&self, args: &[&str]) -> Command {
        let program = self.path().join("program");
        if !program.exists() {
            // By a process of its own: a child that another thread forks meanwhile must not inherit it open for writing, or it
            // cannot be run (ETXTBSY).
            let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_tls2pcap")).arg(&program).status();
            assert!(copied.unwrap().success());
        }
        let mut command = self.command(program);
        command.arg("wireshark").args(args);
        command
    }

    /// The same, done: exit status and what it said.
    fn tls2pcap(&self, args: &[&str]) -> (Option<i32>, String) {
        let output = self.companion(args).output().unwrap();
        (output.status.code(), both(&output))
    }

    fn write(&self, name: &str, contents: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, contents).unwrap();
        self.give(&path);
        path
    }
}

fn both(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The lines of standard output; nothing may be said on standard error.
fn lines(mut command: Command) -> Vec<String> {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Fields of the packets that pass the filter, joined by `|`.
fn fields(
    home: &Home,
    tshark: &Path,
    file: &Path,
    options: &[&str],
    filter: &str,
    fields: &[&str],
) -> Vec<String> {
    let mut command = home.command(tshark);
    command.args(["-n", "-r"]).arg(file).args(options).args([
        "-Y",
        filter,
        "-T",
        "fields",
        "-E",
        "separator=|",
    ]);
    command.args(fields.iter().flat_map(|field| ["-e", field]));
    lines(command)
}

/// A capture in the making.
struct Scene {
    synthesizer: Synthesizer,
    writer: PcapngWriter<Vec<u8>>,
    time: u64,
    offsets: HashMap<(u64, Side), u64>,
    /// Who makes the calls of each connection.
    callers: HashMap<u64, Arc<Process>>,
}

impl Scene {
    fn begin(process_blocks: bool, link: Link) -> Scene {
        let header = Header { application: "tls2pcap test".into(), ..Header::default() };
        let writer = PcapngWriter::new(Vec::new(), &header, false)
            .unwrap()
            .with_process_blocks(process_blocks)
            .with_link(link);
        Scene {
            synthesizer: Synthesizer::new(Ports::Decode),
            writer,
            time: 1_700_000_000_000_000_000,
            offsets: HashMap::new(),
            callers: HashMap::new(),
        }
    }

    fn finish(self) -> Vec<u8> {
        let Scene { mut synthesizer, mut writer, time, .. } = self;
        synthesizer.finish(time, &mut |packet| writer.packet(&packet).unwrap());
        writer.finish(time, &[]).unwrap().0
    }

    fn step(&mut self, id: u64, body: SegmentBody) {
        self.time += 1_000_000;
        let segment = Segment { connection: ConnectionId(id), time: self.time, body };
        self.synthesizer.segment(&segment, &mut |packet| self.writer.packet(&packet).unwrap());
    }

    fn open(
        &mut self,
        id: u64,
        process: &Arc<Process>,
        local_side: Side,
        tuple: [&str; 2],
        sni: Option<&str>,
    ) {
        let [local, remote] = tuple.map(|address| address.parse().unwrap());
        let library = Library { id: 1, path: "/usr/lib/libssl.so.3".into(), version: "OpenSSL 3.5.1".into() };
        let connection = Connection {
            id: ConnectionId(id),
            handle: HandleKey { process: process.key, address: 0xabc, generation: id },
            process: process.clone(),
            tid: process.key.pid + 7,
            local_side,
            role_source: RoleSource::Kernel,
            tuple: Some(Tuple { local, remote }),
            tuple_source: TupleSource::SameCall,
            netns: 1,
            inode: 2,
            cookie: None,
            rtt: None,
            fd: Some(3),
            library: Some(Arc::new(library)),
            from_start: true,
            started: 1_700_000_000_000_000_000,
            server_name: sni.map(str::to_owned),
            alpn: sni.map(|_| "http/1.1".to_owned()),
            layer_below: None,
        };
        self.callers.insert(id, process.clone());
        self.step(id, SegmentBody::Open(Arc::new(connection)));
    }

    fn say(&mut self, id: u64, from: Side, bytes: &[u8], len: usize) {
        let offset = self.offsets.entry((id, from)).or_default();
        let missing = (bytes.len() < len).then_some(Missing::RingFull);
        let payload = Payload {
            from,
            process: self.callers[&id].clone(),
            tid: 12,
            offset: *offset,
            bytes: Bytes::copy_from_slice(bytes),
            len: len as u64,
            missing,
            redacted: vec![],
        };
        *offset += len as u64;
        self.step(id, SegmentBody::Payload(payload));
    }

    fn exchange(&mut self, id: u64, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: example.org\r\n\r\n");
        self.say(id, Client, request.as_bytes(), request.len());
        let response = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        self.say(id, Server, response, response.len());
    }
}

fn process(pid: u32, comm: &str, container: Option<&str>) -> Arc<Process> {
    Arc::new(Process {
        key: ProcessKey { pid, generation: 1 },
        comm: comm.into(),
        exe: format!("/usr/bin/{comm}"),
        args: vec![comm.into()],
        uid: pid * 10,
        container: container.map(str::to_owned),
    })
}

/// Three processes, one of them in the middle of the file; a server; losses; a server name that is
/// learnt late; addresses that are used twice.
fn scene() -> Vec<u8> {
    scene_with(false, Link::default())
}

/// [`scene`], with process blocks or without, and with this in front of the packets.
fn scene_with(process_blocks: bool, link: Link) -> Vec<u8> {
    let mut scene = Scene::begin(process_blocks, link);
    let curl = process(100, "curl", Some("0123456789ab"));
    let nginx = process(200, "nginx", None);
    let odd = process(300, "söme one[1]", None);
    let again = ["10.0.0.1:41000", "10.0.0.2:443"];
    scene.open(1, &curl, Client, again, Some("example.org"));
    scene.exchange(1, "/one");
    scene.open(2, &nginx, Server, ["10.0.0.3:8443", "10.0.0.4:41000"], None);
    scene.exchange(2, "/two");
    scene.say(2, Server, b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\nbegin", 5041);
    scene.callers.insert(2, process(201, "worker", None));
    scene.exchange(2, "/three");
    scene.callers.insert(2, nginx.clone());
    scene.step(2, SegmentBody::Skip { from: Server, reason: Missing::Unfinished });
    scene.exchange(2, "/four");
    scene.step(1, SegmentBody::End);
    scene.open(3, &odd, Client, ["[2001:db8::1]:41000", "[2001:db8::2]:443"], None);
    scene.exchange(3, "/five");
    scene.step(3, SegmentBody::ServerName("late.example".into()));
    scene.exchange(3, "/six");
    scene.open(4, &odd, Client, again, Some("other.example"));
    scene.exchange(4, "/seven");
    scene.step(2, SegmentBody::End);
    scene.finish()
}

fn one_connection(pid: u32) -> Vec<u8> {
    let mut scene = Scene::begin(false, Link::default());
    let tuple = ["10.0.0.1:41000", "10.0.0.2:443"];
    scene.open(1, &process(pid, &format!("number-{pid}"), None), Client, tuple, None);
    scene.exchange(1, "/");
    scene.finish()
}

const PLUGIN: &[u8] = include_bytes!("../wireshark/tls2pcap.lua");

/// A home with the plugin, copied by hand.
fn with_plugin() -> Home {
    let home = Home::new();
    let folder = home.path().join(".local/lib/wireshark/plugins");
    std::fs::create_dir_all(&folder).unwrap();
    home.write(".local/lib/wireshark/plugins/tls2pcap.lua", PLUGIN);
    home
}

#[test]
fn every_packet_tells_whose_it_is() {
    let (home, scene) = (with_plugin(), scene());
    let file = home.write("scene.pcapng", &scene);
    for &(release, ref tshark) in tsharks() {
        let ask = |options: &[&str], filter: &str, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|n| format!("tls2pcap.{n}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            fields(&home, tshark, &file, options, filter, &names)
        };
        for options in [&[][..], &["-2"]] {
            // Nothing is without a process, and all packets of a connection say the same, unless they are
            // another process's.
            assert_eq!(ask(options, "!tls2pcap.pid", &["pid"]), [""; 0], "{release} {options:?}");
            let mut all = ask(
                options,
                "frame",
                &[
                    "conn",
                    "pid",
                    "tid",
                    "comm",
                    "exe",
                    "uid",
                    "container",
                    "fd",
                    "library",
                    "server_port",
                    "tuple",
                ],
            );
            all.sort();
            all.dedup();
            let library = "/usr/lib/libssl.so.3 OpenSSL 3.5.1";
            let expected = [
                format!("1|100|107|curl|/usr/bin/curl|1000|0123456789ab|3|{library}|443|same-call"),
                format!("2|200|207|nginx|/usr/bin/nginx|2000||3|{library}|8443|same-call"),
                format!("2|201||worker|/usr/bin/worker||||{library}|8443|same-call"),
                format!("3|300|307|söme one[1]|/usr/bin/söme one[1]|3000||3|{library}|443|same-call"),
                format!("4|300|307|söme one[1]|/usr/bin/söme one[1]|3000||3|{library}|443|same-call"),
            ];
            assert_eq!(all, expected, "{release} {options:?}");
            let requests = fields(
                &home,
                tshark,
                &file,
                options,
                "http.request && tls2pcap.pid == 300",
                &["http.request.uri", "tls2pcap.sni", "tls2pcap.alpn"],
            );
            assert_eq!(
                requests,
                ["/five|late.example|", "/six|late.example|", "/seven|other.example|http/1.1"],
                "{release}"
            );
            let lost = ask(options, "tls2pcap.lost", &["conn", "lost", "lost.reason"]);
            assert_eq!(lost, ["2|4995|ring-full", "2|0|unfinished-call"], "{release}");
        }
        let ends = ask(&[], "tls2pcap.comm == \"curl\" && tcp.flags.syn == 1", &["local", "remote", "role"]);
        assert!(
            !ends.is_empty() && ends.iter().all(|e| e == "10.0.0.1:41000|10.0.0.2:443|client"),
            "{release}"
        );
        // What Wireshark shows of the packets themselves stays as it was.
        let plain = Home::new();
        let columns = |home: &Home| {
            let mut command = home.command(tshark);
            command.arg("-n").arg("-r").arg(&file);
            lines(command)
        };
        assert_eq!(columns(&home), columns(&plain), "{release}");
        let shown = ["_ws.malformed", "http.response.code", "tcp.analysis.flags", "_ws.expert.message"];
        let all = |home| fields(home, tshark, &file, &[], "frame", &shown);
        assert_eq!(all(&home), all(&plain), "{release}");
    }
}

#[test]
fn a_packet_tells_how_late_it_comes() {
    let (home, mut scene) = (with_plugin(), scene());
    // A comment of the same length takes the place of another.
    let (missing, late) = (b" missing=unknown", b" late=0.80000000");
    let at = scene.windows(missing.len()).position(|bytes| bytes == missing).unwrap();
    scene[at..at + late.len()].copy_from_slice(late);
    let file = home.write("scene.pcapng", &scene);
    for &(release, ref tshark) in tsharks() {
        let late = fields(&home, tshark, &file, &[], "tls2pcap.late > 0.5", &["tls2pcap.late"]);
        assert_eq!(late, ["0.8"], "{release}");
    }
}

#[test]
fn fields_are_the_same_with_raw_ip() {
    let home = with_plugin();
    let [raw, ethernet] = [("raw", Link::Raw), ("ethernet", Link::Ethernet)]
        .map(|(name, link)| home.write(&format!("{name}.pcapng"), &scene_with(false, link)));
    let names = ["pid", "comm", "sni", "server_port", "lost", "lost.total", "synthetic"];
    let names: Vec<String> = names.iter().map(|name| format!("tls2pcap.{name}")).collect();
    let names: Vec<&str> = ["http.request.uri"].into_iter().chain(names.iter().map(String::as_str)).collect();
    for &(release, ref tshark) in tsharks() {
        for options in [&[][..], &["-2"]] {
            let of = |file| fields(&home, tshark, file, options, "frame", &names);
            assert_eq!(of(&ethernet), of(&raw), "{release} {options:?}");
        }
        // What Wireshark shows of the packets themselves stays as it was.
        let columns = |home: &Home| {
            let mut command = home.command(tshark);
            command.arg("-n").arg("-r").arg(&raw);
            lines(command)
        };
        assert_eq!(columns(&home), columns(&Home::new()), "{release}");
    }
}

#[test]
fn fields_are_there_in_compressed_files() {
    let home = with_plugin();
    let path = home.path().join("scene.pcapng.gz");
    let format = Format::of(&path, Link::default()).unwrap();
    sink::OutputFile::create(&path, format).unwrap().write_all(&scene()).unwrap();
    home.give(&path);
    let file = home.write("scene.pcapng", &scene());
    for &(release, ref tshark) in tsharks() {
        // What is learnt late stands only on the packets from there on.
        let of = |file, filter| fields(&home, tshark, file, &[], filter, &["tls2pcap.pid", "tls2pcap.sni"]);
        let filter = "tls2pcap.sni != \"late.example\" || tls2pcap.pid < 300 || http.request.uri == \"/six\"";
        assert_eq!(of(&path, filter), of(&file, filter), "{release}");
        assert_eq!(of(&path, "http.request && http.request.uri == \"/five\"")[0], "300|", "{release}");
    }
}

#[test]
fn fields_are_right_where_packets_are_numbered_otherwise() {
    let home = with_plugin();
    let file = home.write("scene.pcapng", &scene());
    let names = ["tcp.stream", "tls2pcap.conn", "tls2pcap.comm", "http.request.uri"];
    for &(release, ref tshark) in tsharks() {
        let all = fields(&home, tshark, &file, &["-2"], "tls2pcap.conn > 2", &names[1..]);
        let some = ["-2", "-R", "ipv6 || tls2pcap.sni == \"other.example\""];
        let read = fields(&home, tshark, &file, &some, "frame", &names[1..]);
        assert!(all.len() > 10, "{release}: {all:?}");
        assert_eq!(read, all, "{release}");
    }
}

#[test]
fn connections_of_merged_files_stay_apart() {
    let home = with_plugin();
    let [one, two] = [100, 900].map(|pid| home.write(&format!("{pid}.pcapng"), &one_connection(pid)));
    for &(release, ref tshark) in tsharks() {
        let Some(mergecap) = program("mergecap", release) else { continue };
        let both = home.path().join("both.pcapng");
        let mut command = home.command(&mergecap);
        // One after the other: the same number, the same addresses and ports.
        command.arg("-a").arg("-w").arg(&both).arg(&one).arg(&two);
        lines(command);
        let of = |file| fields(&home, tshark, file, &[], "frame", &["tls2pcap.pid", "tls2pcap.comm"]);
        assert_eq!(of(&both), [of(&one), of(&two)].concat(), "{release}");
    }
}

#[test]
fn fields_survive_other_tools() {
    let (home, scene) = (with_plugin(), scene());
    let file = home.write("scene.pcapng", &scene);
    for &(release, ref tshark) in tsharks() {
        let Some(editcap) = program("editcap", release) else { continue };
        let (all, rest) = (home.path().join("all.pcapng"), home.path().join("rest.pcapng"));
        let mut command = home.command(&editcap);
        command.arg(&file).arg(&all);
        lines(command);
        let names = ["tls2pcap.pid", "tls2pcap.sni"];
        let of = |file| fields(&home, tshark, file, &[], "frame", &names);
        assert_eq!(of(&all), of(&file), "{release}");
        // Without the SYNs the interfaces still name the processes.
        let mut command = home.command(&editcap);
        command.arg("-r").arg(&file).arg(&rest).arg("4-5");
        lines(command);
        let left = fields(&home, tshark, &rest, &[], "frame", &["tls2pcap.pid", "tls2pcap.comm"]);
        assert_eq!(left, ["100|curl"; 2], "{release}");
        // From a pipe, where nothing can be looked at before.
        let mut command = home.command(tshark);
        command.args(["-n", "-r", "-", "-Y", "tls2pcap.pid == 100", "-T", "fields", "-e", "tls2pcap.comm"]);
        let mut cat = Command::new("cat").arg(&file).stdout(std::process::Stdio::piped()).spawn().unwrap();
        command.stdin(cat.stdout.take().unwrap());
        let shown = lines(command);
        cat.wait().unwrap();
        assert!(!shown.is_empty() && shown.iter().all(|comm| comm == "curl"), "{release}: {shown:?}");
    }
}

#[test]
fn a_file_that_is_cut_in_a_large_block_is_read_to_there() {
    let home = with_plugin();
    let whole = home.write("whole.pcapng", &scene());
    // A packet of 2 MiB, of which the last quarter is not there.
    let mut cut = scene();
    cut.extend([6u32, 2 << 20].map(u32::to_le_bytes).concat());
    cut.resize(cut.len() + (3 << 19), 0);
    let cut = home.write("cut.pcapng", &cut);
    for (release, tshark) in tsharks() {
        let mut command = home.command(Path::new("timeout"));
        command.args(["-k", "1", "60"]).arg(tshark).args(["-n", "-r"]).arg(&cut).args([
            "-T",
            "fields",
            "-e",
            "tls2pcap.pid",
        ]);
        let output = command.output().unwrap();
        let shown = String::from_utf8(output.stdout).unwrap();
        let expected = fields(&home, tshark, &whole, &[], "frame", &["tls2pcap.pid"]);
        assert_eq!(shown.lines().collect::<Vec<_>>(), expected, "{release}: {:?}", output.status);
    }
}

/// The same packets as a stranger's capture, which has the same link type.
fn foreign(packets: u32) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, 1] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    for number in 0..packets {
        let payload = b"GET / HTTP/1.1\r\n\r\n";
        let [a, b] = [number.to_be_bytes(), (number * 100).to_be_bytes()];
        let mut packet = vec![2, 0, 10, 0, 0, 2, 2, 0, 10, 0, 0, 1, 8, 0];
        packet.extend_from_slice(&[0x45, 0, 0, 58, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        packet.extend_from_slice(&[
            0x80 | a[2],
            a[3],
            0,
            80,
            b[0],
            b[1],
            b[2],
            b[3],
            0,
            0,
            0,
            1,
            0x50,
            0x18,
            1,
            0,
            0,
            0,
            0,
            0,
        ]);
        packet.extend_from_slice(payload);
        for word in [1_700_000_000, 0, packet.len() as u32, packet.len() as u32] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(&packet);
    }
    file
}

/// Nothing of the plugin is at work in files of others: it costs nothing there.
#[test]
fn files_of_others_are_left_alone() {
    let home = with_plugin();
    let mut pcap = foreign(50);
    let file = home.write("foreign.pcap", &pcap);
    for &(release, ref tshark) in tsharks() {
        let shown = |options: &[&str]| {
            fields(&home, tshark, &file, options, "frame.number == 1", &["frame.protocols"])
        };
        assert_eq!(shown(&[]), ["eth:ethertype:ip:tcp:http"], "{release}");
        let [forced] = &shown(&["-o", "tls2pcap.fields:in all files"])[..] else { panic!() };
        assert!(forced.starts_with("tls2pcap_ethernet:"), "{release}: {forced}");
    }
    // Damage does not get at the script either.
    pcap.truncate(pcap.len() - 7);
    let mut scene = scene();
    scene.truncate(scene.len() / 2 + 3);
    let files = [home.write("cut.pcap", &pcap), home.write("cut.pcapng", &scene), home.write("empty", b"")];
    for &(release, ref tshark) in tsharks() {
        for file in &files {
            let output = home
                .command(tshark)
                .args(["-n", "-r"])
                .arg(file)
                .args(["-Y", "tls2pcap.pid"])
                .output()
                .unwrap();
            assert!(!both(&output).contains("Lua"), "{release}: {}", both(&output));
        }
    }
}

#[test]
fn damaged_comments_hide_no_packet() {
    let home = with_plugin();
    let mut scene = scene();
    for (number, damaged) in
        [(b" tid=107 ", b" tid=1.5 "), (b" tid=207 ", b" tid=1e9 "), (b" tid=307 ", b" tid=-07 ")]
    {
        let places: Vec<usize> =
            (0..scene.len() - number.len()).filter(|at| scene[*at..].starts_with(number)).collect();
        assert!(!places.is_empty());
        for at in places {
            scene[at..at + number.len()].copy_from_slice(damaged);
        }
    }
    let file = home.write("damaged.pcapng", &scene);
    let plain = Home::new();
    for &(release, ref tshark) in tsharks() {
        let requests = |home| fields(home, tshark, &file, &[], "http", &["http.request.uri"]);
        assert!(requests(&home).len() > 7, "{release}");
        let of = |home: &Home| {
            let mut command = home.command(tshark);
            command.arg("-n").arg("-r").arg(&file);
            lines(command)
        };
        assert_eq!(of(&home), of(&plain), "{release}");
        assert_eq!(
            fields(&home, tshark, &file, &[], "tls2pcap.tid || !tls2pcap.pid", &["tls2pcap.tid"]),
            [""; 0]
        );
    }
}

#[test]
fn process_blocks_name_the_process_of_each_packet() {
    let home = Home::new();
    let file = home.write("scene.pcapng", &scene_with(true, Link::default()));
    let plain = home.write("plain.pcapng", &scene());
    for &(release, ref tshark) in tsharks() {
        let edited = home.path().join("edited.pcapng");
        let mut files = vec![&file];
        if let Some(editcap) = program("editcap", release) {
            let mut command = home.command(&editcap);
            command.arg(&file).arg(&edited);
            lines(command);
            files.push(&edited);
        }
        let details = |file: &Path| {
            let mut command = home.command(tshark);
            command.args(["-n", "-T", "fields", "-e", "frame.comment", "-e", "frame.interface_queue"]);
            command.args(["-e", "_ws.col.Info", "-e", "frame.interface_name", "-r"]).arg(file);
            lines(command)
        };
        for file in files {
            assert_eq!(details(file), details(&plain), "{release}: the rest is as without");
            if release != "4.6" {
                continue;
            }
            let names =
                ["frame.interface_name", "frame.darwin.process_info.pid", "frame.darwin.process_info.pname"];
            let mut all = fields(&home, tshark, file, &[], "frame", &names);
            all.sort();
            all.dedup();
            let expected = [
                "curl[100]|100|curl",
                "nginx[200]|200|nginx",
                "söme one[1][300]|300|söme one[1]",
                "worker[201]|201|worker",
            ];
            assert_eq!(all, expected);
        }
        if let Some(capinfos) = program("capinfos", release) {
            let count = |file: &Path| {
                let mut command = home.command(&capinfos);
                command.args(["-Tm", "-c"]).arg(file);
                lines(command).pop().unwrap().split(',').nth(1).unwrap().to_owned()
            };
            assert_eq!(count(&file), count(&plain), "{release}");
            if let Some(mergecap) = program("mergecap", release) {
                let merged = home.path().join("merged.pcapng");
                let output =
                    home.command(&mergecap).arg("-w").arg(&merged).arg(&file).arg(&plain).output().unwrap();
                assert!(output.status.success(), "{release}: {output:?}");
                // 4.6 says that it leaves the blocks out.
                assert!(release == "4.6" || output.stderr.is_empty(), "{release}: {output:?}");
                let packets = |file: &Path| count(file).parse::<usize>().unwrap();
                assert_eq!(packets(&merged), 2 * packets(&plain), "{release}");
            }
        }
    }
}

#[test]
fn what_is_installed_loads_without_a_complaint() {
    let home = Home::new();
    let (status, said) = home.tls2pcap(&["install"]);
    assert_eq!(status, Some(0), "{said}");
    let file = home.write("scene.pcapng", &scene());
    let buttons =
        std::fs::read_to_string(home.path().join(".config/wireshark/profiles/tls2pcap/dfilter_buttons"))
            .unwrap();
    for &(release, ref tshark) in tsharks() {
        // With its colours: rules that a release does not understand are complained of.
        let mut command = home.command(tshark);
        command.args(["-C", "tls2pcap", "--color", "-r"]).arg(&file);
        let shown = lines(command).join("\n");
        for text in ["curl[100]", "late.example", "GET /seven"] {
            assert!(shown.contains(text), "{release}: {text} in {shown}");
        }
        for button in buttons.lines().filter(|line| line.starts_with('"')) {
            let filter = button.split("\",\"").nth(2).unwrap().replace("\\x22", "\"");
            // References stand for a field of the selected packet, which there is only in the window.
            let filter = filter.replace("${", "").replace('}', "");
            fields(&home, tshark, &file, &[], &filter, &["frame.number"]);
        }
    }
}

/// Where each release looks for capture interfaces.
#[test]
fn the_interface_is_among_those_of_wireshark() {
    let home = Home::new();
    assert_eq!(home.tls2pcap(&["install"]).0, Some(0));
    let nothing = home.path().join("nothing");
    std::fs::create_dir(&nothing).unwrap();
    for &(release, ref tshark) in tsharks() {
        let list = || {
            let mut command = home.command(tshark);
            // 4.4 finds none at all where the folder of all users is absent.
            command.env("WIRESHARK_EXTCAP_DIR", &nothing).arg("-D");
            String::from_utf8(command.output().unwrap().stdout).unwrap()
        };
        assert!(list().contains(". tls2pcap (TLS plaintext: this host)"), "{release}: {}", list());
        let [old, new] = [".config/wireshark/extcap/tls2pcap", ".local/lib/wireshark/extcap/tls2pcap"]
            .map(|link| home.path().join(link));
        for link in [&old, &new] {
            assert_eq!(std::fs::read_link(link).unwrap(), home.path().join("program"));
        }
        let mut told = home.command(&new);
        told.args(["--extcap-interfaces", "--extcap-version=4.6"]);
        let page = home.path().join(".local/share/tls2pcap/help.html");
        assert!(lines(told)[0].ends_with(&format!("{{help=file://{}}}{{display=tls2pcap}}", page.display())));
        assert!(page.is_file());
    }
    assert_eq!(home.tls2pcap(&["uninstall"]).0, Some(0));
    for &(release, ref tshark) in tsharks() {
        let mut command = home.command(tshark);
        command.env("WIRESHARK_EXTCAP_DIR", &nothing).arg("-D");
        assert!(!both(&command.output().unwrap()).contains("tls2pcap"), "{release}");
    }
}

#[test]
fn columns_show_the_process_without_the_plugin() {
    let home = Home::new();
    assert_eq!(home.tls2pcap(&["install"]).0, Some(0));
    std::fs::remove_file(home.path().join(".local/lib/wireshark/plugins/tls2pcap.lua")).unwrap();
    let file = home.write("scene.pcapng", &scene());
    for &(release, ref tshark) in tsharks() {
        let mut command = home.command(tshark);
        command.args(["-C", "tls2pcap", "--color", "-r"]).arg(&file);
        let shown = lines(command);
        assert!(
            shown.iter().any(|line| line.contains("nginx[200]") && line.contains("GET /two")),
            "{release}: {shown:?}"
        );
    }
}

#[test]
fn install_and_uninstall_leave_what_the_user_changed() {
    let home = Home::new();
    let words = |args: &[&str]| {
        let (status, said) = home.tls2pcap(args);
        assert_eq!(status, Some(0), "{said}");
        let known = |line: &str| {
            ["installed", "up to date", "updated", "kept", "removed", "absent", "changed"]
                .into_iter()
                .find(|word| line.starts_with(&format!("{word} ")) && line.contains('/'))
        };
        said.lines().filter_map(known).collect::<Vec<_>>()
    };
    assert_eq!(words(&["status"]), ["absent"; 9]);
    assert_eq!(words(&["install"]), ["installed"; 9]);
    assert_eq!(words(&["install"]), ["up to date"; 9]);
    assert_eq!(words(&["status"]), ["installed"; 9]);
    let colors = home.path().join(".config/wireshark/profiles/tls2pcap/colorfilters");
    std::fs::write(&colors, "# mine\n").unwrap();
    assert_eq!(words(&["status"]).iter().filter(|word| **word == "changed").count(), 1);
    assert_eq!(words(&["install"]).iter().filter(|word| **word == "kept").count(), 1);
    let removed = words(&["uninstall"]);
    assert_eq!(removed.iter().filter(|word| **word == "removed").count(), 8, "{removed:?}");
    assert_eq!(std::fs::read_to_string(&colors).unwrap(), "# mine\n");
    assert_eq!(words(&["install", "--force"]).iter().filter(|word| **word == "updated").count(), 1);
    assert_eq!(words(&["uninstall"]), ["removed"; 9]);
    assert!(!home.path().join(".config/wireshark/profiles/tls2pcap").exists());
    assert!(!home.path().join(".local/share/tls2pcap").exists());
}

/// As Wireshark does, the variables of the environment are followed.
#[test]
fn wireshark_finds_it_wherever_it_looks() {
    for variables in [&[][..], &[("XDG_CONFIG_HOME", "xdg")], &[("WIRESHARK_CONFIG_DIR", "own")]] {
        let home = Home::new();
        let set = |command: &mut Command| {
            command.envs(variables.iter().map(|(name, folder)| (name, home.path().join(folder))));
        };
        let mut install = home.companion(&["install"]);
        set(&mut install);
        assert!(install.output().unwrap().status.success());
        let file = home.write("scene.pcapng", &scene());
        for &(release, ref tshark) in tsharks() {
            let mut command = home.command(tshark);
            set(&mut command);
            command.args(["-C", "tls2pcap", "-r"]).arg(&file);
            assert!(lines(command).join("\n").contains("nginx[200]"), "{release} {variables:?}");
        }
    }
}

/// What the menu of `wireshark/redact.lua` does, without a window: its functions of the user interface are replaced by some
/// that say what they are called with. In two passes tshark keeps the file open, as Wireshark does.
const WITHOUT_WINDOWS: &str = r#"
local menu, done = nil, false
local function say(...) io.stderr:write("> ", table.concat({...}, " | "), "\n") end
_G.gui_enabled = function() return true end
_G.register_menu = function(name, work) menu = work end
_G.new_dialog = function(title, work, label) say("dialog", label) work(os.getenv("ANSWER")) end
_G.open_capture_file = function(path) say("open", path) end
_G.TextWindow = { new = function() return {
	set = function(_, text) say("window", text) end,
	add_button = function(_, name, work) work() end,
} end }
dofile(os.getenv("SCRIPT"))
local tap = Listener.new("frame")
function tap.packet() if not done then done = true menu() end end
if os.getenv("ANSWER") then menu() end
"#;

#[test]
fn the_menu_makes_a_redacted_copy_of_the_opened_file() {
    for (release, tshark) in tsharks() {
        let home = Home::new();
        let stub = home.write("stub.lua", WITHOUT_WINDOWS.as_bytes());
        let (status, said) = home.tls2pcap(&["install"]);
        assert_eq!(status, Some(0), "{said}");
        let script = home.path().join(".local/lib/wireshark/plugins/tls2pcap_redact.lua");
        // A name that a shell must not take apart.
        let capture = home.write("it's $HOME a `capture`.pcap", &classic_pcap());
        let run = |answer: Option<&str>| {
            let mut command = home.command(tshark);
            command.args(["-2", "-q", "-X"]).arg(format!("lua_script:{}", stub.display()));
            command.arg("-r").arg(&capture).env("SCRIPT", &script);
            answer.map(|answer| command.env("ANSWER", answer));
            both(&command.output().unwrap())
        };
        let said = run(None);
        let copy = home.path().join("it's $HOME a `capture`-redacted.pcap");
        assert!(said.contains(&format!("> open | {}", copy.display())), "tshark {release}: {said}");
        assert!(said.contains("1 of 1 packets changed"), "tshark {release}: {said}");
        assert!(!String::from_utf8_lossy(&std::fs::read(&copy).unwrap()).contains("hunter2Correct"));
        // Before a file is open the name is asked for; one that is wrong is told.
        let said = run(Some("/nonexistent/x.pcap"));
        assert!(said.contains("> dialog | Capture file (none is open)"), "tshark {release}: {said}");
        assert!(said.contains("/nonexistent/x.pcap: there is no such file"), "tshark {release}: {said}");
        let broken = home.write("broken.pcap", b"no capture");
        let said = run(Some(broken.to_str().unwrap()));
        assert!(
            said.contains("No copy of") && said.contains("neither pcapng nor pcap"),
            "tshark {release}: {said}"
        );
    }
}

/// One packet: a request with a cookie.
fn classic_pcap() -> Vec<u8> {
    let mut packet = Vec::new();
    etherparse::PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .tcp(2000, 80, 1, 1000)
        .ack(1)
        .write(&mut packet, b"GET / HTTP/1.1\r\nHost: a\r\nCookie: sid=hunter2Correct\r\n\r\n")
        .unwrap();
    let len = packet.len() as u32;
    let words = [0xa1b2_c3d4, 4 << 16 | 2, 0, 0, 262_144, 101, 1_700_000_000, 0, len, len];
    words.iter().flat_map(|word: &u32| word.to_le_bytes()).chain(packet).collect()
}
