//! The command: parses, runs, says what failed.

use std::process::ExitCode;

use tls2pcap::config::Config;
use tls2pcap::failure::{Exit, Failure};
use tls2pcap::{
    bundle, capture, cli, companion, doctor, extcap, limits, printable, privilege, read, replay, rewrite,
};

fn main() -> ExitCode {
    privilege::lower();
    limits::survive_file_size_limit();
    let args: Vec<_> = std::env::args_os().collect();
    let exit = match cli::parse(args.iter().cloned()) {
        Ok(config) => match run(config) {
            Ok(exit) => return exit.into(),
            Err(failure) => {
                printable::say(&format!("tls2pcap: {failure}\n"));
                failure.exit
            }
        },
        Err(stop) => stop.report(),
    };
    extcap::hang_up(&args);
    exit.into()
}

fn run(config: Config) -> Result<Exit, Failure> {
    match config {
        Config::Capture(config) => capture::run(&config),
        Config::Replay(config) => replay::run(&config),
        Config::Read(config) => read::run(&config),
        Config::Redact(config) => rewrite::run(&config),
        Config::Report(config) => bundle::run(&config),
        Config::Companion(task) => companion::run(task),
        Config::Doctor(config) => doctor::run(&config),
        Config::Explain(text) => {
            // Nobody is left to tell that standard output is closed.
            let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
            Ok(Exit::Success)
        }
        Config::Extcap(query) => extcap::answer(&query),
    }
}
