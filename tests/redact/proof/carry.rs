//! Each way in which HTTP carries fields and bodies.

use std::io::Write;

use super::kinds::Spot;

/// How a body is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    Plain,
    Chunked,
    Gzip,
    Zlib,
    Deflate,
    Brotli,
    Zstd,
    /// In frames of HTTP/2, padded.
    Frames,
    GzipFrames,
    /// Masked messages in fragments.
    WebSocket,
}

impl Coding {
    pub const ALL: [Coding; 10] = [
        Coding::Plain,
        Coding::Chunked,
        Coding::Gzip,
        Coding::Zlib,
        Coding::Deflate,
        Coding::Brotli,
        Coding::Zstd,
        Coding::Frames,
        Coding::GzipFrames,
        Coding::WebSocket,
    ];

    /// Whether a body that held a secret may become another one, so that what is in it looks otherwise.
    pub fn is_compressed(self) -> bool {
        !matches!(self, Coding::Plain | Coding::Chunked | Coding::Frames | Coding::WebSocket)
    }

    fn name(self) -> &'static str {
        match self {
            Coding::Gzip | Coding::GzipFrames => "gzip",
            Coding::Zlib | Coding::Deflate => "deflate",
            Coding::Brotli => "br",
            Coding::Zstd => "zstd",
            _ => "",
        }
    }

    fn encode(self, body: &[u8]) -> Vec<u8> {
        match self {
            Coding::Gzip | Coding::GzipFrames => gzip(body),
            Coding::Zlib => {
                let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
                packer.write_all(body).unwrap();
                packer.finish().unwrap()
            }
            Coding::Deflate => {
                let mut packer = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
                packer.write_all(body).unwrap();
                packer.finish().unwrap()
            }
            Coding::Brotli => brotli(body),
            Coding::Zstd => {
                ruzstd::encoding::compress_to_vec(body, ruzstd::encoding::CompressionLevel::Fastest)
            }
            _ => body.to_vec(),
        }
    }
}

pub fn gzip(body: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(body).unwrap();
    packer.finish().unwrap()
}

/// Meta-blocks that are stored (RFC 7932, section 9.2): there is a decoder here, and no encoder.
fn brotli(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (i, part) in body.chunks(0x1_0000).enumerate() {
        let word = ((part.len() - 1) as u32) << 3 | 1 << 19;
        let word = if i == 0 { word << 1 } else { word };
        out.extend_from_slice(&word.to_le_bytes()[..3]);
        out.extend_from_slice(part);
    }
    out.push(3);
    out
}

/// How a field is sent in HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// HTTP/1.
    Lines,
    /// With a name of the static table, where there is one.
    Static,
    /// Added to the dynamic table, and once more as a reference to that.
    Indexed,
    Literal,
    Never,
    Huffman,
    Continued,
    Padded,
    Resized,
}

impl Form {
    pub const ALL: [Form; 9] = [
        Form::Lines,
        Form::Static,
        Form::Indexed,
        Form::Literal,
        Form::Never,
        Form::Huffman,
        Form::Continued,
        Form::Padded,
        Form::Resized,
    ];
}

/// What both ends of a connection say.
pub type Said = [Vec<u8>; 2];

