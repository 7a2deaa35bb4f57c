use std::fs;

use super::*;

struct Folder(tempfile::TempDir, Places);

fn folder() -> Folder {
    let folder = tempfile::tempdir().unwrap();
    let places = Places::of(folder.path().into(), None, None, None);
    Folder(folder, places)
}

impl Folder {
    fn run(&self, task: Companion, items: &[Item]) -> Vec<String> {
        let (said, failed) = perform(task, items, &self.1);
        assert!(failed.is_none(), "{failed:?}");
        said.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    }
}

const INSTALL: Companion = Companion::Install { force: false };
const UNINSTALL: Companion = Companion::Uninstall { force: false };

#[test]
fn folders_are_those_that_wireshark_takes() {
    let Folder(folder, places) = folder();
    let home = folder.path();
    let config = |config: Option<&str>, xdg: Option<&str>| {
        Places::of(home.into(), config.map(Into::into), xdg.map(Into::into), None).profile()
    };
    assert_eq!(places.profile(), home.join(".config/wireshark/profiles/tls2pcap"));
    assert_eq!(config(None, Some("/xdg")), Path::new("/xdg/wireshark/profiles/tls2pcap"));
    assert_eq!(config(Some("/own"), Some("/xdg")), Path::new("/own/profiles/tls2pcap"));
    fs::create_dir(home.join(".wireshark")).unwrap();
    assert_eq!(config(None, None), home.join(".wireshark/profiles/tls2pcap"));
    fs::create_dir_all(home.join(".config/wireshark")).unwrap();
    assert_eq!(config(None, None), home.join(".config/wireshark/profiles/tls2pcap"));
}

