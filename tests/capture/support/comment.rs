//! The key=value comment on the SYN of a connection.

use std::collections::HashMap;
use std::net::SocketAddr;

/// Keys and values of a connection's first packet.
#[derive(Clone, Debug, Default)]
pub struct Comment(HashMap<String, String>);

impl Comment {
    /// Reads the comments of a packet, as a user's script would: words `key=value`, where `%` and
    /// two hexadecimal digits stand for a byte.
    pub fn parse(comments: &[String]) -> Comment {
        let pairs = comments.iter().flat_map(|c| c.split(' ')).filter_map(|word| word.split_once('='));
        Comment(pairs.map(|(key, value)| (key.to_string(), unescape(value))).collect())
    }

    /// The value of a key that must be there.
    #[track_caller]
    pub fn get(&self, key: &str) -> &str {
        self.find(key).unwrap_or_else(|| panic!("no {key} in {:?}", self.0))
    }

    /// The value of a key.
    pub fn find(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The value of a key, as a number.
    #[track_caller]
    pub fn number(&self, key: &str) -> u64 {
        self.get(key).parse().unwrap_or_else(|_| panic!("{key} is no number in {:?}", self.0))
    }

    /// The captured process's address, as the kernel knows it.
    #[track_caller]
    pub fn local(&self) -> SocketAddr {
        self.get("local").parse().unwrap()
    }

    /// Its peer's address.
    #[track_caller]
    pub fn remote(&self) -> SocketAddr {
        self.get("remote").parse().unwrap()
    }
}

fn unescape(value: &str) -> String {
    let mut parts = value.split('%');
    let mut bytes = parts.next().unwrap_or("").as_bytes().to_vec();
    for part in parts {
        bytes.extend(super::view::unhex(&part[..2]));
        bytes.extend(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).unwrap()
}
