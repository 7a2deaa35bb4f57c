//! The goals, each measured as a ratio within one run.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::check::{self, Verdict};
use crate::floor::Place;
use crate::load::{Load, Report};
use crate::table::{Row, Samples};
use crate::tool::{Ended, Running};
use crate::{Bench, Case, Res, Run, With, peers, server, soak};

const MIB: f64 = 1_048_576.0;

/// Measures the goal of this name; all if it is empty.
pub fn rows(bench: &Bench, only: &str, soak: f64) -> Res<Vec<Row>> {
    let mut rows = Vec::new();
    let wanted = |names: &[&str]| only.is_empty() || names.contains(&only);
    let mut add = |more: Vec<Row>| {
        for row in &more {
            eprintln!("{} {}: {}", row.goal, row.what, row.samples.show(row.digits));
        }
        rows.extend(more.into_iter().filter(|row| only.is_empty() || row.goal == only));
    };
    if wanted(&["", "G1"]) {
        add(vec![single_step(bench)?]);
    }
    let no_cheap_site = Place::Internal.offsets(&bench.load.library).err();
    if let (Some(why), true) = (&no_cheap_site, wanted(&["G1", "G2"])) {
        let what = "application CPU where a cheap site exists".to_owned();
        add(vec![Row { goal: "G1", what, beside: format!("not measured: {why}"), ..Default::default() }]);
    } else if wanted(&["G1", "G2"]) {
        for (size, messages, of_exports, of_internal) in
            [(512, 20_000, 0.35, 1.5), (1400, 20_000, 0.4, 1.5), (16_384, 6_000, 0.75, 2.0)]
        {
            let case = Case::new("mem", size, bench.scaled(messages)).warm();
            let places = [Place::Exports, Place::Internal, Place::Instructions];
            let turns = turns(bench, &bench.load, &case, &[], &places)?;
            add(vec![
                turns.ratio("G1", &case, "an empty entry+return pair on the exports", 1, Some(of_exports)),
                turns.ratio("G2", &case, "an empty session at the internal functions", 2, Some(of_internal)),
                turns.ratio("G2", &case, "empty probes on the same instructions", 3, None),
            ]);
        }
    }
    if wanted(&["G3"]) {
        for (size, messages, most) in [(512, 10_000, 1.2), (1400, 10_000, 1.2), (16_384, 6_000, 1.4)] {
            let case = Case::new("mem", size, bench.scaled(messages)).warm();
            // Without unwind tables it is not known where functions return.
            let turns = turns(bench, &bench.exports_only, &case, &["--return-probes"], &[Place::Exports])?;
            add(vec![turns.ratio(
                "G3",
                &case,
                "an empty pair, where nothing but the exports is found (--return-probes)",
                1,
                Some(most),
            )]);
        }
    }
    if wanted(&["G4"]) {
        let case = Case::new("pingpong", 1400, bench.scaled(20_000)).warm().with("-a".into());
        add(turns(bench, &bench.load, &case, &[], &[])?.pingpong(&case));
    }
    if wanted(&["G5", "G7"]) {
        for (size, messages, most) in [
            (64, 100_000, Some(3.0)),
            (1400, 100_000, Some(3.0)),
            (16_384, 40_000, Some(30.0)),
            (65_536, 10_000, None),
        ] {
            add(unpaced(bench, size, bench.scaled(messages), most)?);
        }
        if wanted(&["G7"]) {
            add(vec![beside_sslsniff(bench)?]);
        }
    }
    if wanted(&["G5"]) {
        add(whole(bench)?);
        add(vec![by_tshark(bench)?]);
    }
    if wanted(&["G6"]) {
        add(vec![paced(bench)?, overrun(bench)?]);
    }
    if wanted(&["G8"]) {
        let [resident, tables] = memory(bench)?;
        add(vec![
            Row {
                goal: "G8",
                what: "start to capturing, of all runs, s".into(),
                samples: Samples(bench.ready.borrow().clone()),
                digits: 2,
                most: Some(0.5),
                ..Default::default()
            },
            resident,
            tables,
        ]);
    }
    if wanted(&["G15"]) {
        add(server::rows(bench)?);
    }
    if soak > 0.0 && wanted(&["soak"]) {
        add(soak::rows(bench, soak)?);
    }
    Ok(rows)
}

/// Runs of one load, in turns: nothing, empty probes, tls2pcap.
struct Turns {
    reports: Vec<Vec<Report>>,
    verdicts: Vec<Verdict>,
}

