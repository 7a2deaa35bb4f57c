//! The programs of `bpf/tls2pcap.bpf.c`: what each is for, and so whether and when it is loaded. Those for
//! sockets and processes are loaded at the start, those for a kind of library with the first library of that
//! kind, because most of the start-up time is the verifier's.
//!
//! Each set is loaded into a separate object that shares the tables of the first one.

use std::cell::OnceCell;
use std::os::fd::AsFd;

use libbpf_rs::{Object, ObjectBuilder, OpenProgramMut, ProgramAttachType, ProgramMut};

use super::Backend;
use super::sites::Programs;

/// The object of the skeleton, which keeps it to itself.
const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tls2pcap.bpf.o"));

/// What a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Job {
    /// It sees processes and the files that they map, and the states of sockets.
    Processes,
    /// It tries what the kernel does with a probe of tls2pcap's own.
    Trial,
    /// It sees what is sent and received by TCP.
    Sockets(Backend),
    /// For UDP, which the kernel may not have, to recognise QUIC and DTLS.
    Datagrams(Backend),
    /// By UDP over IPv6.
    Datagrams6(Backend),
    /// By MPTCP.
    Multipath(Backend),
    /// It sees new threads before they run.
    Births(Backend),
    /// It sees what a socket has received.
    Received(Backend),
    /// It sees functions of libraries, where libraries are probed in one of these ways.
    Functions(ProgramSet, &'static [Programs]),
    /// It sees BIO_write and BIO_read: the latter's entry and return in one, apart, or either way.
    Records(Reads),
}

/// How a program sees what BIO_read reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reads {
    InSession,
    Apart,
    EitherWay,
}

/// Programs that are loaded together, later than all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProgramSet {
    /// One program for all libraries in C.
    C,
    OpenSsl,
    GnuTls,
    Nss,
    Go,
    Rustls,
    /// Of processes whose handles use no sockets.
    IntoMemory,
}

use Programs::{Bulk, Each, EachUnrolled, Session};

/// Functions of libraries by what sees them.
const IN_SESSION: &[Programs] = &[Session];
const APART: &[Programs] = &[Bulk, Each];
const LOOPING: &[Programs] = &[Session, Bulk, Each];
const UNROLLED: &[Programs] = &[EachUnrolled];
const ANY: &[Programs] = &[Session, Bulk, Each, EachUnrolled];

const OPENSSL: Job = Job::Functions(ProgramSet::OpenSsl, UNROLLED);
const GNUTLS: Job = Job::Functions(ProgramSet::GnuTls, UNROLLED);
const NSS: Job = Job::Functions(ProgramSet::Nss, UNROLLED);
const GO: Job = Job::Functions(ProgramSet::Go, UNROLLED);
const RUSTLS: Job = Job::Functions(ProgramSet::Rustls, UNROLLED);

