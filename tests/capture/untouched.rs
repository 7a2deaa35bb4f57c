//! Who is no target has no breakpoint in its code, though it has mapped a library that is probed for others.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use crate::sites::{Talk, assert_whole, own_copy, proven};
use crate::support::process::children;
use crate::support::programs::{PYTHON, Told};
use crate::support::{Process, Test, begin, until};

/// Whether the code of a library in the memory of a process differs from that in its file.
#[track_caller]
fn is_touched(pid: u32, library: &Path) -> bool {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let name = library.file_name().unwrap().to_str().unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let (mut compared, mut is_touched) = (0, false);
    for line in maps.lines().filter(|line| line.contains(" r-xp ") && line.ends_with(&format!("/{name}"))) {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next().unwrap().split_once('-').unwrap();
        let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
        let (start, offset) = (hex(start), hex(fields.nth(1).unwrap()));
        let mut code = vec![0; (hex(end) - start) as usize];
        memory.read_exact_at(&mut code, start).unwrap();
        let path = format!("/proc/{pid}/root{}", fields.last().unwrap());
        let file = std::fs::read(path).unwrap();
        let file = &file[offset as usize..];
        // The last page goes on behind the file's end.
        let len = file.len().min(code.len());
        is_touched |= file[..len] != code[..len];
        compared += len;
    }
    assert!(compared > 0, "process {pid} has not mapped {name}:\n{maps}");
    is_touched
}

/// A program that talks through the library, beside the capture; it has a folder of its own.
fn beside(test: &Test, talk: &Talk, name: &str) -> Process {
    let words = talk.words_in(test, name);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg("wait");
    let mut program = Process::start(&mut command, test.path(&format!("{name}.err")));
    program.line();
    program
}

#[test]
fn a_bystander_of_a_command_has_no_breakpoints() {
    let test = begin!();
    let talk = Talk::through(own_copy(&test));
    let mut bystander = beside(&test, &talk, "bystander");
    let running = test.capture().args(&["-v"]).start(&talk.words(&test));
    until("the exports to be taken over", || proven(4)(&talk.said(&running.process.stderr())).then_some(()));
    let target = children(running.process.pid())[0];
    assert!(is_touched(target, &talk.library), "else there is nothing to be seen");
    assert!(!is_touched(bystander.pid(), &talk.library));
    // Nor has one that comes later.
    let mut late = beside(&test, &talk, "late");
    assert!(!is_touched(late.pid(), &talk.library));
    let (finished, told) = talk.finished(running, |_| true);
    assert_whole(&test, &finished, &told);
    for program in [&mut bystander, &mut late] {
        program.go_on();
        program.go_on();
        program.wait_ok();
    }
}

#[test]
fn a_bystander_of_a_process_has_no_breakpoints() {
    let test = begin!();
    let talk = Talk::through(own_copy(&test));
    let mut bystander = beside(&test, &talk, "bystander");
    let words = talk.words(&test);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg("wait");
    let mut program = Process::start(&mut command, test.path("program.err"));
    let told: Vec<Told> = (0..2).map(|_| Told::parse(&program.line()).unwrap()).collect();
    let running = test.capture().args(&["-v"]).attach(&[program.pid()]);
    assert!(is_touched(program.pid(), &talk.library), "else there is nothing to be seen");
    assert!(!is_touched(bystander.pid(), &talk.library));
    program.go_on();
    program.go_on();
    program.wait_ok();
    let finished = running.stop().ok();
    assert_whole(&test, &finished, &told);
    bystander.go_on();
    bystander.go_on();
    bystander.wait_ok();
}

/// Fork copies the breakpoints of its parent.
#[test]
fn a_child_that_is_no_target_loses_its_breakpoints() {
    const PROGRAM: &str = "\
import os, ssl, sys
print('ready', flush=True)
sys.stdin.readline()
child = os.fork()
if child:
    print(child, flush=True)
sys.stdin.readline()
";
    let test = begin!();
    let library = Path::new("libssl.so.3");
    let mut program = Process::start(Command::new(PYTHON).args(["-c", PROGRAM]), test.path("program.err"));
    assert_eq!(program.line(), "ready");
    let running = test.capture().args(&["--no-follow"]).attach(&[program.pid()]);
    program.go_on();
    let child: u32 = program.line().parse().unwrap();
    assert!(is_touched(program.pid(), library), "else there is nothing to be seen");
    until("the child to have no breakpoints", || (!is_touched(child, library)).then_some(()));
    assert!(is_touched(program.pid(), library));
    program.close_stdin();
    program.wait_ok();
    running.stop().ok();
}
