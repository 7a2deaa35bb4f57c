//! tls2pcap on real programs: what they truly sent against what stock tshark reads in the file.
//!
//! Needs root with BPF, tshark, nginx, curl, Python, openssl, and a C compiler with OpenSSL's headers
//! (tests/setup and tests/oracles bring them). What cannot be run is reported as SKIPPED with the
//! reason; these variables, set to 1, turn that into a failure: `T2P_REQUIRE_ROOT` (rights),
//! `T2P_REQUIRE_ORACLES` (releases of tshark and OpenSSL), `T2P_REQUIRE_BACKENDS` (all of them),
//! `T2P_REQUIRE_TOOLS` (the rest). `T2P_KEEP=1` keeps the folders of the tests. Every capture is limited
//! to a command or to processes of the test.

mod behind;
mod binding;
mod bundled;
mod calls;
mod cli;
mod closing;
mod coroutines;
mod crowded;
mod doctor;
mod errors;
mod extcap;
mod files;
mod follow;
mod formats;
mod gnutls;
mod go;
mod held;
mod http;
mod judge;
mod lives;
mod loss;
mod memory;
mod multipath;
mod nss;
mod open;
mod order;
mod protocols;
mod readme;
mod redacted;
mod remote;
mod rewritten;
mod rights;
mod rotation;
mod rustls;
mod selecting;
mod shared;
mod shares;
mod shown;
mod signals;
mod sites;
mod r#static;
mod support;
mod topology;
mod untouched;
mod unwinding;