/// Every program.
const TABLE: &[(Job, &[&str])] = &[
    (Job::Processes, &["process_fork", "process_exec", "process_exit", "mapping", "socket_state"]),
    (Job::Trial, &["trial"]),
    (Job::Sockets(Backend::Fentry), &["fentry_tcp_sendmsg", "fentry_tcp_recvmsg"]),
    (Job::Sockets(Backend::Kprobe), &["kprobe_tcp_sendmsg", "kprobe_tcp_recvmsg"]),
    (Job::Sockets(Backend::Tracepoint), &["tracepoint_sock_send_length", "tracepoint_sock_recv_length"]),
    (Job::Datagrams(Backend::Fentry), &["fentry_udp_sendmsg", "fentry_udp_recvmsg"]),
    (Job::Datagrams(Backend::Kprobe), &["kprobe_udp_sendmsg", "kprobe_udp_recvmsg"]),
    (Job::Datagrams6(Backend::Fentry), &["fentry_udpv6_sendmsg", "fentry_udpv6_recvmsg"]),
    (Job::Datagrams6(Backend::Kprobe), &["kprobe_udpv6_sendmsg", "kprobe_udpv6_recvmsg"]),
    (Job::Multipath(Backend::Fentry), &["fentry_mptcp_sendmsg", "fentry_mptcp_recvmsg"]),
    (Job::Multipath(Backend::Kprobe), &["kprobe_mptcp_sendmsg", "kprobe_mptcp_recvmsg"]),
    (Job::Births(Backend::Fentry), &["fentry_calculate_sigpending"]),
    (Job::Births(Backend::Kprobe), &["kprobe_calculate_sigpending"]),
    (Job::Received(Backend::Fentry), &["fentry_tcp_recvmsg_return"]),
    (Job::Received(Backend::Kprobe), &["kprobe_tcp_recvmsg_return"]),
    (Job::Records(Reads::EitherWay), &["bio_entry_write"]),
    (Job::Records(Reads::Apart), &["bio_entry_read", "bio_return_read"]),
    (Job::Records(Reads::InSession), &["bio_session_read"]),
    (Job::Functions(ProgramSet::C, IN_SESSION), &["ssl_session"]),
    (Job::Functions(ProgramSet::C, APART), &["ssl_any_entry", "ssl_return_any"]),
    (Job::Functions(ProgramSet::C, UNROLLED), &["ssl_return_unrolled", "ssl_return_of_new"]),
    (Job::Functions(ProgramSet::Go, LOOPING), &["go_any_entry", "go_return"]),
    (Job::Functions(ProgramSet::Rustls, LOOPING), &["rustls_any_entry"]),
    (Job::Functions(ProgramSet::Rustls, ANY), &["rustls_return"]),
    (
        OPENSSL,
        &[
            "ssl_entry_read",
            "ssl_entry_read_ex",
            "ssl_entry_read_early",
            "ssl_entry_read_internal",
            "ssl_entry_write",
            "ssl_entry_write_ex",
            "ssl_entry_write_ex2",
            "ssl_entry_write_early",
            "ssl_entry_write_internal",
            "ssl_entry_sendfile",
            "ssl_entry_peek",
            "ssl_entry_handshake",
            "ssl_entry_connect",
            "ssl_entry_accept",
            "ssl_entry_shutdown",
            "ssl_entry_server_name",
            "ssl_entry_alpn",
            "ssl_entry_up_ref",
            "ssl_entry_clear",
            "ssl_entry_ctrl",
            "ssl_entry_connect_state",
            "ssl_entry_accept_state",
            "ssl_entry_set_socket",
        ],
    ),
    // The end of a handle, of GnuTLS too.
    (Job::Functions(ProgramSet::C, UNROLLED), &["ssl_entry_free"]),
    (
        GNUTLS,
        &[
            "ssl_entry_gnutls_send",
            "ssl_entry_gnutls_send_range",
            "ssl_entry_gnutls_send_file",
            "ssl_entry_gnutls_cork",
            "ssl_entry_gnutls_uncork",
            "ssl_entry_gnutls_recv",
            "ssl_entry_gnutls_recv_early",
            "ssl_entry_gnutls_recv_packet",
            "ssl_entry_gnutls_handshake",
            "ssl_entry_gnutls_bye",
            "ssl_entry_gnutls_init",
            "ssl_entry_gnutls_name_set",
            "ssl_entry_gnutls_name_get",
            "ssl_entry_gnutls_alpn",
            "ssl_entry_gnutls_set_socket",
        ],
    ),
    (
        NSS,
        &[
            "ssl_return_of_import",
            "ssl_entry_nss_read",
            "ssl_entry_nss_recv",
            "ssl_entry_nss_write",
            "ssl_entry_nss_send",
            "ssl_entry_nss_writev",
            "ssl_entry_nss_close",
            "ssl_entry_nss_shutdown",
            "ssl_entry_nss_option",
            "ssl_entry_nss_reset",
            "ssl_entry_nss_force",
            "ssl_entry_nss_url",
            "ssl_entry_nss_proto",
        ],
    ),
    (
        GO,
        &[
            "go_return_unrolled",
            "go_entry_read",
            "go_entry_write",
            "go_entry_close",
            "go_entry_close_notify",
            "go_entry_client",
            "go_entry_server",
        ],
    ),
    (
        RUSTLS,
        &[
            "rustls_entry_read",
            "rustls_entry_write",
            "rustls_entry_read_gcm",
            "rustls_entry_write_gcm",
            "rustls_entry_read_chacha",
            "rustls_entry_write_chacha",
            "rustls_entry_read_owned",
            "rustls_entry_write_owned",
            "rustls_entry_read_owned_gcm",
            "rustls_entry_write_owned_gcm",
            "rustls_entry_read_owned_chacha",
            "rustls_entry_write_owned_chacha",
        ],
    ),
];

