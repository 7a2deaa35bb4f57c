//! What the options of a capture mean together.

use std::path::Path;

use super::arguments::Arguments;
use super::{output_of, targets, usage, verbosity};
use crate::config::{self, Capture, Follow};
use crate::failure::Failure;
use crate::sink;

/// `dashes`: the line has a `--`.
pub(super) fn capture(args: Arguments, dashes: bool) -> Result<Capture, Failure> {
    let selection = args.selection.checked(&args.expression)?;
    if dashes && args.command.is_empty() {
        return Err(usage(
            "no command follows --",
            "name a command, or leave -- out and use -p, -u or --all",
        ));
    }
    if args.output.is_none() && args.pcap_over_ip.is_none() && args.format.is_none() {
        let cure = "use -o FILE.pcapng, -o - for standard output, or -f text to show messages";
        return Err(usage("no output file is given", cure));
    }
    if args.format.is_none() && args.body.is_given() {
        return Err(usage("--body needs -f", "add -f text or -f json"));
    }
    if args.format.is_some() && args.output.as_deref() == Some(Path::new("-")) {
        return Err(usage(
            "-o - and -f both need standard output",
            "give -o a file, or leave one of them out",
        ));
    }
    let show = args.format.map(|format| args.body.checked(format)).transpose()?;
    for (option, path) in [("--record", &args.record), ("--ready-file", &args.ready_file)] {
        if path.as_deref() == Some(Path::new("-")) {
            return Err(usage(format!("{option} cannot be standard output"), "give it a file name"));
        }
        if path.is_some() && *path == args.output {
            return Err(usage(format!("{option} and -o name the same file"), "give them different names"));
        }
    }
    if let Some(path) = args.record.as_ref().filter(|path| sink::is_compressed(path)) {
        return Err(usage(
            format!("--record {}: recordings are not compressed", path.display()),
            "give it another name, such as FILE.t2p, and compress it later",
        ));
    }
    if args.record.is_some() && args.record == args.ready_file {
        return Err(usage("--record and --ready-file name the same file", "give them different names"));
    }
    let redact: Option<config::Redaction> = args.redact.into();
    if redact.is_some() && args.record.is_some() {
        return Err(usage(
            "--record keeps everything that was captured, including secrets, so it cannot be used with --redact",
            "leave one of them out; a recording can be redacted later: tls2pcap replay --redact",
        ));
    }
    if redact.is_some() && args.show_args {
        return Err(usage("--show-args shows what --redact removes", "leave one of them out"));
    }
    let follow = match (args.follow, args.no_follow) {
        (true, _) => Follow::Tree,
        (_, true) => Follow::Nobody,
        _ => Follow::New,
    };
    let output = args.output.map(output_of).transpose()?;
    let (files, duration) = args.files.checked(output.as_ref(), args.duration)?;
    Ok(Capture {
        selection: selection.clone(),
        targets: targets::targets(args.pids, follow, &args.users, args.all, args.command, &selection)?,
        output,
        show,
        files,
        duration,
        serve: args.pcap_over_ip,
        comments: args.comments,
        for_wireshark: false,
        libraries: args.libraries,
        backend: args.backend,
        return_probes: args.return_probes,
        ports: args.ports,
        framing: args.framing,
        link: args.link,
        process_blocks: args.process_blocks,
        redact,
        is_interim: false,
        record: args.record,
        ready_file: args.ready_file,
        ready_fd: args.ready_fd,
        show_args: args.show_args,
        ring_size: args.ring_size,
        snaplen: Some(args.snaplen).filter(|n| *n > 0),
        fail_on_loss: args.fail_on_loss,
        packet_buffered: args.packet_buffered,
        verbosity: verbosity(args.quiet, args.verbose),
    })
}