/// A message with these, both as head and body may be.
pub fn http1(spots: &[Spot], coding: Coding, is_answer: bool) -> Said {
    let (mut target, mut fields, mut answers) = ("/a?x=1", String::new(), String::new());
    let mut content: Option<(&str, &[u8])> = None;
    for spot in spots {
        match spot {
            Spot::Field(name, value) => fields += &format!("{name}: {value}\r\n"),
            Spot::Answer(name, value) => answers += &format!("{name}: {value}\r\n"),
            Spot::Target(text) => target = text,
            Spot::Body(media, bytes) => content = Some((media, bytes)),
        }
    }
    let mut said = [Vec::new(), Vec::new()];
    let mut bodies = [Vec::new(), b"ok".to_vec()];
    let mut heads = [fields, answers];
    match content {
        Some((media, bytes)) => {
            let to = usize::from(is_answer);
            heads[to] += &format!("Content-Type: {media}\r\n");
            if !coding.name().is_empty() {
                heads[to] += &format!("Content-Encoding: {}\r\n", coding.name());
            }
            bodies[to] = coding.encode(bytes);
        }
        None => heads[1] += "Content-Type: text/plain\r\n",
    }
    let lines = [format!("POST {target} HTTP/1.1\r\nHost: a.example\r\n"), "HTTP/1.1 200 OK\r\n".into()];
    for (i, line) in lines.iter().enumerate() {
        let is_chunked = coding == Coding::Chunked && content.is_some() && i == usize::from(is_answer);
        let length = match is_chunked {
            true => "Transfer-Encoding: chunked\r\n".to_owned(),
            false => format!("Content-Length: {}\r\n", bodies[i].len()),
        };
        said[i] = format!("{line}{}{length}\r\n", heads[i]).into_bytes();
        if is_chunked {
            for chunk in bodies[i].chunks(17) {
                said[i].extend(format!("{:x}\r\n", chunk.len()).bytes());
                said[i].extend([chunk, b"\r\n"].concat());
            }
            said[i].extend(b"0\r\n\r\n");
        } else {
            said[i].extend_from_slice(&bodies[i]);
        }
    }
    said
}

/// A body in messages of WebSocket.
pub fn websocket(body: &[u8]) -> Said {
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\n";
    let mut client = format!(
        "GET /s HTTP/1.1\r\nHost: a\r\n{upgrade}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes();
    let server = format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}\r\n");
    let key = [0x37, 0xfa, 0x21, 0x3d];
    let parts: Vec<&[u8]> = body.chunks(body.len().div_ceil(3).max(1)).collect();
    for (i, part) in parts.iter().enumerate() {
        let first = u8::from(i == 0) | if i + 1 == parts.len() { 0x80 } else { 0 };
        client.push(first);
        match part.len() {
            len @ 0..126 => client.push(0x80 | len as u8),
            len @ 126..0x1_0000 => client.extend([&[0xfe], &(len as u16).to_be_bytes()[..]].concat()),
            len => client.extend([&[0xff], &(len as u64).to_be_bytes()[..]].concat()),
        }
        client.extend_from_slice(&key);
        client.extend(part.iter().enumerate().map(|(i, b)| b ^ key[i % 4]));
    }
    [client, server.into_bytes()]
}

/// A number with a prefix of so many bits (RFC 7541, section 5.1).
fn number(first: u8, bits: u32, value: usize) -> Vec<u8> {
    let most = (1usize << bits) - 1;
    if value < most {
        return vec![first | value as u8];
    }
    let mut out = vec![first | most as u8];
    let mut rest = value - most;
    while rest >= 128 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
    out
}

fn string(text: &str, is_huffman: bool) -> Vec<u8> {
    match is_huffman.then(|| huffman(text)).flatten() {
        Some(code) => [number(0x80, 7, code.len()), code].concat(),
        None => [number(0, 7, text.len()), text.as_bytes().to_vec()].concat(),
    }
}

