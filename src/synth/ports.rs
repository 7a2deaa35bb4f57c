//! Which server port is written, so that stock Wireshark (4.0 to 4.6) decodes the plaintext.
//!
//! Wireshark asks, in this order: the conversation's dissector, the server's port, the lower port,
//! the higher port, the heuristics. So plaintext on 443 goes to the TLS dissector, and a client
//! port that some dissector owns wins over the heuristics.

use super::detect::Protocol;

/// Whether the server port is changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ports {
    /// To one where stock Wireshark decodes the plaintext.
    #[default]
    Decode,
    /// Never.
    Keep,
    /// As [`Ports::Decode`]; if that is the true port, the client's is 30,000 lower, so that no packet has the
    /// true addresses and ports. A capture of the encrypted connection can be merged with it.
    Apart,
}

/// How much lower than the true one a client's port is written with [`Ports::Apart`]: below those that Linux
/// gives out, which are 32768 to 60999.
const APART: u16 = 30_000;

/// Client ports that are tried with [`Ports::Apart`] when a client port must change.
pub const CLIENT_PORTS_APART: std::ops::RangeInclusive<u16> = 2_768..=30_999;

/// Another port than this one, always the same.
pub fn apart(port: u16) -> u16 {
    if port >= APART + 1024 { port - APART } else { port + APART }
}

/// For plaintext that has no known dissector and would be misread on its own port. No dissector owns this port
/// and IANA assigns none so high, so Wireshark shows the bytes as data.
pub const DATA_PORT: u16 = 60_443;

/// Client ports of the dynamic range that are tried when a client port must change.
pub const CLIENT_PORTS: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// Ports where the http dissector of all three releases sits and no other's.
const HTTP: &[u16] = &[80, 1900, 2710, 2869, 3128, 3132, 5985, 8080, 8088, 11371];

/// Plaintext ports of protocols that carry TLS on the same port or after a STARTTLS, so that bytes
/// that cannot be recognised there are most likely theirs.
const STARTTLS: &[u16] = &[
    20, 21, 25, 110, 119, 143, 389, 587, 1433, 3268, 3306, 3389, 3868, 5222, 5432, 5900, 6379, 9042, 9092,
    27017,
];

/// TLS ports whose protocol is hard to recognise in the middle of a connection.
const TABLE: &[(u16, u16)] = &[
    (443, 80),
    (465, 25),
    (563, 119),
    (636, 389),
    (853, 53),
    (989, 20),
    (990, 21),
    (993, 143),
    (995, 110),
    (3269, 3268),
    (5061, 5060),
    (5223, 5222),
    (5671, 5672),
    (5658, 3868),
    (6380, 6379),
    (6697, 6667),
    (8883, 1883),
    (9093, 9092),
    (9142, 9042),
    (27018, 27017),
];

/// The ports of a protocol where all three releases decode it; the first is the usual one.
fn decoding(protocol: Protocol) -> &'static [u16] {
    match protocol {
        Protocol::Http1 | Protocol::Http2 => HTTP,
        Protocol::Tls => TLS,
        Protocol::Smtp => &[25, 587],
        Protocol::Imap => &[143],
        Protocol::Pop3 => &[110],
        Protocol::Ftp => &[21],
        Protocol::Nntp => &[119],
        Protocol::Mqtt => &[1883],
        Protocol::Amqp => &[5672],
        Protocol::Ldap => &[389, 3268],
        Protocol::Dns => &[53],
        Protocol::Postgres => &[5432],
        Protocol::Mysql => &[3306],
        Protocol::Redis => &[6379],
        Protocol::Xmpp => &[5222],
        Protocol::Sip => &[5060],
        Protocol::Rtsp => &[554, 8554],
        Protocol::Irc => &[6667, 57000],
        Protocol::Ssh => &[22],
        Protocol::Kafka => &[9092],
        // Except in 4.0, where the TLS dissector owns it and no other port would do.
        Protocol::Mongo => &[27017],
        Protocol::Cassandra => &[9042],
        Protocol::Diameter => &[3868],
        Protocol::Vnc => &[5900, 5901],
    }
}

