//! What is planted, by the kinds that docs/sharing.md names.

use super::draw::{Draw, base64, field_name, jwt, token};

/// Where a secret is put.
pub enum Spot {
    /// A field of a request.
    Field(&'static str, String),
    /// A field of an answer.
    Answer(&'static str, String),
    /// What a request asks for.
    Target(String),
    /// A body: its type, and what it says.
    Body(&'static str, Vec<u8>),
}

use Spot::{Answer, Body, Field, Target};

type Kind = (&'static str, fn(&mut Draw) -> Vec<Spot>);

/// In heads.
pub const HEADS: &[Kind] = &[
    ("basic", |d| {
        let user = ["me:", "bert:", "x@y:"][d.random.below(3)];
        let secret = d.secret();
        vec![Field("authorization", format!("Basic {}", base64(format!("{user}{secret}").as_bytes())))]
    }),
    ("bearer", |d| {
        let (a, joint, b) = d.joined(&["-", "_", ".", "~", "+", "/"]);
        vec![Field("authorization", format!("Bearer {a}{joint}{b}=="))]
    }),
    ("digest", |d| {
        let (a, b, c) = (d.hexadecimal(), d.hexadecimal(), d.secret());
        vec![Field(
            "authorization",
            format!(
                "Digest username=\"me\", realm=\"r\", nonce=\"{a}\", uri=\"/a?token={c}\", response=\"{b}\", qop=auth, nc=00000001"
            ),
        )]
    }),
    ("negotiate", |d| {
        let (a, b) = (d.long(200), d.secret());
        vec![
            Field("authorization", format!("Negotiate {a}")),
            Answer("www-authenticate", format!("Negotiate {b}==")),
        ]
    }),
    ("AWS signature", |d| {
        let (key, sign) = (d.secret(), d.hexadecimal());
        vec![
            Field(
                "authorization",
                format!(
                    "AWS4-HMAC-SHA256 Credential={key}/20261130/eu/s3/aws4_request, SignedHeaders=host;x-amz-date, Signature={sign}"
                ),
            ),
            Field("x-amz-security-token", d.long(300)),
        ]
    }),
    ("proxy authorization", |d| {
        let secret = d.secret();
        vec![Field("proxy-authorization", format!("Basic {}", base64(format!("me:{secret}").as_bytes())))]
    }),
    ("unknown scheme", |d| {
        vec![Field(
            "authorization",
            d.random.one_of(&["", "Custom ", "Secret:", "k="]).to_owned() + &d.secret(),
        )]
    }),
    ("cookie", |d| {
        let (a, joint, b) = d.joined(&["=", "%20", "/", "\"", ",", " "]);
        let c = d.secret();
        vec![Field("cookie", format!("theme=dark; sid={a}{joint}{b}; c={c}")), Field("cookie", d.secret())]
    }),
    ("set-cookie", |d| {
        let (a, joint, b) = d.joined(&["=", "%20", "/", "\"", ","]);
        vec![
            Answer("set-cookie", format!("sid={a}{joint}{b}; Path=/; HttpOnly; SameSite=Lax")),
            Answer("set-cookie", format!("b={}; Expires=Mon, 30 Nov 2026 00:00:00 GMT", d.secret())),
        ]
    }),
    ("API key", |d| {
        let names = [
            "x-api-key",
            "api-key",
            "apikey",
            "x-auth-token",
            "private-token",
            "x-vault-token",
            "x-access-token",
            "x-session-token",
            "ocp-apim-subscription-key",
            "x-gitlab-token",
            "x-plex-token",
            "x-functions-key",
            "x-goog-api-key",
            "x-shopify-access-token",
            "x-user-bin",
            "dpop",
        ];
        let name = d.random.one_of(&names);
        let (a, joint, b) = d.joined(&["-", " ", ";", ",", "=", "\"", "."]);
        vec![Field(name, format!("{a}{joint}{b}"))]
    }),
    ("CSRF", |d| {
        let name = d.random.one_of(&["x-csrf-token", "x-xsrf-token", "x-csrftoken", "csrf-token"]);
        vec![Field(name, d.secret()), Answer(name, d.secret())]
    }),
    ("random header", |d| {
        let name = d.random.one_of(&["x-whatever", "x-request-proof", "x-blob"]);
        vec![Field(name, format!("hT9x2KqLm4Zp8VbN1cY{}7Qw9Zx3", d.secret()))]
    }),
    ("sub-protocol", |d| {
        vec![Field(
            "sec-websocket-protocol",
            format!("chat, base64url.bearer.authorization.k8s.io.hT9x2KqLm4Zp8V{}7Qw9Zx3", d.secret()),
        )]
    }),
    ("query", |d| {
        let name = field_name(d);
        let (a, joint, b) = d.joined(&["%20", "%22", "+", "%C3%A9", "%26", "=", "/", "%2B", ",", "%0A"]);
        let c = d.secret();
        vec![
            Target(format!("/a/b.js?page=2&{name}={a}{joint}{b}&z=1#access_token={c}")),
            Field("referer", format!("https://a.example/x?{name}={}", d.secret())),
        ]
    }),
    ("query within a query", |d| {
        let (a, b) = (d.secret(), d.secret());
        let filter = "%7B%22auth%22%3A%7B%22x%22%3A%5B%22".to_owned() + &d.secret() + "%22%5D%7D%7D";
        vec![
            Target(format!(
                "/login?next=https%3A%2F%2Fa%2F%3Fu%3Dhttps%253A%252F%252Fb%252F%253Ftoken%253D{a}&filter={filter}"
            )),
            Answer("location", format!("https://b/?next=%2Fcb%3Fstate%3Da%26code%3D7{b}")),
        ]
    }),
    ("user in URL", |d| {
        let (a, b) = (d.secret(), d.secret());
        vec![
            Field("referer", format!("https://me:{a}@a.example/x")),
            Answer("location", format!("https://{b}@a.example/x")),
        ]
    }),
    ("grant", |d| {
        let (a, b) = (d.secret(), d.secret());
        vec![Target(format!("/cb?state=x&code=4%2F{a}7")), Field("x-original-uri", format!("/cb?code=4{b}"))]
    }),
    ("path", |d| {
        let (a, b) = (d.secret(), d.secret());
        vec![Target(format!("/reset/hT9x2KqLm4Zp8VbN1cY{a}7Qw9Zx3/done;jsessionid={b}"))]
    }),
    ("e-mail in a path", |d| {
        let (a, b) = (d.secret(), d.secret());
        vec![
            Target(format!("/users/{a}%40corp.example/x")),
            Field("x-contact", format!("{b}%40corp.example")),
        ]
    }),
    ("token in a header", |d| {
        vec![
            Field("x-text", format!("see {} there", token(d))),
            Answer("www-authenticate", format!("Bearer realm=\"a\", error=\"{}\"", token(d))),
        ]
    }),
    ("JWT", |d| {
        vec![
            Field("x-text", format!("see {} there", jwt(d))),
            Field("authorization", format!("Bearer {}", jwt(d))),
        ]
    }),
];

/// In bodies.
pub const BODIES: &[Kind] = &[
    ("form", |d| {
        let mut all = vec!["user=me".to_owned()];
        for _ in 0..4 {
            let (a, joint, b) =
                d.joined(&["%20", "%22", "+", "%C3%A9", "%26", "%3D", "=", "%5C", "%2B", "%0D%0A", ";"]);
            all.push(format!("{}={a}{joint}{b}", field_name(d)));
        }
        body("application/x-www-form-urlencoded", all.join("&") + "&n=1")
    }),
    ("JSON as a form", |d| {
        let (a, b) = (d.secret(), d.secret());
        body(
            "application/x-www-form-urlencoded",
            format!("{{\"password\":\"{a}\",\"a\":\"b=c\",\"auth\":{{\"x\":[\"{b}\"]}}}}"),
        )
    }),
    ("JSON", |d| {
        let mut all = vec!["\"user\":\"me\"".to_owned()];
        for i in 0..6 {
            let (a, joint, b) =
                d.joined(&["\\\"", "\\\\", " ", "\\n", "\\u00e9", "é", "\\/", ",", "}", ": ", "&", "<", "'"]);
            let value = format!("\"{a}{joint}{b}\"");
            all.push(match i {
                0 => format!("\"auth\":{{\"a\":[{value},{{\"b\":{value}}}],\"n\":null}}"),
                1 => format!("\"{}\" : {value}", field_name(d)),
                _ => format!("\"{}\":{value}", field_name(d)),
            });
        }
        let value = d.secret();
        all.push(format!("\"password\":{{\"type\":\"string\",\"value\":\"{value}\"}}"));
        body("application/json", format!("{{{},\"n\":3}}", all.join(",")))
    }),
    ("text in JSON", |d| {
        let joints = ["\\n", "\\t", " ", "\\u0026", "&", "?", "\\\"", "; ", "/"];
        let lead = |d: &mut Draw| d.random.one_of(&joints);
        let all = [
            format!("x{}sid={}", lead(d), d.secret()),
            format!("x{}pass={}{}y", lead(d), d.secret(), "\\n"),
            format!("Authorization: Bearer {}", d.secret()),
            format!("Cookie: a=b; sid={}", d.secret()),
            format!("login password: {}", d.secret()),
            format!("at{}{}", lead(d), token(d)),
            format!("at{}{}@corp.example", lead(d), d.secret()),
            format!("at{}{}.", d.random.one_of(&["\\n", "\\t", " ", ": "]), d.card()),
            format!(
                "{{\\\"password\\\":\\\"{}\\\",\\\"auth\\\":{{\\\"x\\\":[\\\"{}\\\"]}}}}",
                d.secret(),
                d.secret()
            ),
            format!("mutation {{ login(name: \\\"x\\\", password: \\\"{}\\\") {{ id }} }}", d.secret()),
        ];
        let all: Vec<String> =
            all.iter().enumerate().map(|(i, text)| format!("\"m{i}\":\"{text}\"")).collect();
        body("application/json", format!("{{{}}}", all.join(",")))
    }),
    ("name and value in JSON", |d| {
        let all: Vec<String> = ["name", "key", "header"]
            .iter()
            .map(|word| {
                let name = field_name(d);
                format!("{{\"{word}\":\"{name}\",\"value\":\"{}\"}}", d.secret())
            })
            .collect();
        body("application/json", format!("{{\"env\":[{}]}}", all.join(",")))
    }),
    ("lines of JSON", |d| {
        let all: Vec<String> =
            (0..4).map(|i| format!("{{\"n\":{i},\"token\":\"{}\"}}\n", d.secret())).collect();
        body("application/x-ndjson", all.concat())
    }),
    ("XML", |d| {
        let mut all = String::new();
        for i in 0..5 {
            let (a, joint, b) = d.joined(&["&lt;", "&amp;", " ", "é", "&quot;", "&#233;", "'", "/"]);
            let (name, value) = (
                d.random.one_of(&["Password", "apiKey", "w:sessionToken", "secretValue", "pinCode"]),
                format!("{a}{joint}{b}"),
            );
            all += &match i {
                0 => format!("<{name}><b>{value}</b><c/></{name}>"),
                1 => format!("<b x=\"y\" token=\"{value}\"/>"),
                2 => format!("<add key=\"DbPassword\" value=\"{value}\"/>"),
                3 => format!("<{name}><![CDATA[{a}<{b}]]></{name}>"),
                _ => format!("<{name} x='y'>{value}</{name}>"),
            };
        }
        body("text/xml", format!("<?xml version=\"1.0\"?><a xmlns:w=\"u\">{all}<n>1</n></a>"))
    }),
    ("HTML", |d| {
        let s: Vec<String> = (0..6).map(|_| d.secret()).collect();
        body(
            "text/html",
            format!(
                "<!DOCTYPE html><p>Hi<form><input type=hidden name=\"csrf_token\" value=\"{}\"><input id=x name=password value='{}'>\
             <input type=password name=field1 value=\"{}\"><meta content=\"{}\" name=\"csrf-token\"></form>\
             <script>var a={{password:\"a\\\"{}\",b:c.token}};fetch('/x?access_token={}')</script><p>end",
                s[0], s[1], s[2], s[3], s[4], s[5]
            ),
        )
    }),
    ("GraphQL", |d| {
        let (a, b) = (d.secret(), d.secret());
        body(
            "application/graphql",
            format!("mutation {{ login(name: \"x\", password: \"{a}\", apiKey: \"{b}\") {{ id }} }}"),
        )
    }),
    ("multipart", |d| {
        let (a, joint, b) = d.joined(&["\r\n", " ", "\"", "--", "é", "="]);
        let (c, e, f) = (d.secret(), d.secret(), d.secret());
        body(
            "multipart/form-data; boundary=\"Xy-1\"",
            format!(
                "--Xy-1\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\n{a}{joint}{b}\r\n\
             --Xy-1\r\nContent-Disposition: form-data; name=\"b\"\r\n\r\nhello\r\n\
             --Xy-1\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.json\"\r\nContent-Type: application/json\r\n\r\n{{\"token\":\"{c}\"}}\r\n\
             --Xy-1\r\nContent-Disposition: form-data; name=\"m\"\r\nContent-Type: multipart/mixed; boundary=z\r\n\r\n--z\r\nContent-Type: text/plain\r\n\r\npassword={e}\r\n--z--\r\n\r\n\
             --Xy-1\r\nContent-Disposition: form-data; name=\"p\"\r\nContent-Transfer-Encoding: base64\r\n\r\n{}\r\n--Xy-1--\r\n",
                base64(f.as_bytes())
            ),
        )
    }),
    ("gRPC", |d| {
        let text = |number: u8, value: &[u8]| [&[number << 3 | 2, value.len() as u8], value].concat();
        let (a, joint, b) = d.joined(&["\n", " ", "é", "\r\n", "\t"]);
        let inner =
            [text(1, d.secret().as_bytes()), vec![0x10, 7], text(3, format!("{a}{joint}{b}").as_bytes())]
                .concat();
        let message = [
            text(1, b"\n\x05hello"),
            text(2, &inner),
            text(5, d.secret().as_bytes()),
            vec![0x1d, 1, 2, 3, 4],
        ]
        .concat();
        let frame = [&[0, 0, 0, 0, message.len() as u8], &message[..]].concat();
        vec![Body("application/grpc", [frame.clone(), frame].concat())]
    }),
    ("gRPC with JSON", |d| {
        let message = format!("{{\"password\":\"{}\"}}", d.secret());
        vec![Body("application/grpc+json", [&[0, 0, 0, 0, message.len() as u8], message.as_bytes()].concat())]
    }),
    ("events", |d| {
        let (a, b) = (d.secret(), d.secret());
        body(
            "text/event-stream",
            format!("data: {{\"a\":1,\"api_key\":\"{a}\"}}\n\nevent: x\ndata: password={b}\n\n"),
        )
    }),
    ("text", |d| {
        let mut text = "a first line\n".to_owned();
        for lead in [
            "password=",
            "PASSWORD: ",
            "password:\t",
            "password          = ",
            "\"token\": \"",
            "Authorization: Bearer ",
            "Cookie: a=b; sid=",
            "https://me:",
        ] {
            text += lead;
            text += &d.secret();
            text += match lead {
                "https://me:" => "@host/x\n",
                _ if lead.ends_with('"') => "\"\n",
                _ => "\n",
            };
        }
        let (a, _, b) = d.joined(&[""]);
        text += &format!("password = \"{a}\\\"{b}\"\n\"secrets\": [\"{}\"]\n", d.secret());
        body("text/plain", text)
    }),
    ("script", |d| {
        let s: Vec<String> = (0..3).map(|_| d.secret()).collect();
        body(
            "text/javascript",
            format!(
                "var a={{password:\"{}\",'api_key':'{}'}},b=c.token;x.secret = `{}`;/* {} */\n",
                s[0],
                s[1],
                s[2],
                token(d)
            ),
        )
    }),
    ("JWT", |d| body("text/plain", format!("see {} there {}.\n", jwt(d), jwt(d)))),
    ("private key", |d| {
        let label = d.random.one_of(&["RSA ", "", "EC ", "OPENSSH ", "ENCRYPTED "]);
        let lines: Vec<String> = (0..3).map(|_| d.long(64)).collect();
        let end = d.random.one_of(&["\n", "\r\n", "\\n"]);
        let pem = format!(
            "-----BEGIN {label}PRIVATE KEY-----{end}{}{end}-----END {label}PRIVATE KEY-----{end}",
            lines.join(end)
        );
        match end {
            "\\n" => body("application/json", format!("{{\"k\":\"{pem}\"}}")),
            _ => body("text/plain", format!("a\n{pem}b\n")),
        }
    }),
    ("token of a known format", |d| {
        let all: Vec<String> = (0..6).map(|_| token(d)).collect();
        body(
            "text/plain",
            format!("{}\n", all.join(d.random.one_of(&[" ", "\n", ",", "\"", "(", "=", ": ", "/"]))),
        )
    }),
    ("card", |d| {
        let all: Vec<String> = (0..6).map(|_| d.card()).collect();
        let between = d.random.one_of(&["\n", ", ", ";", "\t", "|"]);
        body("text/plain", format!("cards: {}\n", all.join(between)))
    }),
    ("card in a form", |d| {
        let (a, b) = (d.card(), d.card());
        body(
            "application/x-www-form-urlencoded",
            format!("a={}&n=1&b={}", a.replace(' ', "+"), b.replace(' ', "%20")),
        )
    }),
    ("e-mail", |d| {
        let all: Vec<String> = (0..4)
            .map(|_| {
                let (a, joint, b) = d.joined(&[".", "+", "_", "-", "é", "'"]);
                format!("{a}{joint}{b}@{}.example", d.secret())
            })
            .collect();
        body("text/plain", format!("write to {}.\n", all.join(d.random.one_of(&[" ", ", ", "\n", ">;<"]))))
    }),
    ("not a text", |d| vec![Body("text/plain", d.secret().bytes().flat_map(|b| [b, 0]).collect())]),
    ("compressed and not said so", |d| {
        let packed = super::carry::gzip(format!("password={}", d.secret()).as_bytes());
        d.planted.push((d.label.clone(), packed[18..packed.len() - 8].to_vec()));
        vec![Body("text/plain", packed)]
    }),
    ("unknown type", |d| {
        vec![Body("application/octet-stream", format!("\0\u{1}{}", d.secret()).into_bytes())]
    }),
    ("long line", |d| {
        // Each is in another place of a line without an end.
        let mut text = "{\"log\":\"".to_owned();
        for i in 0..40 {
            let (at, a) = (700 * i + d.random.below(700), d.secret());
            text += &"lorem ".repeat(text.len().abs_diff(at.max(text.len())) / 6);
            text += &match i % 3 {
                0 => token(d),
                1 => format!("password={a}"),
                _ => format!("{a}@corp.example"),
            };
            text.push(' ');
        }
        body("application/json", text + "\"}")
    }),
    ("long script", |d| {
        let mut text = "var a=1;".to_owned();
        for i in 0..40 {
            let (at, a) = (500 * i + d.random.below(500), d.joined(&[" ", ";", ">"]));
            while text.len() < at {
                text += "function f(a){return a>1};";
            }
            text += &match i % 3 {
                0 => format!("\"{}\"", token(d)),
                1 => format!("x={{password:\"{}{}{}\"}}", a.0, a.1, a.2),
                _ => format!("'{}'", jwt(d)),
            };
            text.push(';');
        }
        body("application/javascript", text)
    }),
];

fn body(media: &'static str, text: String) -> Vec<Spot> {
    vec![Body(media, text.into_bytes())]
}
