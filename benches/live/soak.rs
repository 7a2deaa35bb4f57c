//! Many calls on many connections: memory must stay what it is.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::check::Scan;
use crate::table::{Row, Samples};
use crate::tool::Running;
use crate::{Bench, Case, Res};

const CONNECTIONS: u64 = 16;
const MIB: f64 = 1_048_576.0;

/// Long connections, where memory must be flat; and short ones, since the tables that remember
/// connections fill up to their bounds.
pub fn rows(bench: &Bench, millions: f64) -> Res<Vec<Row>> {
    let long = soak(bench, millions, 2_500)?;
    let short = soak(bench, millions / 10.0, 10)?;
    Ok(vec![
        Row {
            what: format!("{}: resident memory, last quarter above first, MiB", long.what),
            most: Some(2.0),
            ..long
        },
        Row { what: format!("{}: the same (bounded by the tables of connections)", short.what), ..short },
    ])
}

/// `millions` of calls, 64 bytes each, on connections of so many `messages` and answers; the capture
/// is compared as it is written, and kept nowhere.
fn soak(bench: &Bench, millions: f64, messages: u64) -> Res<Row> {
    // A message and its answer are four calls.
    let rounds = (millions * 1e6 / (4 * messages * CONNECTIONS) as f64).ceil().max(1.0);
    let case = Case::new("pingpong", 64, messages).with(format!("-c {CONNECTIONS} -k {rounds}"));
    let waiting = bench.load.start(&case.arguments())?;
    let mut tool =
        Running::tls2pcap(bench.work.path(), Path::new("-"), waiting.pid(), &bench.load.library, &[])?;
    let out = tool.out.take().expect("a pipe");
    let reader = thread::spawn(move || Scan::read(out, None));
    let over = AtomicBool::new(false);
    let (report, memory) = thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut memory = Vec::new();
            while !over.load(Ordering::Relaxed) {
                memory.push(tool.memory().0 as f64 / MIB);
                thread::sleep(Duration::from_millis(100));
            }
            memory
        });
        // The thread's error is not the thread's to show.
        let report = waiting.run().map_err(|e| e.to_string());
        over.store(true, Ordering::Relaxed);
        (report, sampler.join())
    });
    let report = report?;
    let memory = memory.map_err(|_| "the sampler failed")?;
    let ended = tool.end()?;
    let scan = reader.join().map_err(|_| "the reader failed")??;
    let verdict = scan.compare(&report, case.views());
    bench.note(&case, &ended, &verdict);
    let quarter = memory.len().div_ceil(4);
    let most = |part: &[f64]| part.iter().copied().fold(0.0, f64::max);
    let [first, last] = [most(&memory[..quarter]), most(&memory[memory.len() - quarter..])];
    Ok(Row {
        goal: "soak",
        what: format!(
            "{:.1} million calls on {} connections",
            report.calls() / 1e6,
            report.connections.len()
        ),
        samples: Samples(vec![last - first]),
        digits: 1,
        captured: Some([verdict.captured, verdict.sent, verdict.equal, verdict.streams]),
        beside: format!("{first:.1} and {last:.1} MiB, {:.0} s", report.wall() / 1e6),
        ..Default::default()
    })
}
