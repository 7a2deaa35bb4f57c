//! The functions of a TLS library that are of interest, and where they lie in its file.

use super::code::Place;

macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident = $symbol:literal,)*) => {
        /// A function that TLS libraries with OpenSSL's interface export.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Function { $($(#[$doc])* $name,)* }

        impl Function {
            /// All of them, in the order of their discriminants.
            pub const ALL: &'static [Function] = &[$(Function::$name,)*];

            /// Its name in the symbol table.
            pub const fn symbol(self) -> &'static str {
                match self { $(Function::$name => $symbol,)* }
            }

            /// The function with this name.
            pub fn from_symbol(name: &[u8]) -> Option<Function> {
                // Most symbols of a process are rejected by the first bytes.
                if !name.starts_with(b"SSL_") {
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
}

/// Where functions lie: file offsets, as uprobes take them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offsets([Option<Place>; Function::ALL.len()]);

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
