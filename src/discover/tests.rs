//! On real files: libraries compiled here, this machine's TLS libraries, and damaged copies.

use std::io::{Seek, Write};
use std::process::Command;

use super::elf::{NamedBy, TlsLibrary};
use super::flow::Unproven;
use super::function::{Family, Function};
use super::internal::{Behind, NoInternal};
use super::rustls::NotRustls;
use super::*;

mod hostile;

/// A file that stands alone.
fn classify(file: &File) -> Result<TlsLibrary, NotTls> {
    elf::classify(file, &alone())
}

/// By the tables in these bytes alone.
fn classify_data(bytes: &[u8]) -> Result<TlsLibrary, NotTls> {
    let image = image::Image::parse(bytes, bounded::Deadline::start())?;
    elf::of_tables(&image, &elf::own_tables(&image), true)
}

fn alone() -> Whereabouts {
    Whereabouts { root: PathBuf::from("/"), path: PathBuf::from("/nowhere/x") }
}

/// Compiles C to a file in `folder`.
fn compile(folder: &Path, name: &str, source: &str, options: &[&str]) -> PathBuf {
    let (c, out) = (folder.join(format!("{name}.c")), folder.join(name));
    std::fs::write(&c, source).unwrap();
    let status = Command::new("cc").args(["-O2", "-w", "-o"]).arg(&out).arg(&c).args(options).status();
    assert!(status.expect("a C compiler is needed").success(), "cc of {name}");
    out
}

/// A library in OpenSSL's shape. Each internal function is as far from being inlined as there.
fn library(extra_call: &str) -> String {
    format!(
        r#"
        #define HIDDEN __attribute__((visibility("hidden"), noinline, noipa))
        HIDDEN int inner_read(void *s, void *b, unsigned long n, unsigned long *r) {{ *r = n; return s == b; }}
        HIDDEN int inner_write(void *s, void *b, unsigned long n, unsigned long *r) {{ *r = n + 1; return s == b; }}
        HIDDEN void other(void) {{ __asm__ volatile(""); }}
        void ERR_new(void) {{ __asm__ volatile(""); }}
        int SSL_read(void *s, void *b, int n) {{
            unsigned long r; if (n < 0) {{ ERR_new(); return -1; }} {extra_call}
            return inner_read(s, b, n, &r) > 0 ? (int)r : 0; }}
        int SSL_read_ex(void *s, void *b, unsigned long n, unsigned long *r) {{ {extra_call}
            int x = inner_read(s, b, n, r); return x < 0 ? 0 : x; }}
        int SSL_write(void *s, void *b, int n) {{
            unsigned long r; if (n < 0) {{ ERR_new(); return -1; }}
            return inner_write(s, b, n, &r) > 0 ? (int)r : 0; }}
        int SSL_write_ex(void *s, void *b, unsigned long n, unsigned long *r) {{ return inner_write(s, b, n, r); }}
        const char version[] = "OpenSSL 9.8.7z 1 Jan 2026";
        "#
    )
}

const SHARED: [&str; 2] = ["-shared", "-fPIC"];

/// Leaves only the dynamic symbols, as distributions do.
fn strip(file: &Path) {
    assert!(Command::new("strip").arg(file).status().expect("strip is needed").success());
}

/// Address of a symbol, as binutils tell it.
fn address_by_nm(file: &Path, symbol: &str) -> u64 {
    let nm = Command::new("nm").arg(file).output().expect("nm is needed");
    let text = String::from_utf8(nm.stdout).unwrap();
    let line = text.lines().find(|l| l.ends_with(&format!(" {symbol}"))).expect(symbol);
    u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap()
}

/// File offset of a symbol, as binutils tell it.
fn offset_by_nm(file: &Path, symbol: &str) -> u64 {
    let address = address_by_nm(file, symbol);
    let out = Command::new("readelf").args(["-lW"]).arg(file).output().expect("readelf is needed");
    let hex = |s: &str| u64::from_str_radix(s.trim_start_matches("0x"), 16).unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines()
        .filter(|l| l.trim_start().starts_with("LOAD"))
        .find_map(|l| {
            let f: Vec<&str> = l.split_whitespace().collect();
            let (offset, vaddr, size) = (hex(f[1]), hex(f[2]), hex(f[4]));
            (vaddr..vaddr + size).contains(&address).then(|| address - vaddr + offset)
        })
        .expect("a segment")
}