impl Job {
    /// That of the program of this name. The table has every one (see the test).
    pub(super) fn of(program: &str) -> Option<Job> {
        TABLE.iter().find(|(_, names)| names.contains(&program)).map(|(job, _)| *job)
    }

    /// The programs that do it.
    pub(super) fn programs(self) -> impl Iterator<Item = &'static str> {
        TABLE.iter().filter(move |(job, _)| *job == self).flat_map(|(_, names)| *names).copied()
    }

    /// The back end that it belongs to; `None`: every one.
    fn backend(self) -> Option<Backend> {
        match self {
            Job::Sockets(backend)
            | Job::Datagrams(backend)
            | Job::Datagrams6(backend)
            | Job::Multipath(backend)
            | Job::Births(backend)
            | Job::Received(backend) => Some(backend),
            Job::Processes | Job::Trial | Job::Functions(..) | Job::Records(_) => None,
        }
    }

    /// Whether it is attached as soon as it is loaded, and stays attached.
    pub(super) fn is_for_all(self) -> bool {
        !matches!(self, Job::Trial | Job::Functions(..) | Job::Records(_) | Job::Received(_))
    }

    /// Whether a capture continues without it.
    pub(super) fn is_optional(self) -> bool {
        matches!(self, Job::Datagrams(_) | Job::Datagrams6(_) | Job::Multipath(_) | Job::Births(_))
    }

    /// Whether it runs where a program uses its sockets.
    pub(super) fn is_of_sockets(program: &str) -> bool {
        program == "socket_state" || Job::of(program).is_some_and(|job| job.backend().is_some())
    }
}

impl ProgramSet {
    const ALL: [ProgramSet; 7] = [
        ProgramSet::C,
        ProgramSet::OpenSsl,
        ProgramSet::GnuTls,
        ProgramSet::Nss,
        ProgramSet::Go,
        ProgramSet::Rustls,
        ProgramSet::IntoMemory,
    ];

    /// What they are for, in words.
    fn serves(self) -> &'static str {
        match self {
            ProgramSet::C => "OpenSSL, GnuTLS and NSS",
            ProgramSet::OpenSsl => "OpenSSL",
            ProgramSet::GnuTls => "GnuTLS",
            ProgramSet::Nss => "NSS",
            ProgramSet::Go => "Go",
            ProgramSet::Rustls => "rustls",
            ProgramSet::IntoMemory => "programs that encrypt into memory",
        }
    }
}

/// Which of the object's programs this kernel takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    pub backend: Backend,
    pub programs: Programs,
    /// See [`super::bio::in_bulk`].
    pub bio_in_bulk: bool,
    /// An IPv6 that is a module is not in the kernel's own type information, and fails the load.
    pub has_ipv6: bool,
    /// The kernel has MPTCP, which is never a module.
    pub has_mptcp: bool,
    /// New processes are to wait before they run, and the kernel has the function where they can.
    pub sees_births: bool,
    /// What libraries in C need is not left for later.
    pub c_at_once: bool,
}

impl Choice {
    pub(super) fn takes(&self, job: Job) -> bool {
        let is_of_backend = job.backend().is_none_or(|backend| backend == self.backend);
        is_of_backend
            && match job {
                Job::Processes | Job::Sockets(_) | Job::Datagrams(_) | Job::Received(_) => true,
                Job::Trial => self.programs.in_bulk(),
                Job::Datagrams6(_) => self.has_ipv6,
                Job::Multipath(_) => self.has_mptcp,
                Job::Births(_) => self.sees_births,
                Job::Functions(_, ways) => ways.contains(&self.programs),
                Job::Records(Reads::InSession) => self.programs == Session,
                Job::Records(Reads::Apart) => self.programs != Session,
                Job::Records(Reads::EitherWay) => true,
            }
    }

    /// What it is loaded with; `None`: it is loaded at the start.
    fn set(&self, job: Job) -> Option<ProgramSet> {
        match job {
            Job::Functions(ProgramSet::C, _) if self.c_at_once => None,
            Job::Functions(set, _) => Some(set),
            Job::Records(_) | Job::Received(_) => Some(ProgramSet::IntoMemory),
            _ => None,
        }
    }

