//! Which program is attached where in a library.

use super::parts::What;
use super::skeleton::types::{t2p_rustls_flag, t2p_site};
use crate::discover::code::Place;
use crate::discover::elf::TlsLibrary;
use crate::discover::function::Function;
use crate::discover::go::GoFunction;
use crate::discover::internal::Behind;
use crate::discover::rustls::{Protection, RustlsFunction};

/// What is attached and removed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Group {
    /// The internal functions.
    Internal,
    /// Exports that are probed throughout.
    Base,
    /// An export that its internal function may take over.
    Export(Function),
}

/// One probe in a library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Site {
    /// What is probed: with the library's number it makes the attach cookie.
    pub site: t2p_site,
    /// File offset.
    pub offset: u64,
    /// The program for this entry where each entry has its own; `None`: this is a return.
    pub entry: Option<&'static str>,
    /// Whose it is.
    pub kind: Kind,
    pub group: Group,
    /// Nothing else is probed of its function.
    pub alone: bool,
}

impl Site {
    /// It is that of an internal function.
    pub(super) fn is_behind(&self) -> bool {
        self.group == Group::Internal
    }

    /// An instruction with which a function returns.
    pub(super) fn at_return(site: t2p_site, offset: u64, kind: Kind, group: Group) -> Site {
        Site { site, offset, entry: None, kind, group, alone: false }
    }
}

/// Which programs of `bpf/` are for a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Those for libraries in C.
    C,
    /// Those for Go: a return is an instruction, and not what the kernel makes of an entry.
    Go,
    /// Those for rustls.
    Rustls,
}