#[test]
fn exports_and_internal_functions_of_a_shared_library() {
    let folder = tempfile::tempdir().unwrap();
    let file = compile(folder.path(), "lib.so", &library(""), &SHARED);
    let symbols = ["SSL_read", "SSL_read_ex", "SSL_write", "SSL_write_ex", "inner_read", "inner_write"];
    let expected = symbols.map(|symbol| offset_by_nm(&file, symbol));
    strip(&file);
    let found = Discovery::default().at(&file).unwrap();
    let offsets = &found.library.offsets;
    let exports = [Function::Read, Function::ReadEx, Function::Write, Function::WriteEx];
    assert_eq!(exports.map(|f| offsets.get(f).unwrap()), expected[..4]);
    assert_eq!(offsets.places().count(), 4);
    assert_eq!(found.version, "OpenSSL 9.8.7z");
    if cfg!(target_arch = "x86_64") {
        let internal = &found.library.internal;
        let at = |behind: &Result<Behind, NoInternal>| behind.as_ref().unwrap().place.function;
        assert_eq!((at(&internal.read), at(&internal.write)), (expected[4], expected[5]));
    } else {
        assert_eq!(found.library.internal.read, Err(NoInternal::Machine));
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn an_internal_function_that_is_not_proven_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let internal = |name: &str, source: &str, options: &[&str]| {
        let options = [&SHARED, options].concat();
        let file = compile(folder.path(), name, source, &options);
        strip(&file);
        classify(&File::open(file).unwrap()).unwrap().internal
    };
    let two = internal("two.so", &library("other();"), &[]);
    assert_eq!(two.read, Err(NoInternal::Ambiguous(2)));
    assert!(two.write.is_ok());
    // What reading and writing both call is a helper, but who knows what it does.
    let helped = library("other();").replace("return inner_write(", "other(); return inner_write(");
    let refused = NoInternal::Unproven(Function::Read, Unproven::OtherCall);
    assert_eq!(internal("helped.so", &helped, &[]).read, Err(refused));
    // A common callee that has a name is no rival, whether called directly or through the PLT.
    assert!(internal("named.so", &library("ERR_new();"), &["-Wl,-Bsymbolic"]).read.is_ok());
    assert!(internal("plt.so", &library("ERR_new();"), &[]).read.is_ok());
    let no_unwind = ["-fno-asynchronous-unwind-tables", "-fno-unwind-tables"];
    assert_eq!(internal("bare.so", &library(""), &no_unwind).read, Err(NoInternal::Unreadable));
    let old = library("").replace("SSL_read_ex", "other_name");
    assert_eq!(internal("old.so", &old, &[]).read, Err(NoInternal::NoExport));
    let inlined = library("").replace("noinline, noipa", "always_inline");
    assert_eq!(internal("inlined.so", &inlined, &[]).read, Err(NoInternal::NoneCommon));
}

/// Exports that mostly do what the internal function does, and sometimes more or less.
#[test]
#[cfg(target_arch = "x86_64")]
fn an_export_that_is_more_than_a_wrapper_is_seen_through() {
    use Unproven::{Arguments, Condition, OtherCall, Result as Returns, Writes};
    let folder = tempfile::tempdir().unwrap();
    let read = "return inner_read(s, b, n, &r) > 0 ? (int)r : 0; }";
    let read_ex = "int x = inner_read(s, b, n, r); return x < 0 ? 0 : x; }";
    let source = library("");
    assert!(source.contains(read) && source.contains(read_ex));
    let x = "int x = inner_read(s, b, n, &r); ";
    let cases = [
        // Another buffer, another handle, another place for the count.
        (read, "return inner_read(s, (char *)b + 1, n, &r) > 0 ? (int)r : 0; }", Arguments),
        (read, "return inner_read(*(void **)s, b, n, &r) > 0 ? (int)r : 0; }", Arguments),
        (read, "static unsigned long q; return inner_read(s, b, n, &q) > 0 ? (int)q : 0; }", Arguments),
        (
            read_ex,
            "unsigned long q; int x = inner_read(s, b, n, &q); *r = q - 1; return x < 0 ? 0 : x; }",
            Arguments,
        ),
        // Some calls do not get there.
        (read, "if (n < 10) return n; return inner_read(s, b, n, &r) > 0 ? (int)r : 0; }", Returns),
        (read, "return inner_read(s, b, n, &r) > 0 ? (int)r + 1 : 0; }", Returns),
        (
            read,
            "static volatile unsigned long q; return inner_read(s, b, n, &r) > 0 ? (int)q : 0; }",
            Returns,
        ),
        // What comes back is changed, or kept back from time to time.
        (read, &format!("{x}if (x <= 0) return x; *(volatile char *)b = 1; return r; }}"), Writes),
        (
            read,
            &format!(
                "{x}if (x <= 0) return x; if (r > 100) {{ __asm__ volatile(\"\"); return 0; }} return r; }}"
            ),
            Condition,
        ),
        (read, &format!("{x}if (x <= 0) return x; ERR_new(); return r; }}"), OtherCall),
        (read, &format!("{x}x += inner_read(s, b, n, &r); return x > 0 ? (int)r : 0; }}"), OtherCall),
    ];
    for (index, (from, to, why)) in cases.into_iter().enumerate() {
        let function = if from == read { Function::Read } else { Function::ReadEx };
        let file = compile(folder.path(), &format!("{index}.so"), &source.replace(from, to), &SHARED);
        strip(&file);
        let internal = classify(&File::open(file).unwrap()).unwrap().internal;
        assert_eq!(internal.read, Err(NoInternal::Unproven(function, why)), "{to}");
        assert!(internal.write.is_ok(), "{to}");
    }
    // The same in other words is still a wrapper.
    for option in ["-O1", "-O3", "-Os", "-fstack-protector-all", "-fcf-protection", "-fno-plt"] {
        let options = [&SHARED[..], &[option]].concat();
        let file = compile(folder.path(), &format!("lib{option}.so"), &source, &options);
        strip(&file);
        let internal = classify(&File::open(file).unwrap()).unwrap().internal;
        assert!(internal.read.is_ok() && internal.write.is_ok(), "{option}: {internal:?}");
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn from_3_3_on_the_ex_function_is_reached_through_another() {
    let folder = tempfile::tempdir().unwrap();
    let source = library("")
        .replace(
            "inner_write(void *s, void *b, unsigned long n, ",
            "inner_write(void *s, void *b, unsigned long n, long f, ",
        )
        .replace("inner_write(s, b, n, &r)", "inner_write(s, b, n, 0, &r)")
        .replace("inner_write(s, b, n, r)", "inner_write(s, b, n, f, r)")
        .replace(
            "SSL_write_ex(void *s, void *b, unsigned long n, ",
            "SSL_write_ex2(void *s, void *b, unsigned long n, long f, ",
        )
        + "int SSL_write_ex(void *s, void *b, unsigned long n, unsigned long *r) { return SSL_write_ex2(s, b, n, 0, r); }";
    let file = compile(folder.path(), "lib.so", &source, &SHARED);
    let expected = offset_by_nm(&file, "inner_write");
    strip(&file);
    let library = classify(&File::open(&file).unwrap()).unwrap();
    let write = library.internal.write.as_ref().unwrap();
    assert_eq!(write.place.function, expected);
    assert_eq!(write.exports, [Function::Write, Function::WriteEx2, Function::WriteEx]);
    assert!(library.offsets.get(Function::WriteEx2).is_some());
}

#[test]
fn a_static_program_is_found_by_its_other_symbol_table_until_it_is_stripped() {
    let folder = tempfile::tempdir().unwrap();
    let source = library("ERR_new();").replace("inner_", "ssl_").replace("ssl_read(", "ssl_read_internal(")
        + "int main(void) { return SSL_read(0, 0, 1) + SSL_write(0, 0, 1); }";
    let file = compile(folder.path(), "program", &source, &[]);
    let found = Discovery::default().at(&file).unwrap();
    assert_eq!(found.library.offsets.get(Function::Read), Some(offset_by_nm(&file, "SSL_read")));
    if cfg!(target_arch = "x86_64") {
        // Several callees have names here; OpenSSL's own name for it decides.
        let read = found.library.internal.read.as_ref().unwrap();
        assert_eq!(read.place.function, offset_by_nm(&file, "ssl_read_internal"));
    }
    strip(&file);
    assert_eq!(classify(&File::open(&file).unwrap()), Err(NotTls::NoSymbols));
}

#[test]
fn what_only_calls_openssl_is_not_a_library() {
    let own = File::open("/proc/self/exe").unwrap();
    assert_eq!(classify(&own), Err(NotTls::NoSymbols));
    assert_eq!(classify_data(&b"#!/bin/sh\nexit 0\n"[..]), Err(NotTls::NotElf));
    assert_eq!(classify_data(&b""[..]), Err(NotTls::NotElf));
}

#[test]
fn a_library_cut_or_damaged_anywhere_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    let file = compile(folder.path(), "lib.so", &library(""), &SHARED);
    strip(&file);
    let good = std::fs::read(&file).unwrap();
    assert!(classify_data(&good[..]).is_ok());
    for end in 0..good.len() {
        let _ = classify_data(&good[..end]);
    }
    let mut bad = good.clone();
    for at in 0..good.len() {
        for value in [0, 0xff, good[at] ^ 0x80] {
            bad[at] = value;
            let _ = classify_data(&bad[..]);
        }
        bad[at] = good[at];
    }
}

#[test]
fn a_huge_table_in_a_sparse_file_is_refused_without_reading_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = compile(folder.path(), "lib.so", &library(""), &SHARED);
    let mut bytes = std::fs::read(&file).unwrap();
    let word = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let headers = word(&bytes, 0x28);
    let symbols = (headers..bytes.len()).step_by(64).find(|at| bytes[at + 4] == 11).expect("a .dynsym");
    bytes[symbols + 32..symbols + 40].copy_from_slice(&(24u64 << 36).to_le_bytes());
    let mut sparse = File::options().write(true).open(&file).unwrap();
    sparse.write_all(&bytes).unwrap();
    sparse.seek(io::SeekFrom::Start(1 << 42)).unwrap();
    if sparse.set_len(1 << 42).is_err() {
        sparse.set_len(1 << 41).expect("a sparse file of 2 TiB");
    }
    // The other table still tells.
    assert!(classify(&File::open(&file).unwrap()).is_ok());
}

#[test]
fn a_library_is_found_in_a_process_and_stays_attachable_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let lib = compile(folder.path(), "lib with space.so", &library(""), &SHARED);
    let source = r#"
        #include <dlfcn.h>
        #include <stdio.h>
        int main(int n, char **v) { if (!dlopen(v[1], RTLD_NOW)) return 1; puts("ready"); fflush(stdout); return getchar(); }"#;
    let program = compile(folder.path(), "loads", source, &["-ldl"]);
    let mut child = Command::new(&program)
        .arg(&lib)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();

    let mut discovery = Discovery::default();
    let first = discovery.libraries_of(child.id(), None).unwrap();
    assert_eq!(first.found.len(), 1, "{first:?}");
    std::fs::remove_file(&lib).unwrap();
    let deleted = discovery.libraries_of(child.id(), None).unwrap();
    drop(child.stdin.take());
    child.wait().unwrap();

    let found = &first.found[0];
    assert_eq!(found.path, lib);
    assert_eq!(found.version, "OpenSSL 9.8.7z");
    let open = std::fs::metadata(found.attach_path()).unwrap();
    assert_eq!((open.dev(), open.ino()), (found.key.device, found.key.inode));
    // Its deleted file is found where map_files may be used.
    match deleted.found.first() {
        Some(again) => assert_eq!((again.key.inode, &again.path), (found.key.inode, &lib)),
        None => assert_eq!(deleted.unreadable.len(), 1),
    }
    let gone = |result: io::Result<InProcess>| result.unwrap_err().kind() == io::ErrorKind::NotFound;
    assert!(gone(discovery.libraries_of(u32::MAX, None)));
    // It ended when its files were known.
    let files = maps::mapped_files(std::process::id(), None).unwrap();
    assert!(gone(discovery.libraries_among(&files, u32::MAX, false)));
}