#[test]
fn an_older_version_is_replaced_and_a_changed_file_is_not() {
    let folder = folder();
    let path = folder.0.path().join("a/b");
    let version = |contents| [Item::file(path.clone(), contents)];
    assert_eq!(folder.run(INSTALL, &version("one")), ["installed"]);
    assert_eq!(folder.run(Companion::Status, &version("two")), ["older"]);
    assert_eq!(folder.run(INSTALL, &version("two")), ["updated"]);
    assert_eq!(folder.run(INSTALL, &version("two")), ["up"]);
    fs::write(&path, "mine").unwrap();
    for task in [INSTALL, UNINSTALL, Companion::Status] {
        assert_eq!(folder.run(task, &version("three")).len(), 2);
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
    assert_eq!(folder.run(Companion::Install { force: true }, &version("three")), ["updated"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "three");
    assert_eq!(folder.run(UNINSTALL, &version("four")), ["removed"]);
    assert_eq!(folder.run(UNINSTALL, &version("four")), ["absent"]);
    assert!(!folder.1.record().exists());
}

#[test]
fn what_is_no_plain_file_is_the_users() {
    let folder = folder();
    let path = folder.0.path().join("link");
    std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
    let items = [Item::file(path.clone(), "x")];
    assert_eq!(folder.run(INSTALL, &items)[0], "kept");
    assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    // What fails keeps no other from being installed.
    let other = folder.0.path().join("other");
    let items = [&items[..], &[Item::file(other.clone(), "y")]].concat();
    let (said, failed) = perform(Companion::Install { force: true }, &items, &folder.1);
    assert!(failed.is_some() && said.starts_with("failed "), "{said}");
    assert_eq!(fs::read_to_string(other).unwrap(), "y");
    let there = fs::read_dir(folder.0.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(
        !there.into_iter().any(|name| name.to_string_lossy().ends_with(".new")),
        "nothing is left lying about"
    );
}

#[test]
fn a_link_that_the_user_made_stays() {
    let folder = folder();
    let items = extcap_items(&folder.1, Path::new("/usr/bin/tls2pcap"));
    let path = items[0].path();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/opt/own/tls2pcap", path).unwrap();
    assert_eq!(folder.run(INSTALL, &items)[..2], ["kept", "installed"]);
    assert_eq!(fs::read_link(path).unwrap(), Path::new("/opt/own/tls2pcap"));
    assert_eq!(folder.run(UNINSTALL, &items)[..2], ["kept", "removed"]);
}

#[test]
fn links_to_the_program_follow_it() {
    let folder = folder();
    let links = |program: &str| extcap_items(&folder.1, Path::new(program));
    assert_eq!(folder.run(INSTALL, &links("/usr/bin/tls2pcap")), ["installed"; 2]);
    assert_eq!(folder.run(INSTALL, &links("/opt/tls2pcap")), ["updated"; 2]);
    for item in links("/opt/tls2pcap") {
        assert_eq!(fs::read_link(item.path()).unwrap(), Path::new("/opt/tls2pcap"));
    }
    let first = links("/opt/tls2pcap")[0].path().to_owned();
    fs::remove_file(&first).unwrap();
    fs::write(&first, "a script of the user's").unwrap();
    assert_eq!(folder.run(UNINSTALL, &links("/opt/tls2pcap"))[..2], ["kept", "removed"]);
}

#[test]
fn releases_are_read() {
    assert_eq!(
        release("TShark (Wireshark) 4.0.17 (Git v4.0.17 packaged as 4.0.17-0+deb12u1)."),
        Some((4, 0))
    );
    assert_eq!(release("Wireshark 4.6.9."), Some((4, 6)));
    assert_eq!(release("no such thing"), None);
}

/// Wireshark's own header, order, defaults and additions are no changes of the user's.
#[test]
fn a_profile_that_wireshark_wrote_anew_is_still_ours() {
    let folder = folder();
    let profile = folder.1.profile();
    let preferences =
        "# Ours\n\ncolumns: \n\t\"No.\", \"%m\",\n\t\"Info\", \"%i\"\n\nnames: TRUE\nasked: FALSE\n";
    let anew = "# Configuration file for Wireshark 4.0.17.\n#other: 1\nasked: FALSE\ngui.column.hidden: \ncolumns: \n\t\"No.\", \"%m\",\n\t\"Info\", \"%i\"\ngui.qt.font_name: Mono,9\nnames: TRUE\n";
    let colours = "# Ours\n@Lost@b@[1,2,3][4,5,6]\n@All@a@[1,2,3][4,5,6]\n";
    let items = [
        Item::settings(profile.join("preferences"), preferences),
        Item::settings(profile.join("colorfilters"), colours),
    ];
    let words = |task| folder.run(task, &items);
    assert_eq!(words(INSTALL), ["installed", "installed"]);
    // A change of the user's may be a comment only.
    fs::write(profile.join("colorfilters"), "# mine\n").unwrap();
    assert_eq!(words(UNINSTALL)[1], "kept");
    assert!(profile.join("colorfilters").exists());
    assert_eq!(words(Companion::Install { force: true }), ["installed", "updated"]);
    fs::write(profile.join("preferences"), anew).unwrap();
    fs::write(
        profile.join("colorfilters"),
        colours.replace("# Ours", "# This file was created by Wireshark."),
    )
    .unwrap();
    assert_eq!(words(Companion::Status), ["installed", "installed"]);
    // A later version replaces both.
    let later = [Item::settings(profile.join("preferences"), "names: FALSE\n"), items[1].clone()];
    assert_eq!(folder.run(INSTALL, &later), ["updated", "up"]);
    assert_eq!(words(INSTALL), ["updated", "up"]);

    // What a user changes is not.
    fs::write(profile.join("preferences"), anew.replace("asked: FALSE", "asked: TRUE")).unwrap();
    let rules: Vec<&str> = colours.lines().skip(1).collect();
    fs::write(profile.join("colorfilters"), format!("{}\n{}\n", rules[1], rules[0])).unwrap();
    assert_eq!(words(Companion::Status)[..2], ["changed", "changed"]);
    assert_eq!(words(UNINSTALL)[..2], ["kept", "kept"]);
    assert_eq!(words(Companion::Install { force: true }), ["updated", "updated"]);

    // What Wireshark puts beside it does not keep the profile; what else is there does.
    for (name, contents) in
        [("recent", "gui.zoom_level: 0\n"), ("decode_as_entries", "# none\n"), ("dfilters", "mine\n")]
    {
        fs::write(profile.join(name), contents).unwrap();
    }
    assert_eq!(words(UNINSTALL), ["removed", "removed", "kept"]);
    assert!(profile.join("recent").exists());
    fs::remove_file(profile.join("dfilters")).unwrap();
    assert_eq!(words(UNINSTALL), ["absent", "absent"]);
    assert!(!profile.exists());
}
