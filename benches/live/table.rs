//! Numbers to a table, and the table to a document.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::Res;

/// Several measurements of one thing.
#[derive(Clone, Debug, Default)]
pub struct Samples(pub Vec<f64>);

/// A line of the table.
#[derive(Clone, Debug, Default)]
pub struct Row {
    pub goal: &'static str,
    pub what: String,
    pub samples: Samples,
    /// Digits behind the point.
    pub digits: usize,
    /// Most that is asked for.
    pub most: Option<f64>,
    /// Bytes captured and sent; streams with the right hash, and all.
    pub captured: Option<[u64; 4]>,
    pub beside: String,
}

impl Samples {
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => sorted[n / 2],
            n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
        }
    }

    /// Median and range.
    pub fn show(&self, digits: usize) -> String {
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        match self.0.len() {
            0 => "–".into(),
            1 => format!("{:.digits$}", self.0[0]),
            _ => format!("{:.digits$} ({least:.digits$}–{most:.digits$})", self.median()),
        }
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Samples {
        Samples(values.into_iter().collect())
    }
}

impl Row {
    pub fn met(&self) -> Option<bool> {
        self.most.map(|most| self.samples.median() <= most)
    }
}

/// The goals, as Markdown.
pub fn goals(rows: &[Row]) -> String {
    let mut text = String::from(
        "| goal | what | measured | asked | met | captured ÷ sent | streams with the right hash | beside it |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let asked = row.most.map_or_else(String::new, asked);
        let met = row.met().map_or("", |met| if met { "yes" } else { "**no**" });
        let [ratio, hashes] =
            row.captured.map_or_else(Default::default, |[captured, sent, equal, streams]| {
                [percent(captured, sent), format!("{equal} of {streams}")]
            });
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {asked} | {met} | {ratio} | {hashes} | {} |",
            row.goal,
            row.what,
            row.samples.show(row.digits),
            row.beside
        );
    }
    text
}

fn asked(most: f64) -> String {
    if most > 0.0 { format!("≤ {most}") } else { "0".into() }
}

/// `100 %` only if it is all.
pub fn percent(part: u64, whole: u64) -> String {
    match (part, whole) {
        (_, 0) => "–".into(),
        (p, w) if p == w => "100 %".into(),
        (p, w) => {
            let value = p as f64 * 100.0 / w as f64;
            let digits = if value > 99.0 { 4 } else { 1 };
            format!("{value:.digits$} %")
        }
    }
}

/// A line on where and when this was measured.
pub fn machine(openssl: &str) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str, between: char| {
        let line = text.lines().find(|l| l.starts_with(name))?;
        Some(line.split_once(between)?.1.trim().trim_matches('"').to_owned())
    };
    let said = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output();
        output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
    };
    let processors = read("/proc/cpuinfo");
    let memory = field(&read("/proc/meminfo"), "MemTotal", ':').unwrap_or_default();
    let gib = memory.split(' ').next().and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1_048_576.0;
    let virt = if processors.contains(" hypervisor") { ", a virtual machine" } else { "" };
    format!(
        "{}: {} × {}{virt}, {gib:.0} GiB; Linux {}, {}; {openssl}; load average {} at the start; tls2pcap {} ({})",
        said("date", &["-u", "+%-d %B %Y, %H:%M UTC"]),
        processors.lines().filter(|l| l.starts_with("processor")).count(),
        field(&processors, "model name", ':').unwrap_or_default(),
        read("/proc/sys/kernel/osrelease").trim(),
        field(&read("/etc/os-release"), "PRETTY_NAME", '=').unwrap_or_default(),
        read("/proc/loadavg").split(' ').next().unwrap_or_default(),
        env!("CARGO_PKG_VERSION"),
        said("git", &["describe", "--always", "--dirty"]),
    )
}

/// Puts texts between `<!-- NAME begin -->` and `<!-- NAME end -->` of a document, where it has these.
pub fn insert(file: &Path, texts: &[(&str, String)]) -> Res<()> {
    let mut document = fs::read_to_string(file)?;
    let mut places = 0;
    for (name, text) in texts {
        let [begin, end] = ["begin", "end"].map(|w| format!("<!-- {name} {w} -->"));
        let around =
            document.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
        if let Some((before, after)) = around {
            document = format!("{before}{begin}\n\n{}\n\n{end}{after}", text.trim());
            places += 1;
        }
    }
    match places {
        0 => Err(format!("{}: no place for a table", file.display()).into()),
        _ => Ok(fs::write(file, document)?),
    }
}
