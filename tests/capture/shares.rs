//! No process takes the room of the others.

use crate::support::programs::{Told, compiled, compiled_with, connect, exchange_server, transcript};
use crate::support::{assert_same_bytes, begin};

/// More handles than the tables have room for, of one process.
const HANDLES: &str = "100000";

#[test]
fn who_makes_handles_without_end_takes_no_others() {
    let test = begin!();
    let (mut server, port) = exchange_server(&test, "r:3000 w:50000 S");
    let dir = test.folder("client");
    let mut command = vec![compiled_with("hog", &["-rdynamic"]), HANDLES.into(), compiled("exchange")];
    command.extend(connect("127.0.0.1", port, &dir, "w:3000 r:50000 S"));
    let finished = test.capture().run(&command);
    server.wait_ok();
    assert_eq!(finished.status, 0, "{}", finished.stderr);
    let said = &finished.stderr;
    let share =
        "lost: 400 bytes in 100 calls: its process or user had used up its share of the table of TLS handles";
    assert!(said.contains(share) && said.contains("\n      hog["), "{said}");
    let told = Told::all(&finished.text());
    let truth = transcript(&dir, "client", 0);
    for (view, _) in finished.views() {
        let connection = view.of(told[0].local, told[0].remote);
        assert_same_bytes("client", &connection.sent_by_client, &truth.sent);
        assert_same_bytes("server", &connection.sent_by_server, &truth.received);
        assert!(connection.holes.is_empty(), "{:?}", connection.holes);
    }
}
