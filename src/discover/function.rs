//! The functions of a TLS library that are of interest, and where they lie in its file.

use super::code::Place;

macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident = $symbol:literal,)*) => {
        /// A function of a TLS library: an export, or a method of NSS's SSL layer.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Function { $($(#[$doc])* $name,)* }

        impl Function {
            /// All of them, in the order of their discriminants.
            pub const ALL: &'static [Function] = &[$(Function::$name,)*];

            /// Its name in the symbol table; of NSS's methods, that in the source.
            pub const fn symbol(self) -> &'static str {
                match self { $(Function::$name => $symbol,)* }
            }

            /// The export with this name.
            pub fn from_symbol(name: &[u8]) -> Option<Function> {
                // Most symbols of a process are rejected by the first bytes.
                if !name.starts_with(b"SSL_") && !name.starts_with(b"gnutls_") {
                    return None;
                }
                $(if name == $symbol.as_bytes() { return Some(Function::$name); })*
                None
            }
        }
    };
}

functions! {
    /// Reads plaintext.
    Read = "SSL_read",
    /// Reads plaintext; the count goes through a pointer.
    ReadEx = "SSL_read_ex",
    /// Writes plaintext.
    Write = "SSL_write",
    /// Writes plaintext; the count goes through a pointer.
    WriteEx = "SSL_write_ex",
    /// Writes plaintext (3.3 and later): the 4th argument is flags, the 5th the pointer for the count.
    WriteEx2 = "SSL_write_ex2",
    /// Reads without consuming.
    Peek = "SSL_peek",
    /// Reads without consuming; the count goes through a pointer.
    PeekEx = "SSL_peek_ex",
    /// Reads 0-RTT data.
    ReadEarlyData = "SSL_read_early_data",
    /// Writes 0-RTT data.
    WriteEarlyData = "SSL_write_early_data",
    /// Sends a file through kTLS.
    Sendfile = "SSL_sendfile",
    /// Handshake.
    DoHandshake = "SSL_do_handshake",
    /// Handshake as client.
    Connect = "SSL_connect",
    /// Handshake as server.
    Accept = "SSL_accept",
    /// Sends close_notify.
    Shutdown = "SSL_shutdown",
    /// Makes a handle.
    New = "SSL_new",
    /// Drops a reference to a handle.
    Free = "SSL_free",
    /// Takes a reference to a handle.
    UpRef = "SSL_up_ref",
    /// Makes a handle fit for another connection.
    Clear = "SSL_clear",
    /// Behind many macros, SSL_set_tlsext_host_name among them.
    Ctrl = "SSL_ctrl",
    /// The server name.
    GetServername = "SSL_get_servername",
    /// The negotiated application protocol.
    GetAlpnSelected = "SSL_get0_alpn_selected",
    /// Declares this side the client.
    SetConnectState = "SSL_set_connect_state",
    /// Declares this side the server.
    SetAcceptState = "SSL_set_accept_state",
    /// Gives a handle its socket.
    SetFd = "SSL_set_fd",
    /// The same to read from.
    SetRfd = "SSL_set_rfd",
    /// The same to write to.
    SetWfd = "SSL_set_wfd",
    /// Gives a handle what it reads from and writes to.
    SetBio = "SSL_set_bio",
    /// The same to read from.
    SetRbio = "SSL_set0_rbio",
    /// The same to write to.
    SetWbio = "SSL_set0_wbio",
    /// Writes plaintext.
    GnutlsSend = "gnutls_record_send",
    /// Writes plaintext, padded.
    GnutlsSend2 = "gnutls_record_send2",
    /// Writes plaintext, padded; several records.
    GnutlsSendRange = "gnutls_record_send_range",
    /// Sends a file: through gnutls_record_send, or with kTLS through the kernel.
    GnutlsSendFile = "gnutls_record_send_file",
    /// From now on what is written stays in the library.
    GnutlsCork = "gnutls_record_cork",
    /// Sends what stayed.
    GnutlsUncork = "gnutls_record_uncork",
    /// Reads plaintext.
    GnutlsRecv = "gnutls_record_recv",
    /// Reads plaintext, and the record's number.
    GnutlsRecvSeq = "gnutls_record_recv_seq",
    /// Reads 0-RTT data.
    GnutlsRecvEarly = "gnutls_record_recv_early_data",
    /// Reads a record into a buffer of the library's own.
    GnutlsRecvPacket = "gnutls_record_recv_packet",
    /// Handshake.
    GnutlsHandshake = "gnutls_handshake",
    /// Sends close_notify.
    GnutlsBye = "gnutls_bye",
    /// Makes a handle.
    GnutlsInit = "gnutls_init",
    /// Frees a handle.
    GnutlsDeinit = "gnutls_deinit",
    /// Sets the server name that a client asks for.
    GnutlsNameSet = "gnutls_server_name_set",
    /// The server name that the client asked for.
    GnutlsNameGet = "gnutls_server_name_get",
    /// The negotiated application protocol.
    GnutlsAlpn = "gnutls_alpn_get_selected_protocol",
    /// Gives a handle its socket, mostly.
    GnutlsSetPtr = "gnutls_transport_set_ptr",
    /// The same, one to read from and one to write to.
    GnutlsSetPtr2 = "gnutls_transport_set_ptr2",
    /// The same, by descriptors.
    GnutlsSetInt2 = "gnutls_transport_set_int2",
    /// Reads plaintext.
    NssRead = "ssl_Read",
    /// Reads plaintext; with a flag, without consuming it.
    NssRecv = "ssl_Recv",
    /// Writes plaintext.
    NssWrite = "ssl_Write",
    /// Writes plaintext.
    NssSend = "ssl_Send",
    /// Writes plaintext of several buffers, by ssl_Send.
    NssWritev = "ssl_WriteV",
    /// Sends close_notify and frees the handle.
    NssClose = "ssl_Close",
    /// Sends close_notify.
    NssShutdown = "ssl_Shutdown",
    /// Makes a handle.
    NssAccept = "ssl_Accept",
    /// Makes a handle.
    NssImport = "SSL_ImportFD",
    /// Among others, switches TLS on and off.
    NssOption = "SSL_OptionSet",
    /// Declares this side client or server.
    NssReset = "SSL_ResetHandshake",
    /// Handshake.
    NssForce = "SSL_ForceHandshake",
    /// Sets the server name that a client asks for.
    NssUrl = "SSL_SetURL",
    /// The negotiated application protocol.
    NssProto = "SSL_GetNextProto",
}

