use std::fs;

use super::*;
use crate::sink::pcapng::Statistics as Counted;
use crate::sink::{Header, PcapngWriter};
use crate::synth::packet::{Packet, PacketDirection};
use crate::track::segment::{ConnectionId, Process};

/// A packet that comes so many seconds after the first.
fn packet(process: &Arc<Process>, n: u64) -> Packet<'_> {
    Packet {
        process,
        tid: 1,
        connection: ConnectionId(1),
        time: (1_796_000_000 + n) * SECOND,
        after: 0,
        direction: PacketDirection::Inbound,
        headers: &[0x45; 40],
        payload: &[7; 100],
        original_len: 140,
        dropped: 0,
        comments: &[],
        about: "",
        calls: "",
    }
}

/// Writes so many packets, 1 s apart, and tells how it ended.
fn write(plan: Plan, name: &str, packets: u64) -> (Vec<String>, Told, bool, u64) {
    let folder = tempfile::tempdir().unwrap();
    let files = Files::new(plan, &folder.path().join(name), None, Link::default());
    let told = files.told();
    let mut writer = PcapngWriter::new(files, &Header::default(), false).unwrap();
    let process = Arc::new(Process::others());
    let mut result = Ok(());
    for n in 0..packets {
        result = writer.packet(&packet(&process, n)).and_then(|()| writer.flush());
        if result.is_err() {
            break;
        }
    }
    let counted = writer.counts().packets;
    let is_enough = match result {
        Ok(()) => writer.finish(0, &[]).is_err_and(|error| is_enough(&error)),
        Err(error) => {
            drop(writer);
            is_enough(&error)
        }
    };
    let mut names: Vec<_> =
        folder.path().read_dir().unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let told = told.lock().unwrap().clone();
    (names, told, is_enough, counted)
}

#[test]
fn files_are_dealt_out_kept_and_enough() {
    let plan = Plan { packets: Some(10), ..Plan::default() };
    let (names, told, is_enough, _) = write(plan.clone(), "a.pcapng", 25);
    assert_eq!(
        (names, told.files, is_enough),
        (["a.pcapng", "a1.pcapng", "a2.pcapng"].map(String::from).into(), 3, false)
    );

    let ring = Plan { keep: Some(2), ..plan.clone() };
    let (names, told, ..) = write(ring, "a.pcapng", 45);
    assert_eq!(
        (names, told.files, told.removed),
        (["a0.pcapng", "a1.pcapng"].map(String::from).into(), 5, 3)
    );

    let dumpcap = Plan { keep: Some(2), names: Names::NumberTime, ..plan.clone() };
    let (names, told, ..) = write(dumpcap, "a.pcapng", 45);
    assert!(names.len() == 2 && names[1].starts_with("a_00005_") && told.removed == 3, "{names:?}");

    let some = Plan { packets_max: Some(7), ..Plan::default() };
    let (names, _, is_enough, counted) = write(some, "a.pcapng", 25);
    assert_eq!((names.len(), is_enough, counted), (1, true, 7));

    let some = Plan { files_max: Some(2), seconds: Some(5), ..Plan::default() };
    let (names, _, is_enough, counted) = write(some, "a-%S.pcapng", 25);
    assert_eq!((names.len(), is_enough, counted), (2, true, 10));

    let some = Plan { bytes_max: Some(2000), ..Plan::default() };
    let (_, _, is_enough, counted) = write(some, "a.pcapng", 25);
    assert!(is_enough && (5..12).contains(&counted), "{counted}");
}

#[test]
fn a_name_that_does_not_change_gets_a_number() {
    let plan = Plan { seconds: Some(2), ..Plan::default() };
    let (names, ..) = write(plan, "a-%Y.pcapng", 5);
    assert_eq!(names.len(), 3, "{names:?}");
}

#[test]
fn a_period_longer_than_time_itself_never_ends() {
    let plan = Plan { seconds: Some(u64::MAX), packets: Some(2), ..Plan::default() };
    let (names, ..) = write(plan, "a-%Y.pcapng", 5);
    assert_eq!(names, ["a-2026.pcapng", "a-20261.pcapng", "a-20262.pcapng"]);
}