/// `more`: arguments of tls2pcap.
fn turns(bench: &Bench, load: &Load, case: &Case, more: &[&str], places: &[Place]) -> Res<Turns> {
    let ways: Vec<With> = std::iter::once(With::Nothing)
        .chain(places.iter().map(|place| With::Empty(*place)))
        .chain([With::Tls2pcap])
        .collect();
    let mut turns = Turns { reports: Vec::new(), verdicts: Vec::new() };
    for round in 0..bench.rounds {
        let mut reports: Vec<Report> = vec![Report::default(); ways.len()];
        for i in 0..ways.len() {
            // What stands first in one round stands last in the next.
            let way = if round % 2 == 0 { i } else { ways.len() - 1 - i };
            let run = bench.run(load, case, ways[way], more)?;
            reports[way] = run.report;
            turns.verdicts.extend(run.verdict);
        }
        turns.reports.push(reports);
    }
    Ok(turns)
}

impl Turns {
    fn per_call(&self, way: usize) -> String {
        let samples: Samples = self.reports.iter().map(|r| r[way].cpu() / r[way].calls()).collect();
        format!("{:.2}", samples.median())
    }

    fn of(&self, way: usize, value: impl Fn(&Report) -> f64) -> Samples {
        self.reports.iter().map(|r| value(r.last().expect("tls2pcap is last")) / value(&r[way])).collect()
    }

    fn ratio(&self, goal: &'static str, case: &Case, floor: &str, way: usize, most: Option<f64>) -> Row {
        Row {
            goal,
            what: format!("application CPU ÷ the same with {floor}, {} B", case.size),
            samples: self.of(way, Report::cpu),
            digits: 2,
            most,
            captured: captured(&self.verdicts),
            beside: format!(
                "µs a call: unprobed {}, empty probes {}, tls2pcap {}",
                self.per_call(0),
                self.per_call(way),
                self.per_call(self.reports[0].len() - 1)
            ),
        }
    }

    fn pingpong(&self, case: &Case) -> Vec<Row> {
        let row = |what: &str, samples, most| Row {
            goal: "G4",
            what: format!("TCP ping-pong, {} B: {what} ÷ unprobed", case.size),
            samples,
            digits: 2,
            most,
            captured: captured(&self.verdicts),
            ..Default::default()
        };
        vec![
            row("application CPU", self.of(0, Report::cpu), Some(1.2)),
            row("time", self.of(0, Report::wall), None),
        ]
    }
}

fn captured(verdicts: &[Verdict]) -> Option<[u64; 4]> {
    let sum = |value: fn(&Verdict) -> u64| verdicts.iter().map(value).sum();
    Some([sum(|v| v.captured), sum(|v| v.sent), sum(|v| v.equal), sum(|v| v.streams)])
}

fn of_runs(runs: &[Run]) -> Option<[u64; 4]> {
    captured(&runs.iter().filter_map(|r| r.verdict.clone()).collect::<Vec<_>>())
}

/// What this machine takes for an instruction that the kernel cannot emulate.
fn single_step(bench: &Bench) -> Res<Row> {
    let case = Case::new("steps", 64, 20_000);
    let (mut steps, mut emulated) = (Samples::default(), Samples::default());
    for _ in 0..bench.rounds {
        let waiting = bench.load.start(&case.arguments())?;
        let _links = ["step_emulated", "step_single"]
            .map(|f| bench.floor.attach_entry(waiting.pid(), &bench.load.program, f))
            .into_iter()
            .collect::<Res<Vec<_>>>()?;
        let [without, with] = waiting.run()?.steps();
        steps.0.push((with - without) / 1000.0);
        emulated.0.push(without / 1000.0);
    }
    Ok(Row {
        what: "single-stepping one instruction on this machine, µs".into(),
        samples: steps,
        digits: 2,
        beside: format!("an empty entry probe on an emulated instruction: {} µs", emulated.show(2)),
        ..Default::default()
    })
}

/// As fast as two threads can.
fn unpaced(bench: &Bench, size: u64, messages: u64, most: Option<f64>) -> Res<Vec<Row>> {
    let case = Case::new("stream", size, messages);
    let runs: Vec<Run> = (0..bench.rounds.min(3))
        .map(|_| bench.run(&bench.load, &case, With::Tls2pcap, &[]))
        .collect::<Res<_>>()?;
    let rate: Samples = runs.iter().map(|r| r.report.rate()).collect();
    let lost =
        |r: &Run| r.verdict.as_ref().map_or(f64::NAN, |v| 100.0 - v.whole as f64 * 100.0 / messages as f64);
    let cpu = |r: &Run| r.tool.as_ref().map_or(f64::NAN, |t| t.cpu) / r.report.calls();
    Ok(vec![
        Row {
            goal: "G5",
            what: format!("unpaced loopback, {size} B: messages not whole, %"),
            samples: runs.iter().map(lost).collect(),
            digits: 2,
            most: Some(0.0),
            captured: of_runs(&runs),
            beside: format!("{} MB/s", rate.show(0)),
        },
        Row {
            goal: "G7",
            what: format!("tls2pcap's CPU per event in the same runs, {size} B, µs"),
            samples: runs.iter().map(cpu).collect(),
            digits: 2,
            most,
            ..Default::default()
        },
    ])
}