/// A library in NSS's shape: the SSL layer's methods, in the order of prio.h, and what else exports.
fn nss(fill: &str) -> String {
    let names: Vec<String> = (1..=21).chain(23..=25).map(|index| format!("m{index}")).collect();
    let methods: String = names
        .iter()
        .enumerate()
        .map(|(number, name)| {
            format!(
                "static __attribute__((noinline, noipa)) int {name}(void *fd) {{ return fd ? {number} : -{number}; }}\n"
            )
        })
        .collect();
    let list = |from: usize| names[from..].join(", ");
    format!(
        r#"
        typedef struct {{ int kind; void *methods[36]; }} Methods;
        extern int PR_EmulateAcceptRead(void *), PR_EmulateSendFile(void *);
        extern const Methods *PR_GetDefaultIOMethods(void);
        {methods}
        static const Methods table = {{ 4, {{ {first}, PR_EmulateAcceptRead, {last}, 0, 0, 0, 0, PR_EmulateSendFile }} }};
        Methods combined;
        {fill}
        int SSL_ResetHandshake(void *fd, int server) {{ return server; }}
        const char version[] = "Version: NSS 3.99.1";
        "#,
        first = names[..21].join(", "),
        last = list(21),
    )
}

/// Fills the table piece by piece, as NSS does; compilers make of it what they like.
fn filled_by_code() -> String {
    let lines: String = (0..25)
        .filter(|index| *index != 21)
        .map(|index| format!("combined.methods[{index}] = table.methods[{index}];"))
        .collect();
    format!(
        "void *SSL_ImportFD(void *model, void *fd) {{ combined = *PR_GetDefaultIOMethods(); combined.kind = 4; {lines} \
         combined.methods[21] = table.methods[21]; combined.methods[29] = table.methods[29]; return fd; }}"
    )
}