#[test]
fn a_file_whose_time_is_over_is_complete_without_a_later_packet() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan { seconds: Some(5), files_max: Some(2), ..Plan::default() };
    let mut files = Files::new(plan, &folder.path().join("a.pcapng"), None, Link::default());
    let process = Arc::new(Process::others());
    let whole = |n: u64| {
        let mut writer = PcapngWriter::new(Vec::new(), &Header::default(), false).unwrap();
        writer.packet(&packet(&process, n)).unwrap();
        writer.finish((1_796_000_000 + n) * SECOND, &[]).unwrap().0
    };
    let each = |blocks: &[u8], kinds: &[u32]| -> Vec<u8> {
        blocks::each(blocks).filter(|(kind, _)| kinds.contains(kind)).flat_map(|(_, b)| b.to_vec()).collect()
    };
    let statistics =
        |n: u64| each(&fs::read(folder.path().join(format!("a{n}.pcapng"))).unwrap(), &[STATISTICS]);
    let first = folder.path().join("a.pcapng");

    files.settled(0).unwrap();
    files.write_all(&each(&whole(0), &[SECTION, INTERFACE, PACKET])).unwrap();
    files.settled((1_796_000_000 + 4) * SECOND).unwrap();
    assert!(each(&fs::read(&first).unwrap(), &[STATISTICS]).is_empty(), "it goes on");
    for _ in 0..2 {
        files.settled((1_796_000_000 + 5) * SECOND).unwrap();
    }
    let complete = fs::read(&first).unwrap();
    assert_eq!(each(&complete, &[STATISTICS]).len() as u64, STATISTICS_LEN);
    // One that is late does not begin the name anew.
    files.write_all(&each(&whole(3), &[PACKET])).unwrap();
    assert_eq!(fs::read(&first).unwrap(), complete);
    let later = fs::read(folder.path().join("a1.pcapng")).unwrap();
    assert!(each(&later, &[SECTION]).len() > each(&complete, &[SECTION]).len(), "it names the file before");
    assert_eq!(each(&later, &[INTERFACE, PACKET]).len(), each(&complete, &[INTERFACE, PACKET]).len());
    let error = files.settled((1_796_000_000 + 8) * SECOND).unwrap_err();
    assert!(is_enough(&error), "{error}");
    assert_eq!(statistics(1).len() as u64, STATISTICS_LEN);
    drop(files);
    assert_eq!(folder.path().read_dir().unwrap().count(), 2);
}

#[test]
fn what_was_lost_is_said_after_a_file_that_was_complete_early() {
    let lost = |dropped: u64| {
        let folder = tempfile::tempdir().unwrap();
        let plan = Plan { seconds: Some(5), ..Plan::default() };
        let mut files = Files::new(plan, &folder.path().join("a.pcapng"), None, Link::default());
        let process = Arc::new(Process::others());
        let mut writer = PcapngWriter::new(Vec::new(), &Header::default(), false).unwrap();
        writer.packet(&packet(&process, 0)).unwrap();
        let comments = (dropped > 0).then(|| "lost=3".to_owned()).into_iter().collect();
        let told = Counted { dropped, comments, ..Counted::default() };
        let (whole, _) = writer.finish(1_796_000_009 * SECOND, &[told]).unwrap();
        let at = blocks::each(&whole).filter(|(kind, _)| *kind != STATISTICS).map(|(_, b)| b.len()).sum();
        files.write_all(&whole[..at]).unwrap();
        files.settled(1_796_000_005 * SECOND).unwrap();
        files.write_all(&whole[at..]).unwrap();
        drop(files);
        folder.path().read_dir().unwrap().count()
    };
    assert_eq!((lost(0), lost(3)), (1, 2));
}

#[test]
fn bytes_are_counted_of_what_is_no_file_too() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for max in (1000..3000).step_by(36) {
        let plan = Plan { bytes_max: Some(max), ..Plan::default() };
        let from = pipe.clone();
        let read = std::thread::spawn(move || fs::read(from).unwrap().len() as u64);
        let out = OutputFile::create(&pipe, Format::default()).unwrap();
        let files = Files::new(plan, &pipe, Some((out, pipe.clone())), Link::default());
        let mut writer = PcapngWriter::new(files, &Header::default(), false).unwrap();
        let process = Arc::new(Process::others());
        let failed =
            (0..50).find_map(|n| writer.packet(&packet(&process, n)).and_then(|()| writer.flush()).err());
        assert!(failed.is_some_and(|error| is_enough(&error)));
        drop(writer);
        let len = read.join().unwrap();
        assert!(len <= max && len + 400 > max, "{len} of {max}");
    }
}

#[test]
fn a_device_is_not_followed_by_files_beside_it() {
    let plan = Plan { packets: Some(1), ..Plan::default() };
    let files = Files::new(plan, Path::new("/dev/null"), None, Link::default());
    let mut writer = PcapngWriter::new(files, &Header::default(), false).unwrap();
    let process = Arc::new(Process::others());
    let error = writer.packet(&packet(&process, 0)).and_then(|()| writer.flush()).unwrap_err();
    assert!(error.to_string().contains("not a regular file"), "{error}");
}
