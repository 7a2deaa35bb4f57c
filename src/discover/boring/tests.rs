//! On a program in BoringSSL's shape, with and without what tells its functions.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::bounded::Deadline;
use super::super::elf::{NamedBy, own_tables};
use super::super::maps::Whereabouts;
use super::super::reason::NotTls;
use super::*;

fn compile(folder: &Path, options: &[&str]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/programs/boring.c");
    let out = folder.join("program");
    let status = Command::new("cc")
        .args(["-O2", "-w", "-fPIE", "-pie", "-o"])
        .args([&out, &source])
        .args(options)
        .status();
    assert!(status.expect("a C compiler is needed").success());
    out
}

/// What is found in a program of these options, and where its symbols are, which the search does not see.
fn found(options: &[&str]) -> Result<(), NoEntries> {
    let folder = tempfile::tempdir().unwrap();
    let data = std::fs::read(compile(folder.path(), options)).unwrap();
    let image = Image::parse(&data[..], Deadline::start()).ok().unwrap();
    let entries = find(&image)?;
    let tables = own_tables(&image);
    let offset = |name: &str| {
        let mut all = tables.iter().flat_map(|table| table.functions());
        image.file_offset(all.find(|(n, _)| *n == name.as_bytes()).unwrap().1).unwrap()
    };
    for (function, place) in entries.offsets.places() {
        let name = if function == Function::Free { "end" } else { function.symbol() };
        assert_eq!(place.function, offset(name), "{name}");
    }
    assert_eq!(entries.offsets.places().count(), 6);
    assert_eq!(entries.bio, (offset("BIO_write"), offset("BIO_read")));
    Ok(())
}

#[test]
fn functions_are_found_where_they_are() {
    let no_unwind_table = ["-O2", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables"];
    for options in [
        &["-O1"][..],
        &["-O2"],
        &["-O2", "-fno-omit-frame-pointer"],
        &["-O3", "-fcf-protection"],
        &no_unwind_table,
    ] {
        assert_eq!(found(options), Ok(()), "{options:?}");
    }
}

#[test]
fn what_is_not_certain_is_not_taken() {
    assert_eq!(found(&["-DTWICE"]), Err(NoEntries::Ambiguous("SSL_write", 2)));
    assert_eq!(found(&["-DWITHOUT_RETRY"]), Err(NoEntries::Missing("tls_write_app_data")));
    assert_eq!(found(&["-DWITHOUT_READ"]), Err(NoEntries::Missing("SSL_read")));
}

#[test]
fn a_stripped_program_is_known_by_its_code() {
    let folder = tempfile::tempdir().unwrap();
    let at = Whereabouts { root: "/".into(), path: "/nowhere/x".into() };
    let program = compile(folder.path(), &["-s"]);
    let library = super::super::elf::classify(&File::open(&program).unwrap(), &at).unwrap();
    assert_eq!((library.named_by, library.make), (NamedBy::Code, Some("BoringSSL")));
    let program = compile(folder.path(), &["-s", "-DTWICE"]);
    let why = super::super::elf::classify(&File::open(&program).unwrap(), &at).unwrap_err();
    assert!(matches!(why, NotTls::Likely(_)));
    assert_eq!(
        why.to_string(),
        "contains BoringSSL: the names of its functions are stripped, and 2 functions in it could be SSL_write"
    );
}

#[test]
fn damaged_files_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let data = std::fs::read(compile(folder.path(), &["-s"])).unwrap();
    for step in [1, 7, 64] {
        for from in (0..data.len()).step_by(997 * step) {
            let mut damaged = data.clone();
            damaged.iter_mut().skip(from).step_by(step).take(64).for_each(|byte| *byte ^= 0x55);
            if let Ok(image) = Image::parse(&damaged[..], Deadline::start()) {
                let _ = find(&image);
            }
        }
    }
}

/// What is found in the program with more in it, in assembly.
fn found_with(more: &str) -> Result<(), NoEntries> {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("more.s");
    std::fs::write(&source, format!("{more}\n.section .note.GNU-stack,\"\",@progbits\n")).unwrap();
    found(&[source.to_str().unwrap()])
}

#[test]
fn what_is_searched_is_bounded() {
    // What is before the name may be anything but text.
    const NAME: &str = ".section .rodata\n.byte 0\nname: .asciz \"x/ssl/ssl_lib.cc\"\n.text\n";
    let functions = |count: u32, len: u32| {
        let function = format!(
            ".cfi_startproc\nlea name(%rip), %rcx\n.skip {}, 0x90\n.cfi_endproc",
            len.checked_sub(7).unwrap()
        );
        format!("{NAME}.rept {count}\n{function}\n.endr")
    };
    assert_eq!(found_with(&functions(1000, 64)), Ok(()));
    assert_eq!(found_with(&functions(1100, 1 << 14)), Err(NoEntries::TooMuch));
    assert_eq!(found_with(&functions(17_000, 16)), Err(NoEntries::TooMuch));
    let names = "name: .rept 5000\n.asciz \"ssl/ssl_lib.cc\"\n.endr";
    assert_eq!(found_with(&format!(".section .rodata\n{names}")), Err(NoEntries::TooMuch));
    let branches = ".rept 1500\nmov $1, %edx\njmp 1f\n.endr\n1:\n.rept 50\nlea name(%rip), %rcx\n.endr\n\
                    mov $16, %edi\ncall BIO_read@plt";
    let functions = format!(".rept 70\n.cfi_startproc\n{branches}\n.cfi_endproc\n.endr");
    assert_eq!(found_with(&format!("{NAME}{functions}")), Err(NoEntries::TooMuch));
}

#[test]
fn a_method_that_stands_everywhere_is_not_taken() {
    let tables =
        |count: u32| format!(".section .data.rel.ro,\"aw\"\n.rept {count}\n.quad write_app_data\n.endr");
    assert_eq!(found_with(&tables(10)), Ok(()));
    assert_eq!(found_with(&tables(1000)), Err(NoEntries::Ambiguous("its table of methods", 17)));
}

#[test]
fn addresses_at_the_end_of_all_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let mut data = std::fs::read(compile(folder.path(), &["-s"])).unwrap();
    let word = |data: &[u8], at: usize| u64::from_le_bytes(*data[at..].first_chunk().unwrap());
    let address = Image::parse(&data[..], Deadline::start()).ok().unwrap().section(b".rodata").unwrap().0;
    let sections = usize::try_from(word(&data, 40)).unwrap();
    let header = (sections..).step_by(64).find(|header| word(&data, header + 16) == address).unwrap();
    data[header + 16..header + 24].copy_from_slice(&(u64::MAX - 8).to_le_bytes());
    assert_eq!(find(&Image::parse(&data[..], Deadline::start()).ok().unwrap()), Err(NoEntries::Unreadable));
}