const KEPT: &str =
    "const Methods *volatile used = &table; void *SSL_ImportFD(void *model, void *fd) { return fd; }";

#[test]
#[cfg(target_arch = "x86_64")]
fn methods_of_nss_are_found_in_a_table_or_in_the_code_that_fills_one() {
    let folder = tempfile::tempdir().unwrap();
    for (number, (fill, option)) in [
        (KEPT.to_owned(), "-O2"),
        (filled_by_code(), "-O2"),
        (filled_by_code(), "-O0"),
        (filled_by_code(), "-O3"),
    ]
    .into_iter()
    .enumerate()
    {
        let options = [&SHARED[..], &[option]].concat();
        let file = compile(folder.path(), &format!("nss{number}.so"), &nss(&fill), &options);
        let wanted = [
            (Function::NssClose, "m1"),
            (Function::NssRead, "m2"),
            (Function::NssWrite, "m3"),
            (Function::NssWritev, "m11"),
            (Function::NssAccept, "m13"),
            (Function::NssShutdown, "m16"),
            (Function::NssRecv, "m17"),
            (Function::NssSend, "m18"),
        ]
        .map(|(function, name)| (function, offset_by_nm(&file, name)));
        strip(&file);
        let library =
            classify(&File::open(&file).unwrap()).unwrap_or_else(|e| panic!("{fill} {option}: {e}"));
        assert_eq!((library.family, library.version.as_deref()), (Some(Family::Nss), Some("NSS 3.99.1")));
        for (function, offset) in wanted {
            assert_eq!(library.offsets.get(function), Some(offset), "{} {option}", function.symbol());
        }
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_table_of_nss_that_is_not_certain_is_not_taken() {
    use super::nss::NoMethods;
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, source: &str| {
        let file = compile(folder.path(), name, source, &SHARED);
        strip(&file);
        classify(&File::open(&file).unwrap()).unwrap_err()
    };
    let good = nss(KEPT);
    // Another order, another kind, a method that is no function, one that stands twice.
    let cases = [
        ("m21, PR_EmulateAcceptRead", "PR_EmulateAcceptRead, m21"),
        ("table = { 4,", "table = { 3,"),
        ("{ m1, m2,", "{ m1, (char *)m2 + 1,"),
        ("{ m1, m2, m3,", "{ m1, m2, m2,"),
    ];
    for (number, (from, to)) in cases.into_iter().enumerate() {
        assert!(good.contains(from), "{from}");
        let source = good.replacen(from, to, 1);
        assert_eq!(refused(&format!("bad{number}.so"), &source), NotTls::Nss(NoMethods::None), "{to}");
    }
    let second = "static const Methods second = { 4, { m2, m1, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, \
                  m16, m17, m18, m19, m20, m21, PR_EmulateAcceptRead, m23, m24, m25, 0, 0, 0, 0, PR_EmulateSendFile } };\
                  const Methods *volatile also = &second;";
    let two = good.replace("Methods combined;", second);
    assert_eq!(refused("two.so", &two), NotTls::Nss(NoMethods::Ambiguous(2)));
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_library_of_nss_that_is_cut_or_damaged_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    let file = compile(folder.path(), "lib.so", &nss(&filled_by_code()), &SHARED);
    strip(&file);
    let good = std::fs::read(&file).unwrap();
    assert!(classify_data(&good[..]).is_ok());
    for end in (0..good.len()).step_by(7) {
        let _ = classify_data(&good[..end]);
    }
    let mut bad = good.clone();
    for at in 0..good.len() {
        for value in [0xff, good[at] ^ 0x80] {
            bad[at] = value;
            let _ = classify_data(&bad[..]);
        }
        bad[at] = good[at];
    }
}

/// A library in GnuTLS's shape.
fn gnutls(send: &str) -> String {
    format!(
        r#"
        long gnutls_record_send2(void *s, const void *d, unsigned long n, unsigned long pad, unsigned f) {{
            return s == d ? -1 : n + pad + f; }}
        long gnutls_record_send(void *s, const void *d, unsigned long n) {{ {send} }}
        long gnutls_record_recv(void *s, void *d, unsigned long n) {{ return s == d ? -1 : n; }}
        const char text[] = "Enabled GnuTLS 3.9.1 logging...";
        "#
    )
}

#[test]
fn gnutls_and_what_only_passes_on_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let library = |name: &str, send: &str| {
        let file = compile(folder.path(), name, &gnutls(send), &SHARED);
        strip(&file);
        Discovery::default().at(&file).unwrap()
    };
    let jumps = library("jumps.so", "return gnutls_record_send2(s, d, n, 0, 0);");
    assert_eq!((jumps.library.family, &jumps.version[..]), (Some(Family::GnuTls), "GnuTLS 3.9.1"));
    let has = |found: &Found, function| found.library.offsets.get(function).is_some();
    assert!(has(&jumps, Function::GnutlsRecv) && has(&jumps, Function::GnutlsSend2));
    if cfg!(target_arch = "x86_64") {
        assert!(!has(&jumps, Function::GnutlsSend), "one probe for both");
    }
    let more = library("more.so", "return gnutls_record_send2(s, d, n - 1, 0, 0);");
    assert!(has(&more, Function::GnutlsSend), "what is more than a jump is probed itself");
    let wrapper = r#"
        extern long gnutls_record_send(void *, const void *, unsigned long);
        int SSL_write(void *s, const void *b, int n) { return gnutls_record_send(s, b, n); }
        int SSL_read(void *s, void *b, int n) { return 0; }"#;
    let file = compile(folder.path(), "wrapper.so", wrapper, &SHARED);
    assert_eq!(classify(&File::open(&file).unwrap()), Err(NotTls::Wrapper));
}

#[test]
fn every_library_installed_here_is_found_and_openssl_with_its_internal_functions() {
    let installed = Discovery::default().installed();
    if installed.is_empty() {
        eprintln!("skipped: no TLS library in the standard folders");
    }
    for found in installed {
        let handshake = match found.library.family {
            Some(Family::OpenSsl) => Function::DoHandshake,
            Some(Family::GnuTls) => Function::GnutlsHandshake,
            Some(Family::Nss) => Function::NssForce,
            None => panic!("{found:?}"),
        };
        assert!(found.library.offsets.get(handshake).is_some(), "{found:?}");
        assert!(found.version.contains('.'), "{found:?}");
        let handshake = match found.library.family.unwrap() {
            Family::OpenSsl => Function::DoHandshake,
            Family::GnuTls => Function::GnutlsHandshake,
            Family::Nss => Function::NssForce,
        };
        assert!(found.library.offsets.get(handshake).is_some(), "{found:?}");
        assert!(!found.version.is_empty(), "{found:?}");
        if found.version.starts_with("OpenSSL") && cfg!(target_arch = "x86_64") {
            assert!(found.library.internal.read.is_ok() && found.library.internal.write.is_ok(), "{found:?}");
        }
    }
}

/// A program in OpenSSL's shape, with the constants of one that speaks TLS.
fn static_program(folder: &Path, options: &[&str]) -> PathBuf {
    let source = library("")
        + "const char label[] = \"c hs \" \"traffic\";
        int main(void) { return SSL_read(0, 0, 1) + SSL_write(0, 0, 1); }";
    compile(folder, "program", &source, &[&["-Wl,--build-id"], options].concat())
}

fn tool(words: &[&str]) {
    let status = Command::new(words[0]).args(&words[1..]).status();
    assert!(status.unwrap_or_else(|e| panic!("{words:?}: {e}")).success(), "{words:?}");
}

/// The program's build-id, as binutils tell it.
fn build_id(file: &Path) -> String {
    let out = Command::new("readelf").arg("-n").arg(file).output().expect("readelf is needed");
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines().find_map(|l| l.trim().strip_prefix("Build ID: ")).expect("a build-id").to_owned()
}

/// A stripped program, its debug file, and where `SSL_read` lies.
fn split(folder: &Path, options: &[&str]) -> (PathBuf, PathBuf, u64) {
    let program = static_program(folder, options);
    let at = offset_by_nm(&program, "SSL_read");
    let debug = folder.join("program.debug");
    tool(&["objcopy", "--only-keep-debug", program.to_str().unwrap(), debug.to_str().unwrap()]);
    strip(&program);
    (program, debug, at)
}

#[test]
fn symbols_in_a_debug_file_by_build_id_or_by_link() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("opt");
    std::fs::create_dir(&folder).unwrap();
    let (program, debug, offset) = split(&folder, &[]);
    let at = |path: &str| Whereabouts { root: root.path().into(), path: path.into() };
    let look = |at: &Whereabouts| elf::classify(&File::open(&program).unwrap(), at);
    let unnamed = || Err(NotTls::NoSymbols);
    assert_eq!(look(&at("/opt/program")), unnamed());

    let id = build_id(&program);
    let by_id = root.path().join(format!("usr/lib/debug/.build-id/{}/{}.debug", &id[..2], &id[2..]));
    std::fs::create_dir_all(by_id.parent().unwrap()).unwrap();
    std::fs::copy(&debug, &by_id).unwrap();
    let found = look(&at("/anywhere/else")).unwrap();
    assert_eq!(found.offsets.get(Function::Read), Some(offset));
    assert_eq!(found.named_by, NamedBy::DebugFile(by_id.clone()));
    // Cut and damaged ones.
    let good = std::fs::read(&by_id).unwrap();
    for end in (0..good.len()).step_by(61) {
        std::fs::write(&by_id, &good[..end]).unwrap();
        assert_eq!(look(&at("/opt/program")), unnamed(), "cut at {end} of {}", good.len());
    }
    // That of another build.
    let other = tempfile::tempdir().unwrap();
    let (_, stranger, _) = split(other.path(), &["-O1"]);
    std::fs::copy(&stranger, &by_id).unwrap();
    assert_eq!(look(&at("/opt/program")), unnamed());
    std::fs::remove_file(&by_id).unwrap();

    let link = format!("--add-gnu-debuglink={}", debug.display());
    tool(&["objcopy", &link, program.to_str().unwrap()]);
    let places = ["opt/program.debug", "opt/.debug/program.debug", "usr/lib/debug/opt/program.debug"];
    for place in places.map(|place| root.path().join(place)) {
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::rename(&debug, &place).unwrap();
        let found = look(&at("/opt/program")).unwrap();
        assert_eq!(found.offsets.get(Function::Read), Some(offset));
        assert_eq!(found.named_by, NamedBy::DebugFile(place.clone()));
        // One more byte, and the checksum does not agree.
        File::options().append(true).open(&place).unwrap().write_all(b"x").unwrap();
        assert_eq!(look(&at("/opt/program")), unnamed());
        File::options().write(true).open(&place).unwrap().set_len(good.len() as u64).unwrap();
        std::fs::rename(&place, &debug).unwrap();
    }
}