/// How a function is probed: the program for its entry where each entry has its own; whether its
/// return is probed.
fn of(function: Function) -> (t2p_site, Option<&'static str>, bool) {
    match function {
        Function::Read => (t2p_site::T2P_SITE_READ, Some("ssl_entry_read"), true),
        Function::ReadEx => (t2p_site::T2P_SITE_READ_EX, Some("ssl_entry_read_ex"), true),
        Function::Write => (t2p_site::T2P_SITE_WRITE, Some("ssl_entry_write"), true),
        Function::WriteEx => (t2p_site::T2P_SITE_WRITE_EX, Some("ssl_entry_write_ex"), true),
        Function::WriteEx2 => (t2p_site::T2P_SITE_WRITE_EX2, Some("ssl_entry_write_ex2"), true),
        Function::Peek | Function::PeekEx => (t2p_site::T2P_SITE_PEEK, Some("ssl_entry_peek"), true),
        Function::ReadEarlyData => (t2p_site::T2P_SITE_READ_EARLY, Some("ssl_entry_read_early"), true),
        Function::WriteEarlyData => (t2p_site::T2P_SITE_WRITE_EARLY, Some("ssl_entry_write_early"), true),
        Function::Sendfile => (t2p_site::T2P_SITE_SENDFILE, Some("ssl_entry_sendfile"), true),
        Function::DoHandshake => (t2p_site::T2P_SITE_HANDSHAKE, Some("ssl_entry_handshake"), true),
        Function::Connect => (t2p_site::T2P_SITE_CONNECT, Some("ssl_entry_connect"), true),
        Function::Accept => (t2p_site::T2P_SITE_ACCEPT, Some("ssl_entry_accept"), true),
        Function::Shutdown => (t2p_site::T2P_SITE_SHUTDOWN, Some("ssl_entry_shutdown"), true),
        Function::GetServername => (t2p_site::T2P_SITE_SERVER_NAME, Some("ssl_entry_server_name"), true),
        Function::GetAlpnSelected => (t2p_site::T2P_SITE_ALPN, Some("ssl_entry_alpn"), true),
        Function::New => (t2p_site::T2P_SITE_NEW, None, true),
        Function::Free => (t2p_site::T2P_SITE_FREE, Some("ssl_entry_free"), false),
        Function::UpRef => (t2p_site::T2P_SITE_UP_REF, Some("ssl_entry_up_ref"), false),
        Function::Clear => (t2p_site::T2P_SITE_CLEAR, Some("ssl_entry_clear"), false),
        Function::Ctrl => (t2p_site::T2P_SITE_CTRL, Some("ssl_entry_ctrl"), false),
        Function::SetConnectState => {
            (t2p_site::T2P_SITE_CONNECT_STATE, Some("ssl_entry_connect_state"), false)
        }
        Function::SetAcceptState => (t2p_site::T2P_SITE_ACCEPT_STATE, Some("ssl_entry_accept_state"), false),
        Function::SetFd
        | Function::SetRfd
        | Function::SetWfd
        | Function::SetBio
        | Function::SetRbio
        | Function::SetWbio => (t2p_site::T2P_SITE_SET_SOCKET, Some("ssl_entry_set_socket"), false),
        Function::GnutlsSend | Function::GnutlsSend2 => {
            (t2p_site::T2P_SITE_GNUTLS_SEND, Some("ssl_entry_gnutls_send"), true)
        }
        Function::GnutlsSendRange => {
            (t2p_site::T2P_SITE_GNUTLS_SEND_RANGE, Some("ssl_entry_gnutls_send_range"), true)
        }
        Function::GnutlsSendFile => {
            (t2p_site::T2P_SITE_GNUTLS_SEND_FILE, Some("ssl_entry_gnutls_send_file"), true)
        }
        Function::GnutlsCork => (t2p_site::T2P_SITE_GNUTLS_CORK, Some("ssl_entry_gnutls_cork"), false),
        Function::GnutlsUncork => (t2p_site::T2P_SITE_GNUTLS_UNCORK, Some("ssl_entry_gnutls_uncork"), true),
        Function::GnutlsRecv | Function::GnutlsRecvSeq => {
            (t2p_site::T2P_SITE_GNUTLS_RECV, Some("ssl_entry_gnutls_recv"), true)
        }
        Function::GnutlsRecvEarly => {
            (t2p_site::T2P_SITE_GNUTLS_RECV_EARLY, Some("ssl_entry_gnutls_recv_early"), true)
        }
        Function::GnutlsRecvPacket => {
            (t2p_site::T2P_SITE_GNUTLS_RECV_PACKET, Some("ssl_entry_gnutls_recv_packet"), true)
        }
        Function::GnutlsHandshake => {
            (t2p_site::T2P_SITE_GNUTLS_HANDSHAKE, Some("ssl_entry_gnutls_handshake"), true)
        }
        Function::GnutlsBye => (t2p_site::T2P_SITE_GNUTLS_BYE, Some("ssl_entry_gnutls_bye"), true),
        Function::GnutlsInit => (t2p_site::T2P_SITE_GNUTLS_INIT, Some("ssl_entry_gnutls_init"), true),
        Function::GnutlsDeinit => (t2p_site::T2P_SITE_FREE, Some("ssl_entry_free"), false),
        Function::GnutlsNameSet => {
            (t2p_site::T2P_SITE_GNUTLS_NAME_SET, Some("ssl_entry_gnutls_name_set"), false)
        }
        Function::GnutlsNameGet => {
            (t2p_site::T2P_SITE_GNUTLS_NAME_GET, Some("ssl_entry_gnutls_name_get"), true)
        }
        Function::GnutlsAlpn => (t2p_site::T2P_SITE_GNUTLS_ALPN, Some("ssl_entry_gnutls_alpn"), true),
        Function::GnutlsSetPtr | Function::GnutlsSetPtr2 | Function::GnutlsSetInt2 => {
            (t2p_site::T2P_SITE_GNUTLS_SET_SOCKET, Some("ssl_entry_gnutls_set_socket"), false)
        }
        Function::NssRead => (t2p_site::T2P_SITE_NSS_READ, Some("ssl_entry_nss_read"), true),
        Function::NssRecv => (t2p_site::T2P_SITE_NSS_RECV, Some("ssl_entry_nss_recv"), true),
        Function::NssWrite => (t2p_site::T2P_SITE_NSS_WRITE, Some("ssl_entry_nss_write"), true),
        Function::NssSend => (t2p_site::T2P_SITE_NSS_SEND, Some("ssl_entry_nss_send"), true),
        Function::NssWritev => (t2p_site::T2P_SITE_NSS_WRITEV, Some("ssl_entry_nss_writev"), true),
        Function::NssClose => (t2p_site::T2P_SITE_NSS_CLOSE, Some("ssl_entry_nss_close"), false),
        Function::NssShutdown => (t2p_site::T2P_SITE_NSS_SHUTDOWN, Some("ssl_entry_nss_shutdown"), true),
        Function::NssImport | Function::NssAccept => (t2p_site::T2P_SITE_NSS_IMPORT, None, true),
        Function::NssOption => (t2p_site::T2P_SITE_NSS_OPTION, Some("ssl_entry_nss_option"), false),
        Function::NssReset => (t2p_site::T2P_SITE_NSS_RESET, Some("ssl_entry_nss_reset"), false),
        Function::NssForce => (t2p_site::T2P_SITE_NSS_FORCE, Some("ssl_entry_nss_force"), true),
        Function::NssUrl => (t2p_site::T2P_SITE_NSS_URL, Some("ssl_entry_nss_url"), false),
        Function::NssProto => (t2p_site::T2P_SITE_NSS_PROTO, Some("ssl_entry_nss_proto"), true),
    }
}

