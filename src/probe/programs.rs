//! Which programs are loaded, and when: those of sockets and processes at once, those of a kind of library with the
//! first library of that kind. Most of the time that a capture takes to start is the verifier's.
//!
//! Each set is loaded into an object of its own that shares the tables of the first one.

use std::cell::OnceCell;
use std::os::fd::AsFd;

use libbpf_rs::{Object, ObjectBuilder, OpenProgramMut, ProgramAttachType, ProgramMut};

use super::sites::Programs;
use super::{Backend, is_in_library};

/// The object of the skeleton, which keeps it to itself.
const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tls2pcap.bpf.o"));
/// Names of programs that see entry and return.
const IN_SESSION: &str = "session";
/// What one of those does alone.
const READ_APART: [&str; 2] = ["bio_entry_read", "bio_return_read"];
/// How the names of those end that see what a socket has received.
pub(super) const AT_RETURN: &str = "_tcp_recvmsg_return";

/// What is in the names of those that see MPTCP sockets.
pub(super) const OF_MPTCP: &str = "_mptcp_";

/// How the names of those end that see new processes before these run.
pub(super) const AT_BIRTH: &str = "_calculate_sigpending";

/// Programs that are loaded together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProgramSet {
    OpenSsl,
    GnuTls,
    Nss,
    Go,
    Rustls,
    /// Of processes whose handles use no sockets.
    Ciphertext,
}

impl ProgramSet {
    const ALL: [ProgramSet; 6] = [
        ProgramSet::OpenSsl,
        ProgramSet::GnuTls,
        ProgramSet::Nss,
        ProgramSet::Go,
        ProgramSet::Rustls,
        ProgramSet::Ciphertext,
    ];

    /// What they are for, in words.
    fn serves(self) -> &'static str {
        match self {
            ProgramSet::OpenSsl => "OpenSSL",
            ProgramSet::GnuTls => "GnuTLS",
            ProgramSet::Nss => "NSS",
            ProgramSet::Go => "Go",
            ProgramSet::Rustls => "rustls",
            ProgramSet::Ciphertext => "programs that encrypt into memory",
        }
    }

    /// `None`: it is loaded at once.
    fn of(program: &str, programs: Programs) -> Option<ProgramSet> {
        // One program serves all C libraries.
        let by_library = || (programs == Programs::EachUnrolled).then_some(());
        match program {
            name if name.starts_with("go_") => Some(ProgramSet::Go),
            name if name.starts_with("rustls_") => Some(ProgramSet::Rustls),
            name if name.starts_with("bio_") || name.ends_with(AT_RETURN) => Some(ProgramSet::Ciphertext),
            name if name.starts_with("ssl_entry_gnutls_") => by_library().map(|()| ProgramSet::GnuTls),
            name if name.starts_with("ssl_entry_nss_") || name == "ssl_return_of_import" => {
                by_library().map(|()| ProgramSet::Nss)
            }
            name if name.starts_with("ssl_entry_") => by_library().map(|()| ProgramSet::OpenSsl),
            _ => None,
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
}

impl Choice {
    fn takes(&self, name: &str) -> bool {
        let in_session = self.programs == Programs::Session;
        let is_of_session = name.contains(IN_SESSION);
        (!is_in_library(name) || self.programs.needs(name))
            && Backend::of_program(name).is_none_or(|b| b == self.backend)
            && (self.has_ipv6 || !name.starts_with("fentry_udpv6"))
            && (self.has_mptcp || !name.contains(OF_MPTCP))
            && (self.sees_births || !name.ends_with(AT_BIRTH))
            && (is_of_session == in_session || !(is_of_session || READ_APART.contains(&name)))
    }

    fn is_in_bulk(&self, name: &str) -> bool {
        let by_bio = name.starts_with("bio_") && self.bio_in_bulk;
        (by_bio || is_in_library(name) && self.programs.in_bulk()) && !name.contains(IN_SESSION)
    }

    /// Says of each program whether it is loaded now, and how it will be attached.
    pub(super) fn prepare<'o>(&self, programs: impl Iterator<Item = OpenProgramMut<'o>>) {
        self.prepare_set(programs, None);
    }

    fn prepare_set<'o>(&self, programs: impl Iterator<Item = OpenProgramMut<'o>>, set: Option<ProgramSet>) {
        for mut program in programs {
            let name = program.name().to_string_lossy().into_owned();
            program.set_autoload(ProgramSet::of(&name, self.programs) == set && self.takes(&name));
            if self.is_in_bulk(&name) {
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
        let object = match ProgramSet::of(name, self.choice.programs) {
            Some(set) => self.object(first, set)?,
            None => first,
        };
        let found = object.progs_mut().find(|program| program.name() == name);
        Ok(found.expect("the object has every program that is named here"))
    }

    fn object(&self, first: &Object, set: ProgramSet) -> libbpf_rs::Result<&Object> {
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