#[test]
fn rustls_beside_openssl_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let both = library("")
        + "const char text[] = \"/x/rustls-0.21.0/src/\"; int main(void) { return SSL_read(0, 0, 1) + SSL_write(0, 0, 1); }";
    let file = compile(folder.path(), "both", &both, &[]);
    let also = classify(&File::open(file).unwrap()).unwrap().also;
    assert!(also.unwrap().to_string().contains("rustls 0.21.0"));
}

/// The name that Rust gives to what encrypts, or decrypts, as this type.
fn rustls_name(owner: &str, method: &str) -> String {
    let side = if method == "encrypt" { "MessageEncrypter" } else { "MessageDecrypter" };
    let path = format!("_$LT${owner}$u20$as$u20$rustls::crypto::cipher::{side}$GT$").replace("::", "..");
    format!("_ZN{}{path}{}{method}17h0123456789abcdefE", path.len(), method.len())
}

#[test]
fn why_a_program_with_rustls_cannot_be_captured() {
    const GCM: &str = "rustls::crypto::aws_lc_rs::tls12::GcmMessageEncrypter";
    const TLS13: &str = "rustls::crypto::aws_lc_rs::tls13::AeadMessageDecrypter";
    let folder = tempfile::tempdir().unwrap();
    let judge = |versions: &[&str], functions: &[(&str, &str)]| {
        let texts: String =
            versions.iter().map(|version| format!("/x/rustls-{version}/src/conn.rs")).collect();
        let mut source = format!("const char text[] = \"{texts}\"; int main(void) {{ return text[0]; }}");
        for (n, (owner, method)) in functions.iter().enumerate() {
            let name = rustls_name(owner, method);
            source += &format!("int f{n}(void) __asm__(\"{name}\"); int f{n}(void) {{ return {n}; }}");
        }
        let file = compile(folder.path(), "program", &source, &[]);
        classify(&File::open(file).unwrap()).map(|library| library.rustls.unwrap())
    };
    let both = [(TLS13, "encrypt"), (TLS13, "decrypt")];
    let found = judge(&["0.23.46"], &both).unwrap();
    assert_eq!((found.places.len(), found.version.as_deref()), (2, Some("0.23.46")));
    assert!(!found.places[0].function.owned);
    assert!(judge(&["0.22.4", "0.21.12"], &both).unwrap().places[0].function.owned);
    let refused = |why| Err(NotTls::Rustls(why));
    for versions in [&[][..], &["0.24.0"], &["0.22.4", "0.23.46"], &["0.21.12"]] {
        assert_eq!(judge(versions, &both), refused(NotRustls::Version), "{versions:?}");
    }
    for half in [&[(TLS13, "encrypt")][..], &[both[0], both[1], (GCM, "decrypt")]] {
        assert_eq!(judge(&["0.23.46"], half), refused(NotRustls::Incomplete));
    }
    let foreign = [both[0], both[1], ("boring_rustls::tls13::X", "encrypt")];
    assert_eq!(judge(&["0.23.46"], &foreign), refused(NotRustls::Provider("boring_rustls".into())));
    // Two kinds of records in one place.
    let (one, two) = (rustls_name(TLS13, "encrypt"), rustls_name(GCM, "encrypt"));
    let source = format!(
        "const char text[] = \"/x/rustls-0.23.46/src/\"; int main(void) {{ return text[0]; }} \
         int f(void) __asm__(\"{one}\"); int f(void) {{ return 1; }} \
         int g(void) __asm__(\"{two}\") __attribute__((alias(\"{one}\")));"
    );
    let file = compile(folder.path(), "program", &source, &[]);
    assert_eq!(classify(&File::open(file).unwrap()).err(), Some(NotTls::Rustls(NotRustls::Unclear)));
}