/// Whether the return of a function is of interest.
pub(super) fn is_left(function: Function) -> bool {
    of(function).2
}

/// The site of an export.
pub(super) fn site_of(function: Function) -> t2p_site {
    of(function).0
}

/// The internal functions of a library, and their sites.
pub(super) fn behind(library: &TlsLibrary) -> impl Iterator<Item = (t2p_site, &Behind)> {
    let internal = &library.internal;
    let read = internal.read.iter().map(|b| (t2p_site::T2P_SITE_READ_INTERNAL, b));
    read.chain(internal.write.iter().map(|b| (t2p_site::T2P_SITE_WRITE_INTERNAL, b)))
}

/// Every probe of a library.
pub(super) fn sites(library: &TlsLibrary, programs: Programs) -> Vec<Site> {
    let mut sites = Vec::new();
    let mut add = |site, place: Place, entry: Option<&'static str>, at_return: bool, group| {
        // A return is where its entry is: the stack pointer is the same.
        let offset = place.offset;
        let alone = entry.is_none() || !at_return;
        let of = |entry| Site { site, offset, entry, kind: Kind::C, group, alone };
        // A session is both in one.
        let is_needed = at_return && (entry.is_none() || programs != Programs::Session);
        sites.extend(is_needed.then(|| Site { alone: false, ..of(None) }));
        sites.extend(entry.map(|_| of(entry)));
    };
    for (site, behind) in behind(library) {
        let entry = match site {
            t2p_site::T2P_SITE_READ_INTERNAL => "ssl_entry_read_internal",
            _ => "ssl_entry_write_internal",
        };
        add(site, behind.place, Some(entry), true, Group::Internal);
    }
    for (function, place) in library.offsets.places() {
        let (site, entry, at_return) = of(function);
        let is_wrapper = behind(library).any(|(_, behind)| behind.exports.contains(&function));
        add(site, place, entry, at_return, if is_wrapper { Group::Export(function) } else { Group::Base });
    }
    for place in library.go.iter().flat_map(|go| &go.places) {
        let (site, entry) = of_go(place.function);
        let of =
            |offset, entry| Site { site, offset, entry, kind: Kind::Go, group: Group::Base, alone: false };
        sites.extend(place.returns.iter().map(|at| of(*at, None)));
        sites.push(of(place.entry, Some(entry)));
    }
    for place in library.rustls.iter().flat_map(|rustls| &rustls.places) {
        let (site, entry) = of_rustls(place.function);
        let of = |entry| Site {
            site,
            offset: place.entry,
            entry,
            kind: Kind::Rustls,
            group: Group::Base,
            alone: false,
        };
        sites.extend([of(None), of(Some(entry))]);
    }
    sites
}

/// As `of`, for a function of a Go program.
fn of_go(function: GoFunction) -> (t2p_site, &'static str) {
    match function {
        GoFunction::Read => (t2p_site::T2P_SITE_GO_READ, "go_entry_read"),
        GoFunction::Write => (t2p_site::T2P_SITE_GO_WRITE, "go_entry_write"),
        GoFunction::Close => (t2p_site::T2P_SITE_GO_CLOSE, "go_entry_close"),
        GoFunction::CloseNotify => (t2p_site::T2P_SITE_GO_CLOSE_NOTIFY, "go_entry_close_notify"),
        GoFunction::Client => (t2p_site::T2P_SITE_GO_CLIENT, "go_entry_client"),
        GoFunction::Server => (t2p_site::T2P_SITE_GO_SERVER, "go_entry_server"),
    }
}

