//! Which program goes where in a library.

use crate::discover::elf::TlsLibrary;
use crate::discover::function::Function;

/// One probe in a library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Site {
    /// Name of the program in `bpf/tls2pcap.bpf.c`.
    pub program: &'static str,
    /// File offset.
    pub offset: u64,
    /// Probes the return.
    pub at_return: bool,
}

/// The program at the return of every function that has one; [`RETURN_UNROLLED`] stands for it on
/// kernels without `bpf_loop`.
pub(super) const RETURN: &str = "ssl_return";
pub(super) const RETURN_UNROLLED: &str = "ssl_return_unrolled";

/// Program for the entry of a function, and whether the common return program belongs to it.
fn programs(function: Function) -> (Option<&'static str>, Option<&'static str>) {
    let (entry, at_return) = match function {
        Function::Read => ("ssl_read", Some(RETURN)),
        Function::ReadEx => ("ssl_read_ex", Some(RETURN)),
        Function::Write => ("ssl_write", Some(RETURN)),
        Function::WriteEx => ("ssl_write_ex", Some(RETURN)),
        Function::WriteEx2 => ("ssl_write_ex2", Some(RETURN)),
        Function::Peek | Function::PeekEx => ("ssl_peek", Some(RETURN)),
        Function::ReadEarlyData => ("ssl_read_early_data", Some(RETURN)),
        Function::WriteEarlyData => ("ssl_write_early_data", Some(RETURN)),
        Function::Sendfile => ("ssl_sendfile", Some(RETURN)),
        Function::DoHandshake => ("ssl_do_handshake", Some(RETURN)),
        Function::Connect => ("ssl_connect", Some(RETURN)),
        Function::Accept => ("ssl_accept", Some(RETURN)),
        Function::Shutdown => ("ssl_shutdown", Some(RETURN)),
        Function::GetServername => ("ssl_get_servername", Some(RETURN)),
        Function::GetAlpnSelected => ("ssl_get0_alpn_selected", Some(RETURN)),
        Function::New => return (None, Some("ssl_new")),
        Function::Free => ("ssl_free", None),
        Function::UpRef => ("ssl_up_ref", None),
        Function::Clear => ("ssl_clear", None),
        Function::Ctrl => ("ssl_ctrl", None),
        Function::SetConnectState => ("ssl_set_connect_state", None),
        Function::SetAcceptState => ("ssl_set_accept_state", None),
    };
    (Some(entry), at_return)
}

/// Every probe of a library. Return probes come first: an entry that is seen has its return probed.
pub(super) fn sites(library: &TlsLibrary) -> Vec<Site> {
    let mut sites = Vec::new();
    let mut add = |offset, (entry, at_return): (Option<&'static str>, Option<&'static str>)| {
        sites.extend(at_return.map(|program| Site { program, offset, at_return: true }));
        sites.extend(entry.map(|program| Site { program, offset, at_return: false }));
    };
    for (function, offset) in library.offsets.iter() {
        add(offset, programs(function));
    }
    // Beside the exports: BIO_f_ssl calls these and no export.
    if let Ok(offset) = library.internal.read {
        add(offset, (Some("ssl_read_internal"), Some(RETURN)));
    }
    if let Ok(offset) = library.internal.write {
        add(offset, (Some("ssl_write_internal"), Some(RETURN)));
    }
    sites.sort_by_key(|site| !site.at_return);
    sites
}