/// Packs a file as mini debug info into the program.
fn embed(program: &Path, inside: &Path) {
    tool(&["xz", "-k", "-f", inside.to_str().unwrap()]);
    let section = format!(".gnu_debugdata={}.xz", inside.display());
    tool(&["objcopy", "--remove-section", ".gnu_debugdata", program.to_str().unwrap()]);
    tool(&["objcopy", "--add-section", &section, program.to_str().unwrap()]);
}

#[test]
fn symbols_in_mini_debug_info_and_damage_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let (program, debug, offset) = split(folder.path(), &[]);
    // As distributions do, without what only debuggers use.
    tool(&["objcopy", "-S", "--keep-symbol=SSL_read", "--keep-symbol=SSL_write", debug.to_str().unwrap()]);
    embed(&program, &debug);
    let found = classify(&File::open(&program).unwrap()).unwrap();
    assert_eq!(found.offsets.get(Function::Read), Some(offset));
    assert_eq!(found.named_by, NamedBy::MiniDebugInfo);

    let good = std::fs::read(&program).unwrap();
    let packed = memchr::memmem::rfind(&good, b"\xfd7zXZ\0").expect("the section");
    let end = packed + std::fs::metadata(debug.with_extension("debug.xz")).unwrap().len() as usize;
    let mut bad = good.clone();
    for at in packed..end {
        for value in [0, 0xff, good[at] ^ 0x80, good[at] ^ 1] {
            bad[at] = value;
            // Either it is as it was, or refused: xz has checksums.
            if let Ok(damaged) = elf::classify_from(io::Cursor::new(&bad), &alone()) {
                assert_eq!(damaged.offsets, found.offsets, "byte {at} made {value}");
            }
        }
        bad[at] = good[at];
    }
}

