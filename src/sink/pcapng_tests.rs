use std::sync::Arc;

use pcap_file::pcapng::PcapNgReader;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption as Epb;

use super::*;
use crate::track::segment::ConnectionId;

fn process(pid: u32) -> Arc<Process> {
    Arc::new(Process {
        key: ProcessKey { pid, generation: 1 },
        comm: "curl".into(),
        exe: "/usr/bin/curl".into(),
        args: ["curl", "-u", "me:secret", "https://a.example/?q=a b"].map(str::to_owned).into(),
        uid: 0,
        container: None,
    })
}

fn packet<'a>(process: &'a Arc<Process>, payload: &'a [u8], comments: &'a [String]) -> Packet<'a> {
    Packet {
        process,
        tid: 77,
        connection: ConnectionId(1),
        time: 1_700_000_000_123_456_789,
        after: 0,
        direction: PacketDirection::Outbound,
        headers: &[0x45; 40],
        payload,
        original_len: 1000,
        dropped: 3,
        comments,
        about: "tls2pcap=1 conn=1 pid=7",
        calls: "",
    }
}

#[test]
fn comments_stand_on_the_packets_that_were_asked_for() {
    let process = process(7);
    let [opening, other] = ["tls2pcap=1 conn=1 pid=7", "tls2pcap=1 conn=1 sni=x"].map(str::to_owned);
    let of = |which| {
        let mut writer =
            PcapngWriter::new(Vec::new(), &Header::default(), false).unwrap().with_comments(which);
        for comments in [&[opening.clone()][..], &[], std::slice::from_ref(&other)] {
            writer.packet(&packet(&process, b"x", comments)).unwrap();
        }
        let file = writer.finish(0, &[]).unwrap().0;
        let comments = |block: Block<'_>| match block {
            Block::EnhancedPacket(packet) => {
                let comment = |o: &Epb<'_>| if let Epb::Comment(c) = o { Some(c.to_string()) } else { None };
                Some(packet.options.iter().filter_map(comment).collect::<Vec<_>>())
            }
            _ => None,
        };
        read(&file).into_iter().filter_map(comments).collect::<Vec<_>>()
    };
    assert_eq!(of(Comments::Syn), [vec![opening.clone()], vec![], vec![other.clone()]]);
    assert_eq!(
        of(Comments::All),
        [vec![opening.clone()], vec![opening.clone()], vec![opening.clone(), other.clone()]]
    );
    assert_eq!(of(Comments::None), [const { Vec::<String>::new() }; 3]);
}

/// Times of the packets, in seconds, and their comments about it.
fn order(file: &[u8]) -> Vec<(u64, String)> {
    let packet = |block: Block<'_>| match block {
        Block::EnhancedPacket(packet) => {
            let late = |o: &Epb<'_>| if let Epb::Comment(c) = o { Some(c.to_string()) } else { None };
            let late = packet.options.iter().find_map(late).unwrap_or_default();
            Some((packet.timestamp.as_secs(), late))
        }
        _ => None,
    };
    read(file).into_iter().filter_map(packet).collect()
}

#[test]
fn packets_stand_in_order_of_time_or_say_that_they_are_late() {
    const S: u64 = 1_000_000_000;
    let (first, second) = (process(1), process(2));
    for (comments, is_told) in [(Comments::Syn, true), (Comments::None, false)] {
        let writer = PcapngWriter::new(Writes::default(), &Header::default(), false).unwrap();
        let mut writer = writer.with_sort_time(2 * S).with_comments(comments);
        let add = |writer: &mut PcapngWriter<_>, process, time, after| {
            let packet = Packet { time: time * S, after: after * S, ..packet(process, b"x", &[]) };
            writer.packet(&packet).unwrap();
        };
        [3, 5].iter().for_each(|time| add(&mut writer, &first, *time, 0));
        // The interface of the second process goes before its packet, wherever that stands.
        [2, 4].iter().for_each(|time| add(&mut writer, &second, *time, 0));
        writer.tick(5 * S).unwrap();
        writer.flush().unwrap();
        assert_eq!(order(&writer.out.0.concat()).len(), 2, "what is older than the time is in the file");
        // One comes too late, one is behind its own connection.
        add(&mut writer, &first, 1, 0);
        add(&mut writer, &second, 4, 7);
        assert_eq!((writer.counts().late, writer.counts().latest), (2, 3 * S));
        let (out, counts) = writer.finish(9 * S, &[]).unwrap();
        let file = out.0.concat();
        assert_eq!((counts.packets, counts.bytes), (6, file.len() as u64));
        let late = |by: &str| {
            if is_told { format!("tls2pcap=1 conn=1 late={by}.000000000") } else { String::new() }
        };
        let none = String::new;
        let expected = [(2, none()), (3, none()), (1, late("2")), (4, none()), (5, none()), (4, late("3"))];
        assert_eq!(order(&file), expected);
    }
}

/// Remembers each write.
#[derive(Default)]
struct Writes(Vec<Vec<u8>>);

impl Write for Writes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes.to_vec());
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn read(file: &[u8]) -> Vec<Block<'static>> {
    let mut reader = PcapNgReader::new(file).unwrap();
    let mut blocks = Vec::new();
    while let Some(block) = reader.next_block() {
        blocks.push(block.unwrap().into_owned());
    }
    blocks
}

