//! Where Wireshark looks for what is a user's own.

use std::path::PathBuf;

use nix::unistd;

use super::absolute;
use crate::privilege::User;

/// Folders of one user. Releases 4.0 to 4.6 agree on all but the one for extcap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    home: PathBuf,
    config: PathBuf,
    data: PathBuf,
}

impl Places {
    /// Those of this user, or of the one who called sudo.
    pub(super) fn find(caller: Option<&User>) -> Option<Places> {
        let home = match caller {
            Some(user) => user.home.clone(),
            None => {
                absolute("HOME").or_else(|| Some(unistd::User::from_uid(unistd::geteuid()).ok()??.dir))?
            }
        };
        let config = absolute("WIRESHARK_CONFIG_DIR");
        Some(Places::of(home, config, absolute("XDG_CONFIG_HOME"), absolute("XDG_DATA_HOME")))
    }

    /// As Wireshark chooses: its own variable, else XDG's folder, but an old `~/.wireshark` if only
    /// that exists.
    pub(super) fn of(
        home: PathBuf,
        config: Option<PathBuf>,
        xdg_config: Option<PathBuf>,
        xdg_data: Option<PathBuf>,
    ) -> Places {
        let config = config.unwrap_or_else(|| {
            let new = xdg_config.unwrap_or_else(|| home.join(".config")).join("wireshark");
            let old = home.join(".wireshark");
            if !new.is_dir() && old.is_dir() { old } else { new }
        });
        let data = xdg_data.unwrap_or_else(|| home.join(".local/share")).join("tls2pcap");
        Places { home, config, data }
    }

    /// Lua plugins.
    pub(super) fn plugins(&self) -> PathBuf {
        self.home.join(".local/lib/wireshark/plugins")
    }

    /// Our profile.
    pub(super) fn profile(&self) -> PathBuf {
        self.config.join("profiles/tls2pcap")
    }

    /// Programs that are capture interfaces: of 4.0, and from 4.4 on.
    pub(super) fn extcap(&self) -> [PathBuf; 2] {
        [self.config.join("extcap"), self.home.join(".local/lib/wireshark/extcap")]
    }

    /// Help for the capture interface.
    pub(super) fn help(&self) -> PathBuf {
        self.data.join("help.html")
    }

    /// Our own record of what was installed.
    pub(super) fn record(&self) -> PathBuf {
        self.data.join("wireshark-installed")
    }
}
