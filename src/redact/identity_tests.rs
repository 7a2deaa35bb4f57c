//! Addresses and names in whole conversations, comments and text.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::super::{Engine, Identity, Key, RulesBuilder, comment, note};

fn engine() -> Engine {
    let both = RulesBuilder {
        addresses: Identity::Pseudonyms,
        names: Identity::Pseudonyms,
        ..RulesBuilder::default()
    };
    Engine::new(both.build(Key([9; 16])).unwrap())
}

/// A text, and that again as if it were redacted: then all stays.
fn done(text: &str) -> String {
    let mut engine = engine();
    let mut bytes = text.as_bytes().to_vec();
    note(&mut engine, &mut bytes);
    let once = String::from_utf8(bytes.clone()).unwrap();
    assert_eq!(once.len(), text.len());
    engine.recognise(true);
    assert_eq!(note(&mut engine, &mut bytes), [], "{once}");
    assert_eq!(once.as_bytes(), bytes);
    once
}

fn four(address: &str) -> String {
    Ipv4Addr::from(engine().addresses().v4(address.parse::<Ipv4Addr>().unwrap().octets())).to_string()
}

fn six(address: &str) -> String {
    Ipv6Addr::from(engine().addresses().v6(address.parse::<Ipv6Addr>().unwrap().octets())).to_string()
}

#[test]
fn an_address_has_its_pseudonym_wherever_it_is() {
    let (a, b) = ("93.184.216.34", "2001:db8:77::12:1");
    let (new_a, new_b) = (four(a), six(b));
    assert!(new_a != a && new_b != b);
    for text in [
        "<4> and <6>",
        "connect to <4>:443 or [<6>]:443 failed",
        "<4>.",
        "(<4>,<6>)",
        "{\"ip\":\"<4>\",\"six\":\"<6>\",\"n\":\"\\n<4>\"}",
        "http://<4>/x?y=<4> http://[<6>]:80/",
        "url=http%3A%2F%2F<4>%2F",
        "<4>/24 <4>-<4>",
        "ip=<4>;six=<6>",
        "for=<4>;by=\"[<6>]:47011\"",
    ] {
        let text = text.replace("<4>", a).replace("<6>", b);
        let expected = text.replace(a, &new_a).replace(b, &new_b);
        assert_eq!(done(&text), expected);
    }
    let long = "2001:0db8:0077:0000:0000:0000:0012:0001";
    assert_eq!(done(long).parse::<Ipv6Addr>().unwrap().to_string(), new_b, "spelled in another way");
    assert_eq!(done(&b.to_ascii_uppercase()), new_b.to_ascii_uppercase());
    assert_eq!(done("::ffff:93.184.216.34"), format!("::ffff:{new_a}"));
    assert_ne!(done("link 02:42:ac:11:00:7b up"), "link 02:42:ac:11:00:7b up");
    for stays in [
        "version 1.2.3 of 12:34:56",
        "std::vec<x::b>",
        "127.0.0.1 ::1 0.0.0.0",
        "v93.184.216.34 93.184.216.34.5",
        "1.2.3.400",
    ] {
        assert_eq!(done(stays), stays);
    }
}

#[test]
fn a_name_has_its_pseudonym_wherever_it_is() {
    let mut both = b"https://shop.corp.example/".to_vec();
    note(&mut engine(), &mut both);
    let name = String::from_utf8(both).unwrap()[8..25].to_owned();
    assert!(name.ends_with(".example") && !name.contains("shop") && !name.contains("corp"), "{name}");
    for text in [
        "see NAME.",
        "http://NAME:8080/x ws:\\/\\/NAME\\/",
        "redirect=https%3A%2F%2FNAME%2Fx",
        "*.NAME 'self'",
        "{\"host\":\"NAME\",\"a\":\"\\nNAME\"}",
    ] {
        let text = text.replace("NAME", "shop.corp.example");
        assert_eq!(done(&text), text.replace("shop.corp.example", &name));
    }
    let (a, b) = (done("http://a.corp.example/"), done("http://b.corp.example/"));
    assert_eq!(a[8..], b[8..], "the same domain");
    assert_ne!(a[..8], b[..8]);
    let home = done("/home/bert/.netrc C:\\Users\\bert\\x /~bert/y {\"user\":\"bert\"} user=bert");
    let bert = &home[6..10];
    assert!(bert != "bert" && !home.contains("bert"), "{home}");
    assert_eq!(home.matches(bert).count(), 5, "{home}");
    for stays in ["http://localhost:80/ app.js main.rs obj.value /home/ user-agent: x", "README.md 10.20 a.b"]
    {
        assert_eq!(done(stays), stays);
    }
}

#[test]
fn comments_keep_their_grammar() {
    let text = "tls2pcap=1 conn=1 pid=7 exe=/home/bert/bin/x cookie=12345 local=10.0.0.5:33 remote=[2001:db8::7]:443 \
                written_client=10.0.0.5:34 sni=shop.corp.example start=1.0";
    let mut bytes = text.as_bytes().to_vec();
    comment(&mut engine(), &mut bytes);
    let new = String::from_utf8(bytes).unwrap();
    let keys = |text: &str| {
        text.split(' ').map(|pair| pair.split('=').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(keys(&new), keys(text));
    assert!(new.contains(&format!("local={}:33", four("10.0.0.5"))), "{new}");
    assert!(new.contains(&format!("written_client={}:34", four("10.0.0.5"))), "{new}");
    assert!(new.contains(&format!("remote=[{}]:443", six("2001:db8::7"))), "{new}");
    assert!(new.contains("pid=7") && new.contains("cookie=12345 ") && !new.contains("bert"), "{new}");
    assert!(!new.contains("shop") && new.contains(".example start=1.0"), "{new}");
}

#[test]
fn without_the_option_all_stays() {
    let mut engine = Engine::new(RulesBuilder::default().build(Key([9; 16])).unwrap());
    let text = "http://shop.corp.example:80/ 93.184.216.34 /home/bert/x {\"user\":\"bert\"}";
    let mut bytes = text.as_bytes().to_vec();
    assert_eq!(note(&mut engine, &mut bytes), []);
    assert_eq!(bytes, text.as_bytes());
}
