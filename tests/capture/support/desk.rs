//! Somebody who lives in Wireshark: an ordinary user with a home, and with a tls2pcap that may capture.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::capture::TLS2PCAP;
use super::process::Process;
use super::tshark::{self, Tshark};
use super::{Test, copy_program, gate, run, until};

/// The user: nobody.
const USER: u32 = 65534;

/// What the program has, as `tls2pcap wireshark status` says it, and what opens every file to it.
pub const RIGHTS: &str = "cap_bpf,cap_perfmon,cap_sys_ptrace,cap_checkpoint_restore";
const OLD_RIGHTS: &str = ",cap_sys_admin,cap_sys_resource";

/// Wireshark must never capture the whole host here: without a process or a command it is refused.
const GUARD: &str = r#"#!/bin/sh
case " $* " in
*" --capture "*" --pid "[1-9]*|*" --capture "*" --command "*) ;;
*" --capture "*) echo 'a test must say whom to capture' >&2; exit 99 ;;
esac
exec PROGRAM "$@"
"#;

/// See the module.
pub struct Desk<'t> {
    test: &'t Test,
    /// The user's home.
    pub home: PathBuf,
    /// The program, which has the rights.
    pub program: PathBuf,
}

impl<'t> Desk<'t> {
    /// A home with plugin, profile and interface. `None`, with a report, where programs get no
    /// capabilities.
    pub fn new(test: &'t Test, more_rights: &str) -> Option<Desk<'t>> {
        let home = PathBuf::from(test.folder("home"));
        chown(&home, Some(USER), Some(USER)).unwrap();
        let program = test.path("with-rights");
        let desk = Desk { test, home, program };
        copy_program(TLS2PCAP, &desk.program);
        fs::set_permissions(&desk.program, fs::Permissions::from_mode(0o755)).unwrap();
        if !desk.give(&format!("{RIGHTS}{}{more_rights}=p", if is_new_kernel() { "" } else { OLD_RIGHTS })) {
            return None;
        }
        let installed = desk.command(&desk.program).args(["wireshark", "install"]).output().unwrap();
        assert!(installed.status.success(), "{installed:?}");
        let guard = GUARD.replace("PROGRAM", desk.program.to_str().unwrap());
        for link in [".config/wireshark/extcap/tls2pcap", ".local/lib/wireshark/extcap/tls2pcap"] {
            let link = desk.home.join(link);
            assert_eq!(fs::read_link(&link).unwrap(), desk.program);
            fs::remove_file(&link).unwrap();
            fs::write(&link, &guard).unwrap();
            fs::set_permissions(&link, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Some(desk)
    }

    /// Sets the program's capabilities.
    pub fn give(&self, rights: &str) -> bool {
        let set = Command::new("setcap").arg(rights).arg(&self.program).output();
        let works = match &set {
            Ok(set) if set.status.success() => {
                let output = self.command(&self.program).arg("--version").output();
                output.is_ok_and(|output| output.status.success())
            }
            _ => false,
        };
        if !works {
            gate::skipped(
                &self.test.name,
                &format!("programs get no capabilities here: {set:?}"),
                "T2P_REQUIRE_TOOLS",
            );
        }
        works
    }

    /// Takes the program's capabilities away.
    pub fn take_rights(&self) {
        run(Command::new("setcap").arg("-r").arg(&self.program));
    }

    /// A program as the user runs it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let own =
            ["XDG_CONFIG_HOME", "XDG_DATA_HOME", "WIRESHARK_CONFIG_DIR", "SUDO_UID", "SUDO_GID", "SUDO_USER"];
        for name in own {
            command.env_remove(name);
        }
        // In a folder of PATH that only root may enter, a command cannot be said to be absent.
        // Of the system's own interfaces none is wanted, and 4.4 finds none at all without this folder.
        command.env("HOME", &self.home).env("WIRESHARK_EXTCAP_DIR", &self.home).current_dir(&self.home);
        command
            .env("TZ", "UTC")
            .env("LC_ALL", "C.UTF-8")
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .uid(USER)
            .gid(USER);
        command
    }

    /// Each tshark that the user can run. Fails if there is none.
    pub fn tsharks(&self) -> Vec<&'static Tshark> {
        let can_run = |tshark: &&Tshark| {
            let works = self.command(tshark.path()).arg("--version").output().is_ok();
            if !works {
                let why = format!("nobody but root can run {}", tshark.path().display());
                gate::skipped(&format!("tshark {} as a user", tshark.version), &why, "T2P_REQUIRE_ORACLES");
            }
            works
        };
        let found: Vec<_> = tshark::oracles().iter().filter(can_run).collect();
        assert!(!found.is_empty(), "no tshark is there to judge that the user can run");
        found
    }

    /// A capture by tshark from our interface, with these options of it, into a file of this name.
    pub fn start(&self, tshark: &Tshark, options: &[(&str, &str)], more: &[&str], file: &str) -> Process {
        let mut command = self.command(tshark.path());
        command.args(["-q", "-i", "tls2pcap", "-w", file]).args(more);
        for (name, value) in options {
            command.arg("-o").arg(format!("extcap.tls2pcap.{name}:{value}"));
        }
        Process::start(&mut command, self.test.path(&format!("{file}.err")))
    }

    /// Waits until no process of the program is left; how long that took.
    #[track_caller]
    pub fn wait_until_gone(&self) -> Duration {
        let began = Instant::now();
        until("tls2pcap to be gone", || self.running().is_empty().then_some(()));
        began.elapsed()
    }

    /// Pids of the program that have not ended.
    pub fn running(&self) -> Vec<u32> {
        let is_ours =
            |pid: &u32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == self.program);
        let entries = fs::read_dir("/proc").unwrap().flatten();
        entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter(is_ours).collect()
    }

    /// Fields of a file, as the user's tshark shows them with the plugin.
    pub fn fields(&self, tshark: &Tshark, file: &Path, filter: &str, fields: &[&str]) -> Vec<String> {
        let mut command = self.command(tshark.path());
        command.args(["-n", "-r"]).arg(file).args(["-Y", filter, "-T", "fields", "-E", "separator=|"]);
        command.args(fields.iter().flat_map(|field| ["-e", field]));
        String::from_utf8(run(&mut command)).unwrap().lines().map(str::to_owned).collect()
    }
}

/// Whether one process can be probed in bulk.
fn is_new_kernel() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(10))
}
