//! Options about how messages are shown.

use clap::Args;

use super::{usage, values};
use crate::config::{Show, View};
use crate::failure::Failure;

/// Default number of bytes of a body that are shown.
const BODY: usize = 1024;
/// Most that can be: they are kept in memory until the message is complete.
const BODY_MAX: u32 = 1 << 20;

/// See the module.
#[derive(Args)]
pub(super) struct ShowOptions {
    /// With text and json: show at most this many bytes (1K: KiB) of each body, unpacked; 0 shows none
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true, value_parser = values::snaplen)]
    body: Option<u32>,
}

impl ShowOptions {
    /// How it is shown.
    pub(super) fn checked(self, format: View) -> Result<Show, Failure> {
        if self.body.is_some_and(|body| body > BODY_MAX) {
            return Err(usage("--body shows at most 1M of each body", "export larger ones with Wireshark"));
        }
        Ok(Show { format, body: self.body.map_or(BODY, |body| body as usize) })
    }

    pub(super) fn is_given(&self) -> bool {
        self.body.is_some()
    }
}
