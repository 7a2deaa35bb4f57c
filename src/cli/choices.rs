//! Options with a few values: what the command line calls each value of a type that belongs elsewhere.

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::{config, redact, sink, synth};

macro_rules! choices {
    ($($of:ty { $($variant:ident: $name:literal, $help:literal;)* })*) => { $(
        impl ValueEnum for $of {
            fn value_variants<'a>() -> &'a [Self] {
                &[$(Self::$variant),*]
            }

            fn to_possible_value(&self) -> Option<PossibleValue> {
                Some(match self { $(Self::$variant => PossibleValue::new($name).help($help),)* })
            }
        }
    )* };
}

choices! {
    config::Backend {
        Auto: "auto", "The first that works";
        Kprobe: "kprobe", "kprobes: every kernel built with them";
        Fentry: "fentry", "fentry: cheaper, where the kernel has trampolines";
        Tracepoint: "tracepoint", "Typed tracepoints: kernels without the others, 6.12 or later";
    }
    synth::Ports {
        Decode: "decode", "Mapped to a port where Wireshark decodes plaintext (443 to 80); the true one is in the comment";
        Keep: "keep", "Unchanged";
        Apart: "apart", "As decode; if the server port stays the same, the client's is written 30000 lower (or higher), so that the file can be merged with a packet capture of the same connections";
    }
    synth::Carrier {
        Plain: "plain", "TCP, readable by any tool";
        Tls: "tls", "Synthetic TLS without encryption on the true ports, with server name and ALPN; plain where Wireshark would not decode that. Missing bytes are zeros";
    }
    sink::Link {
        Ethernet: "ethernet", "Each packet has a synthetic Ethernet header";
        Raw: "raw", "None, packets begin with IP: tcpdump and other users of libpcap then read only the first process";
    }
    sink::Comments {
        All: "all", "Each packet, with what is known about its connection";
        Syn: "syn", "The first of a connection, and those with missing or synthetic bytes or new facts";
        None: "none", "None: then the plugin knows only pid and name, and missing bytes are not labelled";
    }
    sink::DiskFull {
        End: "end", "End; the last file ends with a complete packet";
        DropOldest: "drop-oldest", "Delete the oldest completed file of this capture and continue; for -C, -G and -b";
    }
    config::View {
        Text: "text", "A conversation: processes and servers, headers, bodies, how long it took";
        Json: "json", "One JSON object per line (docs/views.md)";
        Hex: "hex", "All bytes, in the format of hexdump -C";
    }
    redact::Level {
        Secrets: "secrets", "Secrets, likely secrets, and everything that is not understood";
        Shape: "shape", "Everything but structure: methods, paths, status, names, sizes, times and frame types stay";
    }
    redact::Identity {
        Keep: "keep", "Keep them";
        Pseudonyms: "pseudonyms", "Replace each by another of the same length, always the same one";
    }
}
