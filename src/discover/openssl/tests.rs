//! On a program in OpenSSL's shape, with and without what tells its functions.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::bounded::Deadline;
use super::super::elf::{self as file, NamedBy, own_tables};
use super::super::maps::Whereabouts;
use super::super::reason::NotTls;
use super::*;

/// Each function is as far from being inlined as there.
const SOURCE: &str = r#"
    #include <stddef.h>
    #define APART __attribute__((noinline, noipa))
    #ifdef INLINED
    #define WITHIN static inline __attribute__((always_inline))
    #else
    #define WITHIN APART
    #endif
    const char version[] = "OpenSSL 3.9.8 1 Jan 2026", label[] = "c hs traffic";
    APART void ERR_new(void) { __asm__ volatile(""); }
    APART void ERR_set_debug(const char *file, int line, const char *f) { __asm__ volatile("" :: "r"(file), "r"(f)); }
    APART void ERR_set_error(int library, int reason, const char *text) { __asm__ volatile(""); }
    #define RAISE(reason) (ERR_new(), ERR_set_debug("../ssl/ssl_lib.c", __LINE__, __func__), \
                           ERR_set_error(20, reason, NULL))
    WITHIN int bio_read_intern(void *b, void *data, size_t len, size_t *count) {
        if (!b) { RAISE(120); return -1; } *count = len; return data != b; }
    WITHIN int bio_write_intern(void *b, const void *data, size_t len, size_t *count) {
        if (!b) { RAISE(121); return -1; } *count = len; return data != b; }
    APART int BIO_read_ex(void *b, void *data, size_t len, size_t *count) {
        return bio_read_intern(b, data, len, count) > 0; }
    APART int BIO_write_ex(void *b, const void *data, size_t len, size_t *count) {
        return bio_write_intern(b, data, len, count) > 0; }
    APART int BIO_read(void *b, void *data, int len) {
        size_t count; int ret; if (len < 0) return 0;
        ret = bio_read_intern(b, data, len, &count); return ret > 0 ? (int)count : ret; }
    APART int BIO_write(void *b, const void *data, int len) {
        size_t count; int ret; if (len <= 0) return 0;
        ret = bio_write_intern(b, data, len, &count); return ret > 0 ? (int)count : ret; }
    APART int ssl_read_internal(void **s, void *b, size_t n, size_t *count) {
        if (!*s) { RAISE(276); return -1; } *count = BIO_read(*s, b, n); return *count > 0; }
    APART int ssl_peek_internal(void **s, void *b, size_t n, size_t *count) {
        if (!*s) { RAISE(276); return -1; } *count = BIO_read(*s, b, n) / 2; return *count > 0; }
    APART int ssl_write_internal(void **s, const void *b, size_t n, size_t *count) {
        if (!*s) { RAISE(276); return -1; } *count = BIO_write(*s, b, n); return *count > 0; }
    int moved;
    #define WRAPPER(name, inner, type) APART int name(void **s, type *b, int n) { \
        size_t count; int ret; if (n < 0) { RAISE(271); return -1; } \
        ret = inner(s, b, n, &count); MORE(ret); return ret > 0 ? (int)count : ret; }
    #ifdef BUSY
    #define MORE(ret) (moved += ret)
    #else
    #define MORE(ret) ((void)0)
    #endif
    #ifdef FOREIGN
    APART int foreign(void **s, void *b, size_t n, size_t *count) { *count = n; return *s == b; }
    WRAPPER(SSL_read, foreign, void)
    #else
    WRAPPER(SSL_read, ssl_read_internal, void)
    #endif
    WRAPPER(SSL_peek, ssl_peek_internal, void)
    WRAPPER(SSL_write, ssl_write_internal, const void)
    APART int SSL_read_ex(void **s, void *b, size_t n, size_t *count) {
        int ret = ssl_read_internal(s, b, n, count); return ret < 0 ? 0 : ret; }
    APART int SSL_write_ex(void **s, const void *b, size_t n, size_t *count) {
        int ret = ssl_write_internal(s, b, n, count); return ret < 0 ? 0 : ret; }
    APART void *SSL_new(void *c) { if (!c) { RAISE(195); return NULL; } return c; }
    APART int SSL_do_handshake(void **s) { if (!*s) { RAISE(144); return -1; } return 1; }
    APART int SSL_shutdown(void **s) { if (!*s) { RAISE(276); return -1; } return 1; }
    #ifdef TWICE
    APART int other(void) { ERR_set_debug("x.c", 1, "ssl_read_internal"); return 1; }
    #else
    APART int other(void) { return 1; }
    #endif
    /* Another user of a name, which wraps nothing. */
    APART int names(void) { ERR_set_debug("y.c", 1, "SSL_read"); return 1; }
    int main(int argc, char **argv) {
        char b[10]; size_t count; void *s = SSL_new(argv);
        SSL_do_handshake(s); SSL_write(s, b, 10); SSL_write_ex(s, b, 10, &count); SSL_peek(s, b, 10);
        SSL_read_ex(s, b, 10, &count); BIO_read_ex(s, b, 10, &count);
        BIO_write_ex(s, b, 10, &count);
        return SSL_read(s, b, 10) + SSL_shutdown(s) + other() + names() + version[argc] + label[argc]; }
