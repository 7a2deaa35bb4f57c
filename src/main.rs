//! The command: parses, runs, says what failed.

use std::process::ExitCode;

use tls2pcap::config::Config;
use tls2pcap::{capture, cli, companion, doctor, replay, status};

fn main() -> ExitCode {
    let result = match cli::parse(std::env::args_os()) {
        Ok(Config::Capture(config)) => capture::run(&config),
        Ok(Config::Replay(config)) => replay::run(&config),
        Ok(Config::Companion(task)) => companion::run(task),
        Ok(Config::Doctor(config)) => doctor::run(&config),
        Err(stop) => return stop.report().into(),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            status::say(&format!("tls2pcap: {failure}\n"));
            failure.exit.into()
        }
    }
}
