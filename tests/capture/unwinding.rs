//! Programs whose stack is unwound or walked inside a TLS call: they behave as without a capture, and what their other
//! calls move is in the file.

use crate::coroutines::own_openssl;
use crate::support::programs::{compiled_cpp, exchange_server, transcript};
use crate::support::{Test, assert_same_bytes, begin};

/// The program does what it does without a capture, which `says` tells, and no byte that it moved is lost.
#[track_caller]
fn assert_unharmed(test: &Test, kind: &str, says: &str) {
    let (mut server, port) = exchange_server(test, "r:100 w:200 r:50 w:70 S");
    let dir = test.folder("client");
    let program = compiled_cpp("unwinding", &["-fpermissive", "-w", "-lssl", "-lcrypto"]);
    let words = [program, "127.0.0.1".into(), port.to_string(), dir.clone(), kind.into()];
    let finished = test.capture().variable("LD_LIBRARY_PATH", &own_openssl(test)).run(&words).ok();
    server.wait_ok();
    let text = finished.text();
    let said: Vec<&str> = text.lines().filter(|line| !line.starts_with("connection ")).collect();
    assert_eq!(said.join("; "), says, "{}", finished.stderr);
    let truth = transcript(&dir, "client", 0);
    assert_eq!((truth.sent.len(), truth.received.len()), (150, 270));
    // A call that was left is told as such.
    for (view, _) in finished.views_but(|packet| packet.is_behind_jump()) {
        let connection = view.only();
        assert_same_bytes("client", &connection.sent_by_client, &truth.sent);
        assert_same_bytes("server", &connection.sent_by_server, &truth.received);
    }
}

#[test]
fn an_exception_through_a_read() {
    assert_unharmed(&begin!(), "throw-read", "caught: too late; done");
}

#[test]
fn an_exception_through_a_write() {
    assert_unharmed(&begin!(), "throw-write", "caught: too late; done");
}

#[test]
fn an_exception_through_the_handshake() {
    assert_unharmed(&begin!(), "throw-handshake", "caught: too late; done");
}

#[test]
fn an_exception_through_a_shutdown() {
    assert_unharmed(&begin!(), "throw-shutdown", "caught: too late; done");
}

#[test]
fn a_thread_that_is_cancelled_in_a_read() {
    assert_unharmed(&begin!(), "cancel", "the handler ran; locked again; done");
}

#[test]
fn a_backtrace_inside_a_read() {
    assert_unharmed(&begin!(), "backtrace", "main is seen; done");
}