/// Libraries that have the same functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// OpenSSL, LibreSSL, BoringSSL and their like.
    OpenSsl,
    /// GnuTLS.
    GnuTls,
    /// Mozilla's Network Security Services.
    Nss,
}

impl Family {
    /// All of them.
    pub const ALL: [Family; 3] = [Family::OpenSsl, Family::GnuTls, Family::Nss];

    /// What its makers call it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Family::OpenSsl => "OpenSSL",
            Family::GnuTls => "GnuTLS",
            Family::Nss => "NSS",
        }
    }

    /// Exports by which a library of the family is known.
    pub(super) const fn known_by(self) -> [Function; 2] {
        match self {
            Family::OpenSsl => [Function::Read, Function::Write],
            Family::GnuTls => [Function::GnutlsRecv, Function::GnutlsSend],
            Family::Nss => [Function::NssImport, Function::NssReset],
        }
    }
}

impl Function {
    /// Whether it reads or writes a connection's plaintext.
    pub const fn moves_data(self) -> bool {
        use Function::*;
        matches!(
            self,
            Read | ReadEx
                | Write
                | WriteEx
                | WriteEx2
                | ReadEarlyData
                | WriteEarlyData
                | Sendfile
                | GnutlsSend
                | GnutlsSend2
                | GnutlsSendRange
                | GnutlsSendFile
                | GnutlsRecv
                | GnutlsRecvSeq
                | GnutlsRecvEarly
                | GnutlsRecvPacket
                | NssRead
                | NssRecv
                | NssWrite
                | NssSend
                | NssWritev
        )
    }

    /// Which libraries have it.
    pub const fn family(self) -> Family {
        if (self as usize) < Function::GnutlsSend as usize {
            Family::OpenSsl
        } else if (self as usize) < Function::NssRead as usize {
            Family::GnuTls
        } else {
            Family::Nss
        }
    }
}

/// Where functions lie: file offsets, as uprobes take them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offsets([Option<Place>; Function::ALL.len()]);

impl Default for Offsets {
    fn default() -> Offsets {
        Offsets([None; Function::ALL.len()])
    }
}

impl Offsets {
    /// File offset of the function's first instruction; `None` if the library lacks it.
    pub fn get(&self, function: Function) -> Option<u64> {
        Some(self.0[function as usize]?.function)
    }

    /// The functions that the library has, and where they are probed.
    pub fn places(&self) -> impl Iterator<Item = (Function, Place)> + '_ {
        Function::ALL.iter().filter_map(|f| Some((*f, self.0[*f as usize]?)))
    }

    pub(super) fn set(&mut self, function: Function, offset: u64) {
        self.0[function as usize] = Some(Place::start(offset));
    }

    /// Leaves the function alone.
    pub(super) fn drop(&mut self, function: Function) {
        self.0[function as usize] = None;
    }

    /// Leaves all functions alone but those of a family.
    pub(super) fn keep(&mut self, family: Family) {
        Function::ALL.iter().filter(|f| f.family() != family).for_each(|f| self.drop(*f));
    }

    /// Takes the better places that are found.
    pub(super) fn improve(&mut self, find: impl Fn(Function) -> Option<Place>) {
        for function in Function::ALL {
            if let Some(place) = &mut self.0[*function as usize]
                && let Some(better) = find(*function).filter(|better| better.function == place.function)
            {
                *place = better;
            }
        }
    }
}
