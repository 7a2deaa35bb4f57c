//! On code and tables as Rust's compiler makes them, written in assembly, with and without what tells them apart.

use std::process::Command;

use super::super::super::bounded::Deadline;
use super::super::super::elf::{classify_from, own_tables};
use super::super::super::maps::Whereabouts;
use super::*;

/// A place in the source file at this path, under a label.
fn place(label: &str, path: &str) -> String {
    let len = path.len();
    format!(
        ".section .rodata\npath_{label}: .ascii \"{path}\"\n\
         .section .data.rel.ro, \"aw\"\n{label}: .quad path_{label}, {len}\n.long 175, 89\n"
    )
}

fn function(label: &str, body: &str) -> String {
    format!(
        ".text\n.type {label}, @function\n{label}:\n.cfi_startproc\n{body}\nret\n.cfi_endproc\n\
         .size {label}, . - {label}\n"
    )
}

/// A table of methods for values of this size.
fn table(label: &str, size: u64, methods: &str) -> String {
    format!(".section .data.rel.ro, \"aw\"\n.p2align 3\n{label}: .quad 0, {size}, 16, {methods}\n")
}

/// What makes a key by `table`, and may panic at `place`.
fn maker(label: &str, place: &str, table: &str) -> String {
    function(label, &format!("push %rbx\nlea {place}(%rip), %rdi\nlea {table}(%rip), %rdx\npop %rbx"))
}

const PATH: &str = "/root/.cargo/registry/src/index.crates.io-6f17d22bba15001f/rustls-0.23.22";

/// A provider's TLS 1.3 and TLS 1.2, with AES-GCM.
fn provider(path: &str) -> String {
    [
        place("at_13", &format!("{path}/src/crypto/ring/tls13.rs")),
        place("at_12", &format!("{path}/src/crypto/ring/tls12.rs")),
        function("adds_17", "lea 17(%rsi), %rax"),
        function("adds_24", "push %rbp\nmov %rsp, %rbp\nmov %rsi, %rax\nadd $24, %rax\npop %rbp"),
        function("encrypt_13", "push %rbx\npop %rbx"),
        function("decrypt_13", "push %rbp\npop %rbp"),
        function("encrypt_12", "push %r12\npop %r12"),
        function("decrypt_12", "push %r13\npop %r13"),
        table("encrypter_13", 560, "encrypt_13, adds_17"),
        table("decrypter_13", 560, "decrypt_13"),
        table("encrypter_12", 560, "encrypt_12, adds_24"),
        table("decrypter_12", 544, "decrypt_12"),
        maker("encrypts_13", "at_13", "encrypter_13"),
        maker("decrypts_13", "at_13", "decrypter_13"),
        maker("encrypts_12", "at_12", "encrypter_12"),
        maker("decrypts_12", "at_12", "decrypter_12"),
        table("algorithm", 0, "encrypts_12, decrypts_12, adds_17"),
        table("algorithm_13", 8, "encrypts_13, decrypts_13, expands"),
        // Another trait's, in the same file.
        table("expander", 96, "encrypt_13, decrypt_13, encrypt_12"),
        maker("expands", "at_13", "expander"),
        // Of an error, for a panic.
        ".section .data.rel.ro, \"aw\"\nerror: .quad 0, 0, 1, adds_17\n".to_owned(),
    ]
    .concat()
}

/// A shared object of this assembly.
fn assembled(assembly: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (folder.path().join("x.s"), folder.path().join("x.so"));
    std::fs::write(&source, format!("{assembly}\n.section .note.GNU-stack,\"\",@progbits\n")).unwrap();
    let status = Command::new("cc").args(["-shared", "-nostdlib", "-o"]).args([&out, &source]).status();
    assert!(status.expect("a C compiler is needed").success());
    std::fs::read(out).unwrap()
}

/// What is found in a shared object of this assembly: functions, and the labels at which they are.
fn found(assembly: &str) -> Result<Vec<(RustlsFunction, String)>, NoEntries> {
    let data = assembled(assembly);
    let image = Image::parse(&data[..], Deadline::start()).ok().unwrap();
    let found = find(&image)?;
    let tables = own_tables(&image);
    let label = |entry: u64| {
        let mut all = tables.iter().flat_map(|table| table.functions());
        let (name, _) = all.find(|(_, at)| image.file_offset(*at) == Some(entry)).unwrap();
        String::from_utf8(name.to_vec()).unwrap()
    };
    Ok(found.rustls.places.into_iter().map(|place| (place.function, label(place.entry))).collect())
}

fn expected(owned: bool) -> Vec<(RustlsFunction, String)> {
    let of = |encrypts, protection, label: &str| {
        (RustlsFunction { encrypts, protection, owned }, label.to_owned())
    };
    vec![
        of(false, Protection::Tls13, "decrypt_13"),
        of(false, Protection::Tls12Gcm, "decrypt_12"),
        of(true, Protection::Tls13, "encrypt_13"),
        of(true, Protection::Tls12Gcm, "encrypt_12"),
    ]
}

