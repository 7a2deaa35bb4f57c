//! Options about files and the end of a capture, as people know them from tcpdump and dumpcap.

use std::time::Duration;

use clap::Args;

use super::usage;
use crate::config::Output;
use crate::failure::Failure;
use crate::sink::{DiskFull, Names, Plan};

/// dumpcap counts in these.
const KILOBYTE: u64 = 1000;

/// See the module.
#[derive(Args)]
#[command(next_help_heading = "Files")]
pub(super) struct FileOptions {
    /// End after this many packets
    #[arg(short = 'c', long = "count", value_name = "PACKETS", allow_negative_numbers = true, value_parser = at_least_one)]
    count: Option<u64>,

    /// End before all files together exceed this many bytes (1K, 1M, 1G: powers of 1024)
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true, value_parser = bytes)]
    max_bytes: Option<u64>,

    /// Start a new file before this one exceeds this many million bytes (or 1k, 1m, 1g: powers of 1024)
    ///
    /// As in tcpdump, files are numbered, but the number goes before the extension, which determines the
    /// format: a.pcapng, a1.pcapng, a2.pcapng. Each file can be opened alone: a connection that continues in
    /// another file begins there with a synthetic handshake before its true sequence numbers, and with what
    /// its protocol needs to be decoded. Every captured byte is in exactly one file.
    #[arg(short = 'C', value_name = "SIZE", allow_negative_numbers = true, value_parser = million_bytes)]
    file_size: Option<u64>,

    /// Start a new file after this many seconds of traffic
    ///
    /// Conversions of strftime in the name (%Y %m %d %H %M %S) become the local time of the file's first packet.
    /// Without any, files are numbered as with -C.
    #[arg(short = 'G', value_name = "SECONDS", allow_negative_numbers = true, value_parser = at_least_one)]
    file_seconds: Option<u64>,

    /// With -C: keep this many files and overwrite the oldest. With -G: end after this many files
    #[arg(short = 'W', value_name = "FILES", allow_negative_numbers = true, value_parser = at_least_one)]
    file_count: Option<u64>,

    /// Run this program with the name of each completed file, including the last
    ///
    /// One at a time, during the capture, with the lowest priority; under sudo as you.
    #[arg(short = 'z', value_name = "PROGRAM")]
    then: Option<String>,

    /// Start a new file as dumpcap does; may be repeated
    ///
    /// filesize:KB (1000 bytes), duration:SECONDS, interval:SECONDS (multiples since 1970), packets:N; and files:N
    /// to keep this many, nametimenum:2 to put the time before the number. Files are named
    /// a_00001_20261130093000.pcapng.
    #[arg(short = 'b', value_name = "WHEN:VALUE")]
    ring: Vec<String>,

    /// End as dumpcap does: duration:SECONDS, filesize:KB, packets:N or files:N; may be repeated
    #[arg(short = 'a', value_name = "WHEN:VALUE")]
    autostop: Vec<String>,

    /// What to do when the disk is full
    #[arg(long, value_enum, value_name = "WHAT", default_value = "end")]
    disk_full: DiskFull,
}