/// As `of`, for a function of rustls.
fn of_rustls(function: RustlsFunction) -> (t2p_site, &'static str) {
    let RustlsFunction { encrypts, protection, owned } = function;
    let entry = match (owned, protection, encrypts) {
        (false, Protection::Tls13, false) => "rustls_entry_read",
        (false, Protection::Tls13, true) => "rustls_entry_write",
        (false, Protection::Tls12Gcm, false) => "rustls_entry_read_gcm",
        (false, Protection::Tls12Gcm, true) => "rustls_entry_write_gcm",
        (false, Protection::Tls12ChaCha, false) => "rustls_entry_read_chacha",
        (false, Protection::Tls12ChaCha, true) => "rustls_entry_write_chacha",
        (true, Protection::Tls13, false) => "rustls_entry_read_owned",
        (true, Protection::Tls13, true) => "rustls_entry_write_owned",
        (true, Protection::Tls12Gcm, false) => "rustls_entry_read_owned_gcm",
        (true, Protection::Tls12Gcm, true) => "rustls_entry_write_owned_gcm",
        (true, Protection::Tls12ChaCha, false) => "rustls_entry_read_owned_chacha",
        (true, Protection::Tls12ChaCha, true) => "rustls_entry_write_owned_chacha",
    };
    let is = |flag: t2p_rustls_flag, set: bool| if set { flag.0 } else { 0 };
    let kind = is(t2p_rustls_flag::T2P_RUSTLS_WRITES, encrypts)
        | is(t2p_rustls_flag::T2P_RUSTLS_GCM, protection == Protection::Tls12Gcm)
        | is(t2p_rustls_flag::T2P_RUSTLS_CHACHA, protection == Protection::Tls12ChaCha)
        | is(t2p_rustls_flag::T2P_RUSTLS_OWNED, owned);
    (t2p_site(t2p_site::T2P_SITE_RUSTLS.0 + kind), entry)
}

/// Which programs of `bpf/tls2pcap.bpf.c` probe libraries: it depends on the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Programs {
    /// One program for all functions, which sees entry and return (Linux 6.13).
    Session,
    /// Two programs for all functions, attached in bulk with cookies (Linux 6.6).
    Bulk,
    /// The same two, attached one by one with cookies (Linux 5.17).
    Each,
    /// A program for each entry and few for returns, without cookies and `bpf_loop`.
    EachUnrolled,
}

impl Programs {
    /// Name of the program for a site.
    pub fn name(self, site: &Site) -> &'static str {
        match (self, site.kind, site.entry) {
            (_, Kind::Rustls, None) => "rustls_return",
            (Programs::EachUnrolled, _, Some(entry)) => entry,
            (Programs::EachUnrolled, Kind::Go, None) => "go_return_unrolled",
            (Programs::EachUnrolled, Kind::C, None) => match site.site {
                t2p_site::T2P_SITE_NEW => "ssl_return_of_new",
                t2p_site::T2P_SITE_NSS_IMPORT => "ssl_return_of_import",
                _ => "ssl_return_unrolled",
            },
            // Its cookie tells a program which function it is at.
            (_, Kind::Go, Some(_)) => "go_any_entry",
            (_, Kind::Go, None) => "go_return",
            (_, Kind::Rustls, Some(_)) => "rustls_any_entry",
            (Programs::Session, Kind::C, _) => "ssl_session",
            (_, Kind::C, Some(_)) => "ssl_any_entry",
            (_, Kind::C, None) => "ssl_return_any",
        }
    }

    /// Whether many sites are attached in one call.
    pub fn in_bulk(self) -> bool {
        matches!(self, Programs::Session | Programs::Bulk)
    }

    /// The part that a site belongs to.
    pub fn what(self, site: &Site) -> What {
        let Site { group, kind, .. } = *site;
        match (site.entry, kind) {
            (None, Kind::Go) => What::Returns(group, kind),
            // Changes the return address on the stack. A session is entry and return in one.
            (None, Kind::C) if self != Programs::Session => What::ReturnProbes(group, kind),
            (None, Kind::Rustls) => What::ReturnProbes(group, kind),
            _ => What::Entries(group, kind),
        }
    }
}