fn beside_sslsniff(bench: &Bench) -> Res<Row> {
    let mut row = Row {
        goal: "G7",
        what: "tls2pcap's CPU per event ÷ sslsniff's per event it shows, unpaced loopback, 1400 B".into(),
        digits: 3,
        most: Some(0.1),
        ..Default::default()
    };
    let case = Case::new("stream", 1400, bench.scaled(30_000));
    for _ in 0..bench.rounds.min(3) {
        let Some(other) = peers::run(bench, &peers::SSLSNIFF, &case)? else {
            row.beside = "sslsniff is not installed or does not run here: benches/peers".into();
            row.most = None;
            return Ok(row);
        };
        let run = bench.run(&bench.load, &case, With::Tls2pcap, &[])?;
        let own = run.tool.map_or(f64::NAN, |t| t.cpu) / run.report.calls();
        row.samples.0.push(own / (other.cpu / other.events as f64));
        row.beside = format!("sslsniff: {:.1} µs an event", other.cpu / other.events as f64);
    }
    Ok(row)
}

/// Many connections at once; one that is long.
fn whole(bench: &Bench) -> Res<Vec<Row>> {
    let gib = (1u64 << 30) as f64 * bench.scale.min(1.0);
    let cases = [
        (
            "32 connections at once, both ways, 1400 B",
            Case::new("pingpong", 1400, bench.scaled(1_000)).with("-c 32".into()),
        ),
        (
            "32 connections at once, 16 KiB",
            Case::new("stream", 16_384, bench.scaled(500)).with("-c 32".into()),
        ),
        ("one connection, 16 KiB messages", Case::new("stream", 16_384, (gib / 16_384.0) as u64)),
    ];
    cases
        .into_iter()
        .map(|(what, case)| {
            let run = bench.run(&bench.load, &case, With::Tls2pcap, &[])?;
            Ok(Row {
                goal: "G5",
                what: format!("{what}, {:.0} MB in all: bytes lost", run.report.bytes() as f64 / 1e6),
                samples: Samples(vec![
                    run.verdict.as_ref().map_or(f64::NAN, |v| (v.sent - v.captured) as f64),
                ]),
                most: Some(0.0),
                beside: format!("reported lost: {}", run.tool.as_ref().map_or(0, |t| t.lost)),
                captured: of_runs(&[run]),
                ..Default::default()
            })
        })
        .collect()
}

/// The same question to tshark.
fn by_tshark(bench: &Bench) -> Res<Row> {
    let mut row = Row {
        goal: "G5",
        what: "streams as tshark follows them, files with other hashes".into(),
        most: Some(0.0),
        ..Default::default()
    };
    let cases = [
        Case::new("stream", 64, 2_000),
        Case::new("stream", 65_536, 200),
        Case::new("pingpong", 1400, 200).with("-c 4".into()),
    ];
    let mut others = 0.0;
    for case in &cases {
        let file = bench.work.path().join("followed.pcapng");
        let waiting = bench.load.start(&case.arguments())?;
        let tool = Running::tls2pcap(bench.work.path(), &file, waiting.pid(), &bench.load.library, &[])?;
        let report = waiting.run()?;
        tool.end()?;
        let judged = check::judged_by_tshark(&file, &report);
        sees_a_changed_byte(&file, &Report { size: case.size, ..report }, case)?;
        fs::remove_file(&file)?;
        match judged {
            None => {
                row.beside = "no tshark here".into();
                row.most = None;
                return Ok(row);
            }
            Some(same) => others += f64::from(u8::from(!same?)),
        }
    }
    if others > 0.0 {
        bench.wrong.borrow_mut().push("tshark shows other streams than were sent".into());
    }
    row.beside = format!("of {} files", cases.len());
    row.samples.0.push(others);
    Ok(row)
}

/// Were the comparison blind, nothing else here would mean anything.
fn sees_a_changed_byte(file: &Path, report: &Report, case: &Case) -> Res<()> {
    let before = check::check(file, report, case.views())?;
    let mut bytes = fs::read(file)?;
    let tail = memchr::memmem::find(&bytes, b"[00000000000001]").ok_or("no second message in the file")?;
    bytes[tail - 1] ^= 1;
    fs::write(file, bytes)?;
    let after = check::check(file, report, case.views())?;
    if after.wrong.len() != before.wrong.len() + 1 || after.equal + 1 != before.equal {
        return Err("the comparison does not see a changed byte".into());
    }
    Ok(())
}