/// What the choice of a port depends on.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// The server's true port.
    pub port: u16,
    /// The protocol of the bytes, if known.
    pub protocol: Option<Protocol>,
    /// The bytes begin like a message of the protocol (`false`: it is known otherwise, for example by ALPN, or
    /// the connection was joined in the middle of a message).
    pub begins: bool,
    /// The connection is seen from its first byte.
    pub from_start: bool,
}

/// The server port to write with [`Ports::Decode`] and [`Ports::Apart`].
pub fn server_port(stream: Stream) -> u16 {
    let Stream { port, protocol, begins, from_start } = stream;
    let table = || plain_of(port);
    match protocol {
        // Its heuristic finds a message's beginning wherever no other dissector is asked first.
        Some(Protocol::Http1) if begins && !is_owned(port) => port,
        Some(protocol) => {
            let ports = decoding(protocol);
            if ports.contains(&port) {
                port
            } else {
                table().filter(|p| ports.contains(p)).unwrap_or(ports[0])
            }
        }
        // HTTP would have been recognised at its start.
        None if port == 443 && from_start => DATA_PORT,
        None => match table() {
            Some(plain) => plain,
            None if is_owned(port) && !STARTTLS.contains(&port) => DATA_PORT,
            None => port,
        },
    }
}

/// A dissector of Wireshark 4.0, 4.4 or 4.6 asks for this TCP port.
pub fn is_owned(port: u16) -> bool {
    within(OWNED, port)
}

fn within(ranges: &[(u16, u16)], port: u16) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= port);
    after > 0 && port <= ranges[after - 1].1
}

/// The plaintext port of the protocol whose TLS port this is.
pub fn plain_of(port: u16) -> Option<u16> {
    TABLE.iter().find(|(tls, _)| *tls == port).map(|(_, plain)| *plain)
}

/// Ports on which all three releases expect TLS.
pub fn is_tls(port: u16) -> bool {
    !is_owned(port) || within(TAKES_TLS, port)
}

/// Where the TLS dissector of all three releases is asked first, and what it hands on is decoded.
pub const TLS: &[u16] = &[443, 465, 636, 853, 993, 995, 5061, 5671, 8883];

