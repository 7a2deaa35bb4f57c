//! What was found, and where.

use std::fmt;

/// What a replaced value was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Credentials in an Authorization or Proxy-Authorization header, or a challenge's nonce.
    Authorization,
    /// The value of a cookie.
    Cookie,
    /// Another header whose name means a secret.
    Header,
    /// A parameter of a query string whose name means a secret.
    Query,
    /// The user information of a URL.
    UserInfo,
    /// A field of a form.
    Form,
    /// A member of JSON.
    Json,
    /// An element or attribute of XML.
    Xml,
    /// A part of a multipart body.
    Part,
    /// A field of a command line, a comment or a text, by its name.
    Assignment,
    /// A JSON Web Token.
    Jwt,
    /// A private key.
    PrivateKey,
    /// A token of a known format.
    Token,
    /// The number of a payment card.
    Card,
    /// An e-mail address.
    Email,
    /// An address of a host or of hardware.
    Address,
    /// The name of a host or user.
    Name,
    /// A random value where secrets stand.
    Random,
    /// What a pattern of the user matches.
    Pattern,
    /// A text of a message without names of fields (gRPC).
    Text,
    /// With `--level shape`: a value that is no structure.
    Value,
    /// A body of a type that is not understood.
    Body,
    /// A compressed body that holds a secret, or is not understood.
    Compressed,
    /// What a protocol of servers for data and messages carries.
    Data,
    /// Bytes of a protocol that is not understood.
    Protocol,
    /// What follows a hole, or a damaged message, until the parser is in step again.
    Lost,
    /// What was held too long for the rest of its value.
    Held,
    /// Bytes that carry nothing: padding, and what follows a packet's end.
    Padding,
    /// What a capture file says of itself and its packets, in a form that is not understood.
    Metadata,
}

impl Kind {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Authorization => "authorization",
            Kind::Cookie => "cookie",
            Kind::Header => "header",
            Kind::Query => "query parameter",
            Kind::UserInfo => "user in URL",
            Kind::Form => "form field",
            Kind::Json => "JSON member",
            Kind::Xml => "XML element",
            Kind::Part => "multipart field",
            Kind::Assignment => "named value",
            Kind::Jwt => "JSON Web Token",
            Kind::PrivateKey => "private key",
            Kind::Token => "token of a known format",
            Kind::Card => "card number",
            Kind::Email => "e-mail address",
            Kind::Address => "address",
            Kind::Name => "host or user name",
            Kind::Random => "random value",
            Kind::Pattern => "own pattern",
            Kind::Text => "text without a name",
            Kind::Value => "value",
            Kind::Body => "body not understood",
            Kind::Compressed => "compressed body",
            Kind::Data => "data",
            Kind::Protocol => "protocol not understood",
            Kind::Lost => "behind a hole",
            Kind::Held => "held too long",
            Kind::Padding => "padding",
            Kind::Metadata => "metadata not understood",
        }
    }

    /// Its name as one word, in comments of packets.
    pub fn word(self) -> String {
        self.name().replace(' ', "-")
    }

    /// Whether it was masked since nobody knows what it is, not since it is known for a secret.
    pub fn is_masked_whole(self) -> bool {
        matches!(
            self,
            Kind::Body
                | Kind::Compressed
                | Kind::Data
                | Kind::Protocol
                | Kind::Lost
                | Kind::Held
                | Kind::Padding
                | Kind::Metadata
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Bytes that were replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where they begin; of what, the giver says.
    pub at: u64,
    /// What they were.
    pub kind: Kind,
}