impl FileOptions {
    /// Into how many files, and the time after which the capture ends. `duration` is that of `--duration`.
    pub(super) fn checked(
        self,
        output: Option<&Output>,
        mut duration: Option<Duration>,
    ) -> Result<(Plan, Option<Duration>), Failure> {
        let mut files = Plan {
            bytes: self.file_size,
            seconds: self.file_seconds,
            packets_max: self.count,
            bytes_max: self.max_bytes,
            then: self.then,
            disk_full: self.disk_full,
            ..Plan::default()
        };
        let is_tcpdump = files.rotates() || self.file_count.is_some();
        if is_tcpdump && !self.ring.is_empty() {
            return Err(usage(
                "-b and -C, -G or -W cannot be given together",
                "use the ones of dumpcap (-b) or those of tcpdump (-C, -G, -W)",
            ));
        }
        match (self.file_count, files.bytes, files.seconds) {
            (None, ..) => {}
            (Some(_), Some(_), Some(_)) => {
                return Err(usage(
                    "-W means one thing with -C and another with -G",
                    "use -b: -b filesize:KB -b duration:SECONDS -b files:N",
                ));
            }
            (Some(n), Some(_), None) => files.keep = Some(n),
            (Some(n), None, Some(_)) => files.files_max = Some(n),
            (Some(_), None, None) => {
                return Err(usage("-W says how many files, but not when one ends", "give -C or -G with it"));
            }
        }
        for text in &self.ring {
            ring(text, &mut files)?;
        }
        if !self.ring.is_empty() && !files.rotates() {
            return Err(usage(
                "-b does not say when a file ends",
                "give -b filesize:KB, -b duration:SECONDS, -b interval:SECONDS or -b packets:N",
            ));
        }
        for text in &self.autostop {
            let (when, value) = pair("-a", text)?;
            match when {
                "duration" => duration = Some(self::duration(value).map_err(|why| bad("-a", text, &why))?),
                // As in dumpcap.
                "filesize" if !self.ring.is_empty() => {
                    files.bytes = Some(number("-a", text, value)?.saturating_mul(KILOBYTE));
                }
                "filesize" => files.bytes_max = Some(number("-a", text, value)?.saturating_mul(KILOBYTE)),
                "packets" => files.packets_max = Some(number("-a", text, value)?),
                "files" => files.files_max = Some(number("-a", text, value)?),
                _ => return Err(bad("-a", text, "it is duration, filesize, packets or files")),
            }
        }
        if files.files_max.is_some() && !files.rotates() {
            return Err(usage("-a files: is for several files", "give -b, -C or -G with it"));
        }
        if files.rotates() && !matches!(output, Some(Output::File(_))) {
            return Err(usage("several files need a name", "use -o FILE.pcapng"));
        }
        if files.then.is_some() && !matches!(output, Some(Output::File(_))) {
            return Err(usage("-z is run with the name of a file", "use -o FILE.pcapng"));
        }
        if files.disk_full == DiskFull::DropOldest && !files.rotates() {
            return Err(usage(
                "--disk-full drop-oldest is for several files",
                "give -C, -G or -b with it, or leave it out",
            ));
        }
        if output.is_none() && files != Plan::default() {
            return Err(usage(
                "-c, --max-bytes and -a count what is written to a file or pipe",
                "also use -o, or use --duration",
            ));
        }
        Ok((files, duration))
    }
}

fn ring(text: &str, files: &mut Plan) -> Result<(), Failure> {
    if files.names == Names::Tcpdump {
        files.names = Names::NumberTime;
    }
    let (when, value) = pair("-b", text)?;
    let n = number("-b", text, value)?;
    match when {
        "filesize" => files.bytes = Some(n.saturating_mul(KILOBYTE)),
        "duration" => files.seconds = Some(n),
        "interval" => files.interval = Some(n),
        "packets" => files.packets = Some(n),
        "files" => files.keep = Some(n),
        "nametimenum" => files.names = if n == 1 { Names::NumberTime } else { Names::TimeNumber },
        _ => {
            return Err(bad("-b", text, "it is filesize, duration, interval, packets, files or nametimenum"));
        }
    }
    Ok(())
}

fn pair<'a>(option: &str, text: &'a str) -> Result<(&'a str, &'a str), Failure> {
    text.split_once(':').ok_or_else(|| bad(option, text, "a word, a colon and a number, such as duration:60"))
}

fn number(option: &str, text: &str, value: &str) -> Result<u64, Failure> {
    at_least_one(value).map_err(|why| bad(option, text, &why))
}

fn bad(option: &str, text: &str, why: &str) -> Failure {
    usage(format!("{option} {text}: {why}"), "see tls2pcap --help")
}

fn at_least_one(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "not a whole number above 0".into())
}

/// A number with a unit; `one` is that of a number without one.
fn sized(text: &str, one: u64) -> Result<u64, String> {
    let units = [('k', 1 << 10), ('m', 1 << 20), ('g', 1 << 30)];
    let unit = units.into_iter().find(|(letter, _)| text.to_ascii_lowercase().ends_with(*letter));
    let (digits, unit) = unit.map_or((text, one), |(_, unit)| (&text[..text.len() - 1], unit));
    at_least_one(digits)?.checked_mul(unit).ok_or_else(|| "larger than any disk".into())
}

fn bytes(text: &str) -> Result<u64, String> {
    sized(text, 1)
}

fn million_bytes(text: &str) -> Result<u64, String> {
    sized(text, 1_000_000)
}

/// Seconds, or with another unit.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let unit = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)];
    let unit = unit.into_iter().find_map(|(name, seconds)| Some((text.strip_suffix(name)?, seconds)));
    let (number, unit) = unit.unwrap_or((text, 1.0));
    let seconds = number.parse::<f64>().ok().filter(|n| *n > 0.0).map(|n| n * unit);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "not a time above 0, such as 90, 1.5s, 10m or 2h".into())
}