    /// Whether it is loaded to be attached to many places in one call. A session is separate.
    fn is_in_bulk(&self, job: Job) -> bool {
        match job {
            Job::Trial => true,
            Job::Functions(_, ways) => self.programs.in_bulk() && ways != IN_SESSION,
            Job::Records(reads) => self.bio_in_bulk && reads != Reads::InSession,
            _ => false,
        }
    }

    /// Says of each program whether it is loaded now, and how it will be attached.
    pub(super) fn prepare<'o>(&self, programs: impl Iterator<Item = OpenProgramMut<'o>>) {
        self.prepare_set(programs, None);
    }

    fn prepare_set<'o>(&self, programs: impl Iterator<Item = OpenProgramMut<'o>>, set: Option<ProgramSet>) {
        for mut program in programs {
            let job = Job::of(&program.name().to_string_lossy());
            program.set_autoload(job.is_some_and(|job| self.set(job) == set && self.takes(job)));
            if job.is_some_and(|job| self.is_in_bulk(job)) {
                program.set_attach_type(ProgramAttachType::TraceUprobeMulti);
            }
        }
    }
}

/// What is loaded later.
#[derive(Debug)]
pub(super) struct Later {
    choice: Choice,
    objects: [OnceCell<Object>; ProgramSet::ALL.len()],
}

impl Later {
    pub(super) fn new(choice: Choice) -> Later {
        Later { choice, objects: Default::default() }
    }

    /// A program of `first`, or of a set, which is loaded if it is not yet.
    ///
    /// # Errors
    /// If the kernel does not take that set.
    pub(super) fn program<'p>(&'p self, first: &'p Object, name: &str) -> libbpf_rs::Result<ProgramMut<'p>> {
        let object = match Job::of(name).and_then(|job| self.choice.set(job)) {
            Some(set) => self.object(first, set)?,
            None => first,
        };
        let found = object.progs_mut().find(|program| program.name() == name);
        Ok(found.expect("the object has every program that is named here"))
    }

    /// The object of a set, which is loaded if it is not yet.
    ///
    /// # Errors
    /// If the kernel does not take it.
    pub(super) fn object<'p>(&'p self, first: &'p Object, set: ProgramSet) -> libbpf_rs::Result<&'p Object> {
        if set == ProgramSet::C && self.choice.c_at_once {
            return Ok(first);
        }
        let cell = &self.objects[set as usize];
        if cell.get().is_none() {
            let _ = cell.set(self.load(first, set)?);
        }
        Ok(cell.get().expect("it was set just now"))
    }

    fn load(&self, first: &Object, set: ProgramSet) -> libbpf_rs::Result<Object> {
        let mut open = ObjectBuilder::default().open_memory(OBJECT)?;
        // The same object: its maps come in the same order.
        for (mut map, there) in open.maps_mut().zip(first.maps()) {
            map.reuse_fd(there.as_fd())?;
        }
        self.choice.prepare_set(open.progs_mut(), Some(set));
        open.load()
    }

    /// Loads all sets; with what each serves that the kernel does not take, why.
    pub(super) fn try_all(&self, first: &Object) -> Vec<(&'static str, libbpf_rs::Error)> {
        let tried = ProgramSet::ALL.into_iter().map(|set| (set.serves(), self.object(first, set)));
        tried.filter_map(|(of, object)| Some((of, object.err()?))).collect()
    }

    /// The objects that are loaded.
    pub(super) fn loaded(&self) -> impl Iterator<Item = &Object> {
        self.objects.iter().filter_map(OnceCell::get)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_program_stands_in_the_table_once() {
        let object = ObjectBuilder::default().open_memory(OBJECT).unwrap();
        let there: Vec<String> =
            object.progs().map(|program| program.name().to_string_lossy().into_owned()).collect();
        let named: Vec<&str> = TABLE.iter().flat_map(|(_, names)| *names).copied().collect();
        let unique: BTreeSet<&str> = named.iter().copied().collect();
        assert_eq!(unique.len(), named.len());
        assert_eq!(unique, there.iter().map(String::as_str).collect());
    }
}