/// Characters by the length of their code (RFC 7541, Appendix B), each in order.
const CODES: [(u32, &str); 10] = [
    (5, "012aceiost"),
    (6, " %-./3456789=A_bdfghlmnpru"),
    (7, ":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, "&*,;XZ"),
    (10, "!\"()?"),
    (11, "'+|"),
    (12, "#>"),
    (13, "\0$@[]~"),
    (14, "^}"),
    (15, "<`{"),
];

/// In Huffman code, if it has no other characters.
pub fn huffman(text: &str) -> Option<Vec<u8>> {
    let mut bits = String::new();
    for c in text.chars() {
        let (mut next, mut before) = (0usize, 0);
        let (code, len) = CODES.iter().find_map(|(len, all)| {
            next <<= len - before;
            before = *len;
            let found = all.find(c).map(|at| (next + at, *len as usize));
            next += all.len();
            found
        })?;
        bits += &format!("{code:0len$b}");
    }
    bits.extend(std::iter::repeat_n('1', bits.len().next_multiple_of(8) - bits.len()));
    let byte = |chunk: &[u8]| chunk.iter().fold(0, |byte, bit| byte << 1 | (bit - b'0'));
    Some(bits.as_bytes().chunks(8).map(byte).collect())
}

/// Of the static table.
const NAMES: [(&str, usize); 9] = [
    (":path", 4),
    ("authorization", 23),
    ("cookie", 32),
    ("location", 46),
    ("proxy-authorization", 49),
    ("referer", 51),
    ("set-cookie", 55),
    ("www-authenticate", 61),
    ("content-type", 31),
];

fn field(form: Form, name: &str, value: &str) -> Vec<u8> {
    let is_huffman = matches!(form, Form::Huffman | Form::Padded);
    let (first, bits) = match form {
        Form::Never => (0x10, 4),
        Form::Literal | Form::Continued => (0, 4),
        _ => (0x40, 6),
    };
    let known = NAMES.iter().find(|(known, _)| *known == name && form != Form::Literal);
    let name = match known {
        Some((_, index)) => number(first, bits, *index),
        None => [vec![first], string(name, is_huffman)].concat(),
    };
    [name, string(value, is_huffman)].concat()
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block in its frames.
fn headers(form: Form, stream: u32, block: &[u8], is_end: bool) -> Vec<u8> {
    let end = u8::from(is_end);
    match form {
        Form::Continued => {
            let parts: Vec<&[u8]> = block.chunks(block.len().div_ceil(4)).collect();
            let last = parts.len() - 1;
            let each = parts.iter().enumerate().map(|(i, part)| {
                let ends = if i == last { 4 } else { 0 };
                if i == 0 { frame(1, end | ends, stream, part) } else { frame(9, ends, stream, part) }
            });
            each.collect::<Vec<_>>().concat()
        }
        // With a priority, too.
        Form::Padded => frame(1, 0x2c | end, stream, &[&[5, 0, 0, 0, 0, 16], block, &[0; 5]].concat()),
        _ => frame(1, 4 | end, stream, block),
    }
}

/// The same in HTTP/2. With [`Form::Indexed`] the head comes twice.
pub fn http2(spots: &[Spot], form: Form, coding: Coding, is_answer: bool) -> Said {
    let mut target = "/a?x=1";
    let mut blocks = [vec![0x83, 0x86], vec![0x88]];
    let mut count = [0; 2];
    let mut content: Option<(&str, &[u8])> = None;
    if form == Form::Resized {
        blocks = [[vec![0x20, 0x3f, 0xe1, 0x1f], blocks[0].clone()].concat(), blocks[1].clone()];
    }
    for spot in spots {
        let (side, name, value) = match spot {
            Spot::Field(name, value) => (0, name, value),
            Spot::Answer(name, value) => (1, name, value),
            Spot::Target(text) => {
                target = text;
                continue;
            }
            Spot::Body(media, bytes) => {
                content = Some((media, bytes));
                continue;
            }
        };
        blocks[side].extend(field(form, name, value));
        count[side] += 1;
    }
    blocks[0].extend(field(form, ":path", target));
    count[0] += 1;
    let body_side = usize::from(is_answer);
    if let Some((media, _)) = content {
        blocks[body_side].extend(field(Form::Literal, "content-type", media));
        if !coding.name().is_empty() {
            blocks[body_side].extend(field(Form::Literal, "content-encoding", coding.name()));
        }
    }
    let mut said = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), Vec::new()];
    for side in 0..2 {
        said[side].extend(frame(4, 0, 0, &[]));
        let body = content.filter(|_| side == body_side).map(|(_, bytes)| coding.encode(bytes));
        said[side].extend(headers(form, 1, &blocks[side], body.is_none()));
        if let Some(body) = body {
            // Padded, with other frames between.
            let (one, two) = body.split_at(body.len() / 3);
            said[side].extend(frame(0, 8, 1, &[&[3], one, &[0; 3]].concat()));
            said[side].extend(frame(6, 0, 0, &[7; 8]));
            let parts: Vec<&[u8]> = two.chunks(16_000).collect();
            for (i, part) in parts.iter().enumerate() {
                said[side].extend(frame(0, u8::from(i + 1 == parts.len()), 1, part));
            }
        }
        if form == Form::Indexed {
            let first = if side == 0 { vec![0x83, 0x86] } else { vec![0x88] };
            let again: Vec<u8> = (0..count[side]).map(|i| 0x80 | (62 + i) as u8).collect();
            said[side].extend(frame(1, 5, 3, &[first, again].concat()));
        }
    }
    said
}