#[test]
fn methods_are_found_where_they_are() {
    for path in [PATH, "registry/rustls-0.23.46", "external/crates__rustls-0.23.12", "rustls-0.23.0"] {
        assert_eq!(found(&provider(path)), Ok(expected(false)), "{path}");
    }
    assert_eq!(found(&provider("/x/rustls-0.22.4")), Ok(expected(true)));
}

#[test]
fn a_folder_without_version_needs_another_file_to_tell_it() {
    assert_eq!(found(&provider("vendor/rustls")), Err(NoEntries::Version));
    let newer = place("more", "vendor/rustls/src/msgs/message/inbound.rs");
    assert_eq!(found(&(provider("vendor/rustls") + &newer)), Ok(expected(false)));
    // Another crate's file.
    assert_eq!(found(&provider("vendor/myrustls")), Err(NoEntries::NoPlaces));
}

#[test]
fn what_is_not_certain_is_not_taken() {
    let good = provider(PATH);
    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        found(&good.replace(from, to))
    };
    for version in ["rustls-0.21.12", "rustls-0.24.0", "rustls-dev"] {
        let refused = found(&good.replace("rustls-0.23.22", version));
        assert!(matches!(refused, Err(NoEntries::Version | NoEntries::NoPlaces)), "{version}: {refused:?}");
    }
    // It adds what no protection adds; or does something else as well; or comes from the file of TLS 1.2.
    assert!(with("lea 17(%rsi)", "lea 18(%rsi)").is_err());
    assert!(with("lea 17(%rsi)", "incl (%rdi)\nlea 17(%rsi)").is_err());
    assert!(with("lea 17(%rsi)", "lea 24(%rsi)").is_err());
    // Nothing makes what decrypts, or its key has another size, or there are two.
    let lost = Err(NoEntries::Missing(DECRYPT));
    assert_eq!(with("lea decrypter_13(%rip)", "lea error(%rip)"), lost);
    assert_eq!(with("decrypter_13: .quad 0, 560", "decrypter_13: .quad 0, 576"), lost);
    assert_eq!(
        with(".quad 0, 0, 16, encrypts_12, decrypts_12", ".quad 0, 0, 16, decrypts_12, encrypts_12"),
        lost
    );
    let two = maker("also", "at_13", "second") + &table("second", 560, "encrypts_13");
    assert!(matches!(found(&(good.clone() + &two)), Err(NoEntries::Ambiguous(DECRYPT, _))));
    // A method in the middle of a function.
    assert!(with("16, decrypt_13\n", "16, decrypt_13 + 1\n").is_err());
    assert!(with("16, encrypt_12, adds_24", "16, encrypt_12 + 2, adds_24").is_err());
}

/// Functions are found by the code itself, and what is no instruction's beginning is none.
#[test]
fn without_an_unwind_table_methods_are_found_as_well() {
    let without = |assembly: &str| found(&assembly.replace(".cfi_startproc", "").replace(".cfi_endproc", ""));
    let good = provider(PATH);
    assert_eq!(without(&good), Ok(expected(false)));
    let middle = good.replace("16, encrypt_12, adds_24", "16, encrypt_12 + 1, adds_24");
    assert_eq!(without(&middle), Err(NoEntries::Missing(ENCRYPT)));
}

#[test]
fn damaged_files_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (folder.path().join("x.s"), folder.path().join("x.so"));
    std::fs::write(&source, provider(PATH)).unwrap();
    let status = Command::new("cc").args(["-shared", "-nostdlib", "-o"]).args([&out, &source]).status();
    assert!(status.unwrap().success());
    let data = std::fs::read(out).unwrap();
    for step in [1, 7, 64] {
        for from in (0..data.len()).step_by(97 * step) {
            let mut damaged = data.clone();
            damaged.iter_mut().skip(from).step_by(step).take(64).for_each(|byte| *byte ^= 0x55);
            if let Ok(image) = Image::parse(&damaged[..], Deadline::start()) {
                let _ = find(&image);
            }
        }
    }
}

#[test]
fn on_another_processor_only_what_names_rustls_is_taken_for_it() {
    let why = |assembly: &str| {
        let data = assembled(assembly);
        let mut image = Image::parse(&data[..], Deadline::start()).ok().unwrap();
        image.machine = elf::EM_AARCH64;
        find(&image).err()
    };
    assert_eq!(why(&provider(PATH)), Some(NoEntries::Machine));
    assert_eq!(why(".text\nret\n"), Some(NoEntries::NoPlaces));
    assert_eq!(why(".section .rodata\n.asciz \"a library without rustls\"\n"), Some(NoEntries::NoPlaces));
}

#[test]
fn what_is_found_waits_for_no_verdict() {
    let speaks = ".section .rodata\n.ascii \"c hs traffics hs traffic\"\n";
    let data = assembled(&(provider(PATH) + speaks));
    let at = Whereabouts { root: "/".into(), path: "/nowhere/x".into() };
    let library = classify_from(std::io::Cursor::new(&data), &at).unwrap();
    assert!(library.is_rustls_alone() && !library.has_to_prove_itself());
}
