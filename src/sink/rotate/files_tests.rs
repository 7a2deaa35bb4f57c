use super::*;
use crate::sink::{Header, PcapngWriter};
use crate::synth::packet::{Packet, PacketDirection};
use crate::track::segment::{ConnectionId, Process};

/// Writes so many packets, 1 s apart, and tells how it ended.
fn write(plan: config::Files, name: &str, packets: u64) -> (Vec<String>, Told, bool, u64) {
    let folder = tempfile::tempdir().unwrap();
    let files = Files::new(plan, &folder.path().join(name), None, Link::default());
    let told = files.told();
    let mut writer = PcapngWriter::new(files, &Header::default(), false).unwrap();
    let process = Arc::new(Process::others());
    let mut result = Ok(());
    for n in 0..packets {
        let time = (1_796_000_000 + n) * SECOND;
        let packet = Packet {
            process: &process,
            tid: 1,
            connection: ConnectionId(1),
            time,
            after: 0,
            direction: PacketDirection::Inbound,
            headers: &[0x45; 40],
            payload: &[7; 100],
            original_len: 140,
            dropped: 0,
            comments: &[],
            about: "",
            calls: "",
        };
        result = writer.packet(&packet).and_then(|()| writer.flush());
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
    let plan = config::Files { packets: Some(10), ..config::Files::default() };
    let (names, told, is_enough, _) = write(plan.clone(), "a.pcapng", 25);
    assert_eq!(
        (names, told.files, is_enough),
        (["a.pcapng", "a1.pcapng", "a2.pcapng"].map(String::from).into(), 3, false)
    );

    let ring = config::Files { keep: Some(2), ..plan.clone() };
    let (names, told, ..) = write(ring, "a.pcapng", 45);
    assert_eq!(
        (names, told.files, told.removed),
        (["a0.pcapng", "a1.pcapng"].map(String::from).into(), 5, 3)
    );

    let dumpcap = config::Files { keep: Some(2), names: config::Names::NumberTime, ..plan.clone() };
    let (names, told, ..) = write(dumpcap, "a.pcapng", 45);
    assert!(names.len() == 2 && names[1].starts_with("a_00005_") && told.removed == 3, "{names:?}");

    let some = config::Files { packets_max: Some(7), ..config::Files::default() };
    let (names, _, is_enough, counted) = write(some, "a.pcapng", 25);
    assert_eq!((names.len(), is_enough, counted), (1, true, 7));

    let some = config::Files { files_max: Some(2), seconds: Some(5), ..config::Files::default() };
    let (names, _, is_enough, counted) = write(some, "a-%S.pcapng", 25);
    assert_eq!((names.len(), is_enough, counted), (2, true, 10));

    let some = config::Files { bytes_max: Some(2000), ..config::Files::default() };
    let (_, _, is_enough, counted) = write(some, "a.pcapng", 25);
    assert!(is_enough && (5..12).contains(&counted), "{counted}");
}

#[test]
fn a_name_that_does_not_change_gets_a_number() {
    let plan = config::Files { seconds: Some(2), ..config::Files::default() };
    let (names, ..) = write(plan, "a-%Y.pcapng", 5);
    assert_eq!(names.len(), 3, "{names:?}");
}

#[test]
fn a_period_longer_than_time_itself_never_ends() {
    let plan = config::Files { seconds: Some(u64::MAX), packets: Some(2), ..config::Files::default() };
    let (names, ..) = write(plan, "a-%Y.pcapng", 5);
    assert_eq!(names, ["a-2026.pcapng", "a-20261.pcapng", "a-20262.pcapng"]);
}
