use tls2pcap::discover::Discovery;
use tls2pcap::probe::*;
fn main() {
    let be = std::env::args().nth(1).and_then(|a| Backend::ALL.into_iter().find(|b| b.as_str() == a));
    let mut p = match Probe::load(&Options {
        backend: be,
        targets_only: true,
        uids: vec![],
        pids: vec![],
        call_limit: 1 << 20,
        ring_bytes: 1 << 24,
    }) {
        Ok(p) => p,
        Err(e) => {
            eprintln!("{e}");
            std::process::exit(1)
        }
    };
    eprintln!("{} {:?} bulk {}", p.backend(), p.refused(), p.bulk());
    let mut d = Discovery::default();
    let f = d.at(std::path::Path::new("/lib/x86_64-linux-gnu/libssl.so.3")).unwrap();
    let t = std::time::Instant::now();
    println!("{:?}", p.attach(&f));
    println!("{:?}", t.elapsed());
    p.set_ready(true);
    let r = p.ring().unwrap();
    let mut c = std::process::Command::new("sh")
        .arg("-c")
        .arg("read x; exec curl -sk https://localhost:9443/")
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    p.add_target(c.id(), Target::Command).unwrap();
    drop(c.stdin.take());
    let t = std::time::Instant::now();
    let pid = c.id() as i32;
    r.run(
        std::time::Duration::from_millis(10),
        |b| {
            for x in b {
                println!("{:?}", tls2pcap::event::record::decode(&x));
            }
        },
        |n| {
            if let Notice::File(f) = n {
                eprintln!("{f:?}");
                p.mark_seen(&f);
                if f.stopped {
                    unsafe {
                        libc::kill(f.pid as i32, libc::SIGCONT);
                    }
                }
            }
        },
        |idle| t.elapsed().as_secs() < 3 || !idle,
    )
    .unwrap();
    let _ = pid;
    let _ = c.wait();
    println!("{:?}", p.counters());
    println!("{:?}", p.ends());
    let t = std::time::Instant::now();
    drop(p);
    println!("detach {:?}", t.elapsed());
}