/// A rate that a file must keep up with.
fn paced(bench: &Bench) -> Res<Row> {
    let case = Case::new("stream", 16_384, bench.scaled(120_000)).with("-r 400".into());
    let runs: Vec<Run> = (0..bench.rounds.min(2))
        .map(|_| bench.run(&bench.load, &case, With::Tls2pcap, &[]))
        .collect::<Res<_>>()?;
    let lost = |r: &Run| r.verdict.as_ref().map_or(f64::NAN, |v| v.sent.abs_diff(v.captured) as f64);
    let rate: Samples = runs.iter().map(|r| r.report.rate()).collect();
    let reached = rate.median() > 380.0;
    Ok(Row {
        goal: "G6",
        what: format!("400 MB/s into a file, {:.1} GB: bytes lost", runs[0].report.bytes() as f64 / 1e9),
        samples: runs.iter().map(lost).collect(),
        most: reached.then_some(0.0),
        captured: of_runs(&runs),
        beside: format!("{} MB/s{}", rate.show(0), if reached { "" } else { ": the load was too slow" }),
        ..Default::default()
    })
}

/// Past the limit: the smallest ring, and a reader of 20 MB/s.
fn overrun(bench: &Bench) -> Res<Row> {
    let case = Case::new("stream", 16_384, bench.scaled(30_000));
    let (path, mut file) = crate::create(bench.work.path(), "overrun.pcapng")?;
    let waiting = bench.load.start(&case.arguments())?;
    let ring = ["--ring-size", "1"];
    let mut tool =
        Running::tls2pcap(bench.work.path(), Path::new("-"), waiting.pid(), &bench.load.library, &ring)?;
    let mut out = tool.out.take().expect("a pipe");
    let hurry = Arc::new(AtomicBool::new(false));
    let slow = Arc::clone(&hurry);
    let reader = thread::spawn(move || -> std::io::Result<File> {
        let (began, mut done, mut buffer) = (Instant::now(), 0.0, vec![0; 1 << 16]);
        loop {
            match out.read(&mut buffer)? {
                0 => return Ok(file),
                n => file.write_all(&buffer[..n])?,
            }
            done += buffer.len() as f64;
            let due = Duration::from_secs_f64(done / 20e6);
            if !slow.load(Ordering::Relaxed) {
                thread::sleep(due.saturating_sub(began.elapsed()));
            }
        }
    });
    let report = Report { size: case.size, ..waiting.run()? };
    hurry.store(true, Ordering::Relaxed);
    let ended = tool.end()?;
    reader.join().map_err(|_| "the slow reader failed")??;
    let verdict = check::check(&path, &report, case.views())?;
    fs::remove_file(&path)?;
    bench.note(&case, &ended, &verdict);
    let lost = verdict.sent - verdict.captured.min(verdict.sent);
    let off = lost.abs_diff(ended.lost).max(lost.abs_diff(verdict.labelled));
    Ok(Row {
        goal: "G6",
        what: "past the limit (1 MiB ring, reader of 20 MB/s): reported loss beside real loss, bytes".into(),
        samples: Samples(vec![off as f64]),
        most: (lost > 0).then_some(0.0),
        captured: captured(std::slice::from_ref(&verdict)),
        beside: format!(
            "of {} bytes lost {lost}, by the summary {}, by the holes in the file {}",
            verdict.sent, ended.lost, verdict.labelled
        ),
        ..Default::default()
    })
}

fn memory(bench: &Bench) -> Res<[Row; 2]> {
    const RING: f64 = 64.0;
    let case = Case::new("stream", 16_384, bench.scaled(30_000)).with("-r 100".into());
    let run = bench.run(&bench.load, &case, With::Tls2pcap, &["--ring-size", "64"])?;
    let mib =
        |of: fn(&Ended) -> u64| Samples(vec![run.tool.as_ref().map_or(f64::NAN, |t| of(t) as f64) / MIB]);
    let resident = Row {
        goal: "G8",
        what: "peak resident memory at 100 MB/s with a ring of 64 MiB, MiB".into(),
        samples: mib(|tool| tool.memory),
        digits: 1,
        most: Some(2.0 * RING + 16.0),
        beside: format!("{:.0} MB/s; the ring is mapped twice", run.report.rate()),
        captured: of_runs(std::slice::from_ref(&run)),
    };
    let tables = Row {
        goal: "G8",
        what: "the same run: kernel memory for tables, beside the ring, MiB".into(),
        samples: mib(|tool| tool.tables),
        digits: 1,
        beside: "grows with handles, threads and sockets from Linux 6.1 on".into(),
        captured: of_runs(&[run]),
        ..Default::default()
    };
    Ok([resident, tables])
}
