//! What protocols look like on the wire, for whoever reads them: pure, without state but for HPACK's tables.

pub(crate) mod deflate;
pub(crate) mod grpc;
pub(crate) mod h1;
pub(crate) mod h2;
pub(crate) mod hpack;
pub(crate) mod huffman;
pub(crate) mod pairing;
pub(crate) mod tls;
pub(crate) mod websocket;