#[test]
fn another_reader_reads_what_was_written() {
    let comments = ["tls2pcap=1 conn=1".to_owned(), "é".repeat(40_000)];
    let (first, second) = (process(1), process(2));
    let mut writer = PcapngWriter::new(Vec::new(), &Header::default(), false).unwrap();
    for len in 0..9 {
        writer.packet(&packet(&first, &b"payload!!"[..len], &comments)).unwrap();
    }
    writer.packet(&packet(&second, b"x", &[])).unwrap();
    let told = |pid: Option<u32>, dropped, comment: &str| Statistics {
        process: pid.map(|pid| process(pid).key),
        dropped,
        comments: vec![comment.to_owned()],
    };
    let told = [told(Some(2), 9, "of two"), told(Some(3), 5, "of three"), told(None, 1, "of none")];
    let (file, counts) = writer.finish(1_700_000_001_000_000_000, &told).unwrap();
    assert_eq!((counts.packets, counts.bytes, counts.interfaces), (10, file.len() as u64, 3));

    let blocks = read(&file);
    let Block::InterfaceDescription(interface) = &blocks[0] else { panic!("{:?}", blocks[0]) };
    let description = "curl -u *** 'https://a.example/?q=a b'";
    assert_eq!(interface.options[0], Idb::IfName("curl[1]".into()));
    assert_eq!(interface.options[1], Idb::IfDescription(description.into()));
    for (len, block) in blocks[1..10].iter().enumerate() {
        let Block::EnhancedPacket(packet) = block else { panic!("{block:?}") };
        assert_eq!(packet.timestamp.as_nanos(), 1_700_000_000_123_456_789);
        assert_eq!((packet.interface_id, packet.original_len, packet.data.len()), (0, 1014, 54 + len));
        assert_eq!(&packet.data[54..], &b"payload!!"[..len]);
        assert_eq!(packet.options[0], Epb::Flags(2));
        assert_eq!(packet.options[1], Epb::DropCount(3));
        let Epb::Unknown(queue) = &packet.options[2] else { panic!() };
        assert_eq!((queue.code, &queue.value[..]), (6, &[1, 0, 0, 0][..]));
        let Epb::Unknown(process) = &packet.options[3] else { panic!() };
        assert_eq!((process.code, &process.value[..]), (8, &[1, 0, 0, 0, 77, 0, 0, 0][..]));
        assert_eq!(packet.options[4], Epb::Comment(comments[0].as_str().into()));
        assert_eq!(packet.options[5], Epb::Comment("é".repeat(TEXT_MAX / 2).into()));
    }
    let Block::InterfaceDescription(lost) = &blocks[12] else { panic!("{:?}", blocks[12]) };
    assert_eq!(lost.options[0], Idb::IfName("lost".into()));
    let [first, second, lost] = [13, 14, 15].map(|at| match &blocks[at] {
        Block::InterfaceStatistics(statistics) => &statistics.options,
        block => panic!("{block:?}"),
    });
    assert!(!first.iter().any(|option| matches!(option, Isb::Comment(_))));
    assert!(second.contains(&Isb::IsbIfDrop(9)) && second.contains(&Isb::Comment("of two".into())));
    assert!(lost.contains(&Isb::IsbIfDrop(6)) && lost.contains(&Isb::Comment("of none".into())));
    let Block::InterfaceStatistics(statistics) = &blocks[13] else { panic!("{:?}", blocks[13]) };
    assert_eq!(statistics.timestamp, 1_700_000_001_000_000_000u64.rotate_left(32));
    assert!(statistics.options.contains(&Isb::IsbIfRecv(9 * 4)));
    assert!(statistics.options.contains(&Isb::IsbIfDrop(27)));
}

#[test]
fn a_file_without_packets_has_an_interface() {
    let writer = PcapngWriter::new(Vec::new(), &Header::default(), false).unwrap();
    let blocks = read(&writer.finish(7, &[]).unwrap().0);
    let [Block::InterfaceDescription(interface), Block::InterfaceStatistics(statistics)] = &blocks[..] else {
        panic!("{blocks:?}")
    };
    assert_eq!(interface.options[0], Idb::IfName("none".into()));
    assert!(statistics.interface_id == 0 && statistics.options.contains(&Isb::IsbIfRecv(0)));
}

#[test]
fn each_write_ends_at_the_border_of_a_block() {
    let process = process(1);
    let mut writer = PcapngWriter::new(Writes::default(), &Header::default(), true).unwrap();
    assert_eq!(writer.out.0.len(), 1, "the header is there at once");
    let payload = vec![7; 60_000];
    for _ in 0..20 {
        writer.packet(&Packet { original_len: 60_040, ..packet(&process, &payload, &[]) }).unwrap();
    }
    writer.flush().unwrap();
    writer.flush().unwrap();
    let written = writer.out.0.len();
    assert!((4..8).contains(&written), "{written} writes");
    for end in 1..=written {
        read(&writer.out.0[..end].concat());
    }
}

/// Takes one write and refuses the next.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += 1;
        if self.0 == 2 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(bytes.len()) }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn nothing_follows_a_failed_write() {
    let process = process(1);
    let mut writer = PcapngWriter::new(Full(0), &Header::default(), true).unwrap();
    writer.packet(&packet(&process, b"x", &[])).unwrap();
    assert_eq!(writer.flush().unwrap_err().kind(), io::ErrorKind::StorageFull);
    writer.packet(&packet(&process, b"x", &[])).unwrap();
    assert!(writer.flush().is_err(), "its interface is not in the file");
    assert_eq!(writer.out.0, 2);
}
