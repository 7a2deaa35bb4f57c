//! What must not be shown. [`Engine`] takes secrets out of the bytes of a connection, and gives as many bytes
//! back; [`arguments`] masks command lines.
//!
//! ```text
//! bytes and holes in stream order → Conversation → the same number of bytes
//!                                    ├ h1, h2, websocket   what carries bodies
//!                                    ├ lines, wire         mail, FTP, databases, messages, directories
//!                                    ├ headers, target     values by their names
//!                                    ├ body: json, form, xml, multipart, events, text, protobuf, packed
//!                                    ├ identity, address  pseudonyms of hosts and users
//!                                    └ named, patterns, cloak, fill
//! ```
//!
//! What no parser understands is filled whole, and so is what follows a hole until a parser is in step again: an
//! incomplete list of protocols shows too little, never too much. A value that a parser knows is replaced by
//! another of the same length and kind of letters (`cloak`), always the same for the same value and key.
//! Replacements and fillers are recognised as such and stay, so redacting twice changes nothing the second time, and
//! looking for secrets is redacting without writing.

mod address;
mod arguments;
mod body;
mod cloak;
mod conversation;
mod deflate;
mod engine;
mod events;
mod facts;
mod fill;
mod form;
mod h1;
mod h2;
mod headers;
pub(crate) mod hpack;
mod identity;
mod json;
mod kind;
mod lines;
mod live;
mod multipart;
mod named;
mod names;
mod note;
mod packed;
mod patterns;
mod permessage;
mod protobuf;
mod rules;
mod target;
mod text;
mod tls;
mod weave;
mod websocket;
mod wire;
mod xml;

#[cfg(test)]
mod tests;

pub use address::Addresses;
pub use arguments::arguments;
pub use conversation::{Conversation, Side};
pub use engine::Engine;
pub use facts::Fact;
pub use fill::whole as fill_whole;
pub use kind::{Found, Kind};
pub use live::Redactor;
pub use note::{command_line, comment, host, note};
pub use rules::{
    BadLine, BadPattern, Identity, Key, Level, MARK, Rules, RulesBuilder, brand_of, is_one_of_several,
};