/// The union over the three releases, as ranges in order.
#[rustfmt::skip]
const OWNED: &[(u16, u16)] = &[
    (0, 0), (7, 7), (9, 9), (13, 13), (19, 23), (25, 25), (37, 37), (42, 43), (49, 49), (53, 53),
    (70, 70), (79, 80), (88, 88), (102, 102), (104, 104), (110, 111), (119, 119), (123, 123),
    (139, 139), (143, 143), (161, 162), (179, 179), (199, 199), (210, 210), (323, 324), (389, 389),
    (427, 427), (443, 443), (445, 445), (464, 465), (473, 473), (500, 500), (502, 502), (512, 515),
    (524, 524), (547, 548), (554, 554), (564, 564), (587, 587), (631, 631), (636, 636), (639, 639),
    (646, 647), (674, 674), (705, 705), (802, 802), (829, 829), (853, 854), (862, 862), (873, 873),
    (925, 925), (988, 988), (993, 993), (995, 995), (1080, 1080), (1090, 1090), (1099, 1099),
    (1102, 1102), (1153, 1153), (1194, 1194), (1213, 1213), (1300, 1300), (1344, 1344), (1433, 1433),
    (1521, 1521), (1533, 1533), (1547, 1547), (1723, 1723), (1755, 1755), (1861, 1861), (1863, 1863),
    (1883, 1883), (1900, 1900), (1935, 1935), (1978, 1979), (1998, 1998), (2000, 2001), (2065, 2065),
    (2099, 2099), (2123, 2123), (2126, 2126), (2152, 2152), (2190, 2190), (2221, 2221), (2234, 2234),
    (2240, 2240), (2269, 2269), (2321, 2322), (2345, 2345), (2401, 2401), (2404, 2404), (2424, 2424),
    (2427, 2427), (2433, 2433), (2443, 2443), (2501, 2502), (2571, 2571), (2575, 2575), (2600, 2600),
    (2641, 2641), (2710, 2710), (2727, 2727), (2812, 2812), (2855, 2855), (2869, 2869), (2905, 2905),
    (2944, 2945), (3002, 3003), (3006, 3006), (3014, 3014), (3016, 3019), (3050, 3050), (3128, 3128),
    (3132, 3132), (3200, 3200), (3205, 3205), (3245, 3252), (3268, 3268), (3288, 3288), (3300, 3300),
    (3306, 3306), (3333, 3334), (3357, 3357), (3369, 3369), (3386, 3386), (3389, 3389), (3452, 3452),
    (3478, 3478), (3496, 3496), (3567, 3567), (3632, 3632), (3671, 3671), (3689, 3689), (3724, 3724),
    (3804, 3804), (3860, 3860), (3863, 3863), (3868, 3868), (3918, 3918), (4002, 4002), (4058, 4059),
    (4155, 4155), (4189, 4189), (4222, 4224), (4249, 4250), (4321, 4321), (4342, 4342), (4369, 4369),
    (4420, 4420), (4551, 4551), (4555, 4556), (4661, 4663), (4712, 4712), (4730, 4730), (4737, 4737),
    (4739, 4739), (4788, 4788), (4840, 4840), (4880, 4880), (5000, 5000), (5010, 5010), (5060, 5061),
    (5066, 5066), (5084, 5084), (5094, 5094), (5190, 5190), (5201, 5201), (5222, 5222), (5253, 5253),
    (5353, 5353), (5432, 5432), (5445, 5445), (5500, 5501), (5534, 5534), (5555, 5555), (5671, 5672),
    (5683, 5684), (5701, 5701), (5721, 5721), (5868, 5868), (5900, 5901), (5985, 5985), (5997, 5997),
    (6000, 6063), (6068, 6068), (6075, 6075), (6084, 6084), (6121, 6121), (6160, 6160), (6346, 6346),
    (6379, 6379), (6417, 6417), (6566, 6566), (6653, 6653), (6666, 6668), (6881, 6889), (7000, 7000),
    (7075, 7075), (7171, 7172), (7236, 7236), (7275, 7276), (7680, 7680), (7871, 7871), (7890, 7890),
    (7900, 7900), (7911, 7911), (7930, 7930), (8004, 8004), (8009, 8010), (8023, 8023), (8030, 8030),
    (8074, 8074), (8080, 8080), (8085, 8085), (8088, 8088), (8554, 8554), (8567, 8567), (8600, 8600),
    (8883, 8883), (9000, 9000), (9009, 9009), (9042, 9042), (9092, 9092), (9168, 9168), (9300, 9300),
    (9389, 9389), (9418, 9418), (9600, 9600), (9955, 9956), (9999, 10000), (10050, 10051),
    (10288, 10288), (10809, 10809), (11207, 11207), (11210, 11211), (11371, 11371), (13400, 13400),
    (13819, 13819), (14001, 14001), (15740, 15740), (16321, 16321), (17225, 17225), (17500, 17500),
    (17755, 17756), (19006, 19006), (19042, 19043), (19506, 19506), (19543, 19543), (19999, 20000),
    (20256, 20256), (21064, 21064), (22222, 22222), (24800, 24800), (27017, 27017), (29418, 29418),
    (30000, 30200), (34980, 34980), (40000, 40000), (44321, 44322), (44818, 44818), (48049, 48049),
    (48898, 48898), (57000, 57000),
];