"#;

fn compile(folder: &Path, options: &[&str]) -> PathBuf {
    let (source, out) = (folder.join("program.c"), folder.join("program"));
    std::fs::write(&source, SOURCE).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-w", "-o"]).args([&out, &source]).args(options);
    assert!(cc.status().expect("a C compiler is needed").success());
    out
}

/// What is found in a program of these options is where its symbols are, which the search does not see.
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
        assert_eq!(place.function, offset(function.symbol()), "{}", function.symbol());
    }
    assert_eq!(entries.offsets.places().count(), 8);
    assert_eq!(entries.bio, (offset("BIO_write"), offset("BIO_read")));
    Ok(())
}

#[test]
fn functions_are_found_where_they_are() {
    let variants = [
        &["-fPIE", "-pie"][..],
        &["-fPIE", "-pie", "-O1"],
        &["-fPIE", "-pie", "-DINLINED"],
        &["-fPIE", "-pie", "-DBUSY"],
        &["-fPIE", "-static-pie", "-fno-omit-frame-pointer"],
        &["-fPIE", "-pie", "-O3", "-fcf-protection", "-fstack-protector-all"],
        // __stack_chk_fail has no name here.
        &["-fPIE", "-static-pie", "-fstack-protector-all"],
    ];
    for options in variants {
        assert_eq!(found(options), Ok(()), "{options:?}");
    }
}

#[test]
fn what_is_not_certain_is_not_taken() {
    let pie = ["-fPIE", "-pie"];
    let with = |more: &'static str| found(&[pie[0], pie[1], more]);
    assert_eq!(with("-DTWICE"), Err(NoEntries::Ambiguous(READ_INTERNAL, 2)));
    assert_eq!(with("-DFOREIGN"), Err(NoEntries::NoWrapper(READ, READ_INTERNAL)));
    assert_eq!(with("-DSSL_new=new"), Err(NoEntries::Missing(NEW)));
    assert_eq!(with("-Dbio_read_intern=read_intern"), Err(NoEntries::Missing(BIO_READ_INTERNAL)));
}

#[test]
fn a_stripped_program_is_known_by_its_code() {
    let folder = tempfile::tempdir().unwrap();
    let at = Whereabouts { root: "/".into(), path: "/nowhere/x".into() };
    let program = compile(folder.path(), &["-fPIE", "-pie", "-s"]);
    let library = file::classify(&File::open(&program).unwrap(), &at).unwrap();
    assert_eq!((library.named_by, library.version.as_deref()), (NamedBy::Code, Some("OpenSSL 3.9.8")));
    let program = compile(folder.path(), &["-fPIE", "-pie", "-s", "-DFOREIGN"]);
    let why = file::classify(&File::open(&program).unwrap(), &at).unwrap_err();
    assert!(matches!(why, NotTls::Likely(_)));
    let said = "what looks like SSL_read in it does not call what looks like ssl_read_internal, or has other arguments";
    assert!(why.to_string().ends_with(said), "{why}");
}

#[test]
fn damaged_files_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let data = std::fs::read(compile(folder.path(), &["-fPIE", "-pie", "-s"])).unwrap();
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
