//! What an expression became, for people.

use super::{Ends, Expr, Filter, Needs, Test};

/// Where a test is decided.
const LATER: &str = "user space, before the connection's first byte is written";

impl Filter {
    /// Several lines: the parts of the expression, and where each is decided.
    pub fn explained(&self) -> String {
        let needs = self.needs();
        let mut lines = Vec::new();
        self.expr.explain(0, "", &needs, &mut lines);
        let width = lines.iter().map(|(text, _)| text.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for (part, place) in lines {
            match place {
                Some(place) => text.push_str(&format!("{part:width$}  {place}\n")),
                None => text.push_str(&format!("{part}\n")),
            }
        }
        let list = |ids: &[u32]| ids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        text.push_str(&match needs {
            Needs::Pids(pids) => {
                format!("without -p, -u or --all: only these processes are probed: {}\n", list(&pids))
            }
            Needs::Uids(uids) => format!(
                "without -p, -u or --all: only calls of these users leave the kernel: {}\n",
                list(&uids)
            ),
            Needs::Nothing => {
                "also use -p, -u, --all or a command: this expression does not select processes\n".to_owned()
            }
        });
        text.push_str("if the result is unknown: the connection is kept and marked filter=unknown, or left out with --unknown leave\n");
        text
    }
}

impl Expr {
    fn explain(&self, depth: usize, before: &str, needs: &Needs, lines: &mut Vec<(String, Option<String>)>) {
        let indent = "  ".repeat(depth);
        let mut parts = |word: &str, parts: &[Expr]| {
            lines.push((format!("{indent}{before}{word}"), None));
            parts.iter().for_each(|part| part.explain(depth + 1, "", needs, lines));
        };
        match self {
            Expr::Test(test, _) => {
                let is_needed = match (test, needs) {
                    (Test::Pid(pid), Needs::Pids(pids)) => pids.contains(pid),
                    (Test::Uid(uid), Needs::Uids(uids)) => uids.contains(uid),
                    _ => false,
                };
                let place = match test {
                    Test::Tcp => "always true: only TCP is captured",
                    _ if is_needed => "kernel, before anything is copied; and again in user space",
                    _ => LATER,
                };
                lines.push((format!("{indent}{before}{}", test.text()), Some(place.to_owned())));
            }
            Expr::Not(expr) => expr.explain(depth, &format!("{before}not "), needs, lines),
            Expr::And(all) => parts("all of", all),
            Expr::Or(any) => parts("any of", any),
        }
    }
}

impl Test {
    fn text(&self) -> String {
        let of = |ends: &Ends| match ends {
            Ends::Either => "",
            Ends::Client => "client's ",
            Ends::Server => "server's ",
            Ends::Both => "both ends' ",
        };
        match self {
            Test::Net(ends, net, len) => {
                let is_host = *len == if net.is_ipv4() { 32 } else { 128 };
                if is_host {
                    format!("{}address {net}", of(ends))
                } else {
                    format!("{}network {net}/{len}", of(ends))
                }
            }
            Test::Ports(ends, low, high) if low == high => format!("{}port {low}", of(ends)),
            Test::Ports(ends, low, high) => format!("{}ports {low}-{high}", of(ends)),
            Test::Tcp => "TCP".into(),
            Test::Family { six } => if *six { "IPv6" } else { "IPv4" }.into(),
            Test::Pid(pid) => format!("pid {pid}"),
            Test::Uid(uid) => format!("uid {uid}"),
            Test::Netns(netns) => format!("network namespace {netns}"),
            Test::Client(is_client) => format!("role {}", if *is_client { "client" } else { "server" }),
            Test::Comm(pattern) => format!("command name {:?}", pattern.0),
            Test::Exe(pattern) => format!("executable {:?}", pattern.0),
            Test::Container(pattern) => format!("container {:?}", pattern.0),
            Test::Sni(pattern) => format!("server name {:?}", pattern.0),
            Test::Alpn(pattern) => format!("ALPN {:?}", pattern.0),
            Test::Library(pattern) => format!("library with {:?}", pattern.0),
            Test::Proto(names) => format!("protocol {}", names.join(" or ")),
        }
    }
}
