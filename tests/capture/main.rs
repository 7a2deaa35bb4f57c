//! tls2pcap on real programs: what they truly sent against what stock tshark reads in the file.
//!
//! Needs root with BPF, nginx, curl, Python, openssl and a C compiler with OpenSSL's headers; a test
//! that cannot run says so (`T2P_REQUIRE_ROOT=1`, `T2P_REQUIRE_ORACLES=1` and `T2P_REQUIRE_TOOLS=1`
//! turn that into a failure). Every capture is limited to a command or to processes of the test.

mod calls;
mod cli;
mod errors;
mod files;
mod http;
mod judge;
mod lives;
mod open;
mod support;
mod topology;