/// Those of them whose dissector is that of TLS in all three releases, or passes TLS on.
#[rustfmt::skip]
const TAKES_TLS: &[(u16, u16)] = &[
    (104, 104), (143, 143), (199, 199), (324, 324), (443, 443), (465, 465), (473, 473), (636, 636),
    (646, 646), (674, 674), (802, 802), (829, 829), (853, 853), (993, 993), (995, 995), (1300, 1300),
    (1755, 1755), (1978, 1979), (1998, 1998), (2000, 2001), (2065, 2065), (2190, 2190), (2221, 2221),
    (2424, 2424), (2427, 2427), (2443, 2443), (2501, 2501), (2641, 2641), (2727, 2727), (2855, 2855),
    (3050, 3050), (3205, 3205), (3249, 3252), (3333, 3334), (3389, 3389), (3496, 3496), (3567, 3567),
    (4058, 4058), (4224, 4224), (4321, 4321), (4369, 4369), (4661, 4663), (4737, 4737), (5061, 5061),
    (5066, 5066), (5190, 5190), (5555, 5555), (5671, 5671), (5684, 5684), (5721, 5721), (5868, 5868),
    (6075, 6075), (6666, 6666), (7890, 7890), (7900, 7900), (7930, 7930), (8004, 8004), (8010, 8010),
    (8030, 8030), (8883, 8883), (9000, 9000), (9168, 9168), (9600, 9600), (9955, 9955), (9999, 10000),
    (10050, 10051), (11207, 11207), (11210, 11210), (13819, 13819), (19999, 20000), (20256, 20256),
    (22222, 22222), (27017, 27017), (30000, 30200),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owned_ranges_are_in_order_and_disjoint() {
        for ranges in [OWNED, TAKES_TLS] {
            assert!(ranges.iter().all(|(first, last)| first <= last && is_owned(*first)));
            assert!(ranges.windows(2).all(|w| w[0].1 < w[1].0));
        }
        for port in [0, 22, 443, 6031, 30_000, 40_000, 57_000] {
            assert!(is_owned(port), "{port}");
        }
        for port in [1, 8443, 50_051, 57_001, 65_535, DATA_PORT] {
            assert!(!is_owned(port), "{port}");
        }
    }

    #[test]
    fn a_known_protocol_goes_where_it_decodes() {
        use Protocol::*;
        for (port, protocol, begins, expected) in [
            (443, Http1, true, 80),
            (443, Http1, false, 80),
            (8443, Http1, true, 8443),
            (8443, Http1, false, 80),
            (8080, Http1, true, 8080),
            (9200, Http1, true, 9200),
            (9000, Http1, true, 80),
            (6443, Http2, true, 80),
            (50_051, Http2, true, 80),
            (8080, Http2, true, 8080),
            (631, Http2, true, 80),
            (993, Imap, true, 143),
            (1993, Imap, true, 143),
            (587, Smtp, true, 587),
            (3269, Ldap, true, 3268),
            (636, Ldap, true, 389),
            (993, Http1, true, 80),
            (3128, Tls, true, 443),
        ] {
            let stream = Stream { port, protocol: Some(protocol), begins, from_start: true };
            assert_eq!(server_port(stream), expected, "{stream:?}");
        }
    }

    #[test]
    fn unknown_bytes_go_to_the_table_or_where_they_are_shown_as_data() {
        for (port, from_start, expected) in [
            (443, true, DATA_PORT),
            (443, false, 80),
            (993, true, 143),
            (5432, true, 5432),
            (9000, true, DATA_PORT),
            (12_345, true, 12_345),
            (802, true, DATA_PORT),
        ] {
            let stream = Stream { port, protocol: None, begins: false, from_start };
            assert_eq!(server_port(stream), expected, "{stream:?}");
        }
    }

    #[test]
    fn every_target_is_owned_so_that_no_heuristic_decides() {
        assert!(TABLE.iter().all(|(_, plain)| is_owned(*plain)));
        assert!(STARTTLS.iter().chain(HTTP).all(|port| is_owned(*port)));
    }
}
