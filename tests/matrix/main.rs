//! tls2pcap inside other kernels: the same programs in virtual machines of 5.10, 6.1, 6.12 and the
//! newest kernel that Debian offers, with each back end that the kernel has. The captures come back,
//! and are judged here by stock tshark against what the programs really moved.
//!
//! Needs neither root nor KVM, but qemu-system-x86_64, busybox and cpio (tests/setup vm), the kernels
//! (tests/vm/kernels), and what the other tests need. Without them a test reports SKIPPED with the
//! reason; `T2P_REQUIRE_VMS=1` turns that into a failure. The guests are the only machines on which a
//! test captures every program.

#[path = "../capture/support/mod.rs"]
#[allow(dead_code, unused_imports, unused_macros)]
mod support;

mod environments;
mod guest;
mod judge;
mod letters;

use guest::Guest;

/// What can be done with a kernel beside what is done with all.
enum Part {
    /// It is made preemptible.
    Preemptible,
    /// It is locked down. The last part.
    LockedDown,
}

/// Boots a kernel, has every back end capture, and judges what comes back. `lacks` are the back ends
/// that this kernel does not have.
fn kernel(name: &str, backends: &[&str], lacks: &[&str], parts: &[Part]) {
    let Some(guest) = Guest::new(name) else { return };
    let mut words = vec!["/vm/kernel.sh".to_owned(), backends.join(" "), lacks.join(" ")];
    words.extend(parts.iter().map(|part| match part {
        Part::Preemptible => letters::part(),
        Part::LockedDown => "lockdown.sh".into(),
    }));
    let out = guest.run(&words);
    for backend in backends {
        judge::backend(&guest.test, &out.join(backend), backend, backend == &backends[0]);
        judge::bystanders(&out.join(backend), backend == &backends[0]);
    }
    environments::refused_or_with_few_rights(&out, lacks);
    for part in parts {
        match part {
            Part::Preemptible => letters::no_foreign_byte(&guest.test, &out),
            Part::LockedDown => environments::locked_down(&out),
        }
    }
}

#[test]
fn linux_newest() {
    let parts = [Part::Preemptible, Part::LockedDown];
    kernel("newest", &["fentry", "kprobe", "tracepoint"], &[], &parts);
}

#[test]
fn linux_6_12() {
    kernel("6.12", &["fentry", "kprobe", "tracepoint"], &[], &[Part::Preemptible]);
}

#[test]
fn linux_5_10() {
    kernel("5.10", &["fentry", "kprobe"], &["tracepoint"], &[Part::LockedDown]);
}

#[test]
fn linux_6_1() {
    kernel("6.1", &["fentry", "kprobe"], &["tracepoint"], &[]);
}