#[test]
fn mini_debug_info_that_swells_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (program, debug, _) = split(folder.path(), &[]);
    // Good symbols, and 65 MiB behind them that pack to nearly nothing.
    File::options().write(true).open(&debug).unwrap().set_len(debug::UNPACKED_MAX + 1).unwrap();
    embed(&program, &debug);
    let size = std::fs::metadata(&program).unwrap().len();
    assert!(size < 1 << 20, "{size} bytes");
    assert_eq!(classify(&File::open(&program).unwrap()), Err(NotTls::NoSymbols));
}

/// A probe between two functions, or in one, would end the program.
#[test]
#[cfg(target_arch = "x86_64")]
fn a_debug_file_whose_functions_are_elsewhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (program, debug, _) = split(folder.path(), &[]);
    let shifted = folder.path().join("shifted.debug");
    // The same build-id, and one function that begins a byte later.
    let (mut bytes, address) = (std::fs::read(&debug).unwrap(), address_by_nm(&debug, "SSL_write"));
    let places: Vec<usize> = memchr::memmem::find_iter(&bytes, &address.to_le_bytes()).collect();
    places.iter().for_each(|at| bytes[*at] += 1);
    std::fs::write(&shifted, &bytes).unwrap();
    assert_eq!(address_by_nm(&shifted, "SSL_write"), address + 1);
    embed(&program, &shifted);
    let refused = classify(&File::open(&program).unwrap());
    assert_eq!(refused, Err(NotTls::NoSymbols));
    embed(&program, &debug);
    assert!(classify(&File::open(&program).unwrap()).is_ok());
}
