//! The mechanism by which the kernel reports sockets, and whether it attaches uprobes in bulk. Both are chosen
//! by trying, because loading a program proves nothing.

use std::fmt;

/// How `tcp_sendmsg` and `tcp_recvmsg` are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// BPF trampolines: the cheapest; missing where the kernel has no trampolines.
    Fentry,
    /// Kprobes; missing where the kernel is built without them.
    Kprobe,
    /// Typed tracepoints `sock_send_length` and `sock_recv_length`: seen on 6.12, not on 6.1.
    Tracepoint,
}

impl Backend {
    /// In the order in which they are tried.
    pub const ALL: [Backend; 3] = [Backend::Fentry, Backend::Kprobe, Backend::Tracepoint];

    /// Its name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Backend::Fentry => "fentry",
            Backend::Kprobe => "kprobe",
            Backend::Tracepoint => "tracepoint",
        }
    }

    /// What the kernel must have for it.
    pub fn needs(self) -> &'static str {
        match self {
            Backend::Fentry => "BPF trampolines",
            Backend::Kprobe => "kprobes",
            Backend::Tracepoint => "tracepoints sock_send_length and sock_recv_length",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
