//! Network namespaces of a test.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::run;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A network namespace with its loopback up; removed when dropped.
pub struct Netns {
    name: String,
    number: u32,
}

impl Netns {
    /// Makes one.
    pub fn new() -> Netns {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("t2p-{}-{number}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]));
        let netns = Netns { name, number };
        netns.ip(&["link", "set", "lo", "up"]);
        netns
    }

    fn ip(&self, args: &[&str]) {
        run(Command::new("ip").args(["-n", &self.name]).args(args));
    }

    /// What goes before a command to run it here.
    pub fn enter(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.name]
    }

    /// A command that runs here.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(&self.enter()[1..]).arg(program);
        command
    }

    /// RSTs that were sent here so far.
    pub fn resets(&self) -> u64 {
        let text = run(self.command("cat").arg("/proc/net/snmp"));
        let text = String::from_utf8(text).unwrap();
        let mut rows = text.lines().filter_map(|l| l.strip_prefix("Tcp: ")).map(str::split_whitespace);
        let (names, mut values) = (rows.next().unwrap(), rows.next().unwrap());
        let index = names.into_iter().position(|n| n == "OutRsts").unwrap();
        values.nth(index).unwrap().parse().unwrap()
    }

    /// Joins this namespace and another by a cable: this end is 10.211.0.1, the other 10.211.0.2.
    pub fn join(&self, other: &Netns) {
        let (here, there) = (format!("t2p{}a", self.number), format!("t2p{}b", self.number));
        self.ip(&["link", "add", &here, "type", "veth", "peer", "name", &there, "netns", &other.name]);
        for (netns, end, ip) in [(self, &here, "10.211.0.1/24"), (other, &there, "10.211.0.2/24")] {
            netns.ip(&["address", "add", ip, "dev", end]);
            netns.ip(&["link", "set", end, "up"]);
        }
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}
