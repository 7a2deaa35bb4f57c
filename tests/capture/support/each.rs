//! What is asked of the capture of a program that has many connections.

use super::programs::{Told, transcript};
use super::view::Connection;
use super::{Finished, assert_same_bytes};

/// Each of the `count` connections that the program told of stands in the file with the bytes of its own
/// transcript and its own socket, and there is no other. `role`: whose transcripts are in `dir`, `client` or
/// `server`. `more` looks at what else a connection must tell.
#[track_caller]
pub fn assert_each_on_its_socket(
    finished: &Finished,
    dir: &str,
    role: &str,
    count: usize,
    more: impl Fn(&Told, &Connection),
) {
    let text = finished.text();
    let told = Told::all(&text);
    assert_eq!(told.len(), count, "{text}\n{}", finished.stderr);
    assert!(finished.stderr.contains("nothing lost"), "{}", finished.stderr);
    for (view, tshark) in finished.views() {
        assert_eq!(view.connections.len(), count, "tshark {}", tshark.version);
        for told in &told {
            let connection = view.of(told.local, told.remote);
            let truth = transcript(dir, role, told.index);
            let (client, server) = match role {
                "client" => (&truth.sent, &truth.received),
                _ => (&truth.received, &truth.sent),
            };
            assert_same_bytes(&format!("client of {told:?}"), &connection.sent_by_client, client);
            assert_same_bytes(&format!("server of {told:?}"), &connection.sent_by_server, server);
            assert_eq!(connection.comment.number("fd"), u64::from(told.fd), "{told:?}");
            more(told, connection);
        }
    }
}
