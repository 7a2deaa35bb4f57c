use super::cheap::{self, Cheap, Value};
use super::methods::Source;
use super::{Cost, Function, Program, Unclear, Walked, cheap_behind, walk};

const NONE: &[u8] = b"\xcc";
const RBX: u8 = 3;

/// Functions that begin at 0 and at 32, and a table at 64. An import at 0x1000 is the second function.
struct Two<'c>(&'c [u8], &'c [u8], &'c [i32]);

impl<'c> Program<'c> for Two<'c> {
    fn function(&self, at: u64) -> Option<Function<'c>> {
        let (bytes, start) = if at < 32 { (self.0, 0) } else { (self.1, 32) };
        (at < start + bytes.len() as u64).then_some(Function { start, bytes })
    }

    fn leads_to(&self, at: u64) -> Option<u64> {
        (at == 0x1000).then_some(32)
    }

    fn targets(&self, from: Source) -> Vec<u64> {
        (from == Source::Table(0x50)).then_some(32).into_iter().collect()
    }

    fn distance(&self, at: u64) -> Option<i32> {
        self.2.get(at.checked_sub(64)? as usize / 4).copied()
    }
}

fn walked(first: &[u8]) -> Walked {
    walk(0, &Two(first, NONE, &[])).unwrap()
}

fn returns(first: &[u8], second: &[u8]) -> Result<Vec<u64>, Unclear> {
    walk(0, &Two(first, second, &[-64 + 17])).map(|walked| walked.returns())
}

#[test]
fn each_path_is_followed_to_its_return() {
    // push rbx; je +2; pop rbx; ret; pop rbx; rep ret
    assert_eq!(returns(b"\x53\x74\x02\x5b\xc3\x5b\xf3\xc3", NONE), Ok(vec![4, 6]));
    // jmp to the second function, and a return there behind a call
    assert_eq!(returns(b"\xe9\x1b\0\0\0", b"\xe8\0\0\0\0\xc3"), Ok(vec![37]));
    // the same by the table of imports: jmp [rip + 0xffa]
    assert_eq!(returns(b"\xff\x25\xfa\x0f\0\0", b"\xe8\0\0\0\0\xc3"), Ok(vec![37]));
    // a call that does not return stands last
    assert_eq!(returns(b"\x74\x01\xc3\xe8\0\0\0\0", NONE), Ok(vec![2]));
    // ud2 ends a path
    assert_eq!(returns(b"\x74\x02\x0f\x0b\xc3", NONE), Ok(vec![4]));
}

#[test]
fn tables_of_jumps_stay_inside() {
    // lea rdx, [rip+57]; movslq rax, [rdx+rax*4]; add rax, rdx; jmp rax; ret; nop; ret
    let table = b"\x48\x8d\x15\x39\0\0\0\x48\x63\x04\x82\x48\x01\xd0\xff\xe0\xc3\x90\xc3";
    assert_eq!(returns(table, NONE), Ok(vec![16, 18]));
    // the same with an address from elsewhere: mov rax, [rdx+rax*4]; jmp rax
    assert_eq!(returns(b"\x48\x8b\x04\x82\xff\xe0\xc3", NONE), Err(Unclear::Jump));
}

#[test]
fn jumps_through_tables_of_methods() {
    // mov rax, [rdi+8]; mov rdi, rbx; mov rax, [rax+0x50]; jmp rax
    let method = b"\x48\x8b\x47\x08\x48\x89\xdf\x48\x8b\x40\x50\xff\xe0";
    assert_eq!(returns(method, b"\xe8\0\0\0\0\xc3"), Ok(vec![37]));
    // mov rax, [rdi+8]; jmp [rax+0x50]; then [rax+0x58], where nothing is known to be
    assert_eq!(returns(b"\x48\x8b\x47\x08\xff\x60\x50", b"\x90\xc3"), Ok(vec![33]));
    assert_eq!(returns(b"\x48\x8b\x47\x08\xff\x60\x58", b"\x90\xc3"), Err(Unclear::Jump));
    // of the handle itself: jmp [rdi+0x50]
    assert_eq!(returns(b"\xff\x67\x50", b"\x90\xc3"), Err(Unclear::Jump));
}

#[test]
fn what_is_not_understood_is_not_taken() {
    assert_eq!(returns(b"\x74\x02\xff\xe0\xc3", NONE), Err(Unclear::Jump)); // jmp rax
    assert_eq!(returns(b"\x74\x01\xc3\x06", NONE), Err(Unclear::Code)); // no instruction
    assert_eq!(returns(b"\xc2\x08\x00", NONE), Err(Unclear::Code)); // ret 8
    assert_eq!(returns(b"\x90\x90", NONE), Err(Unclear::Code)); // it runs over its end
    assert_eq!(returns(b"\xeb\x40", NONE), Err(Unclear::Code)); // to where no function is
    assert_eq!(returns(b"\xeb\xfe", NONE), Err(Unclear::NoReturn));
    // mov eax, 0xc3, and a jump to the last four bytes of it
    assert_eq!(returns(b"\x74\x01\xb8\xc3\0\0\0\xc3", NONE), Err(Unclear::Code));
}

#[test]
fn a_jump_stands_for_the_return_that_it_leads_to() {
    // test ecx, ecx; jne +10; add rsp, 0x18; pop rbx; xor edx, edx; pop r12; ret; ud2
    let code = b"\x85\xc9\x75\x0a\x48\x83\xc4\x18\x5b\x31\xd2\x41\x5c\xc3\x0f\x0b";
    let equal = Some(4);
    let found = |depth, value| vec![Cheap { at: 2, depth, value, when: equal }];
    assert_eq!(cheap::before(&walked(code), 13), found(5, Value::Ready));
    // mov eax, ebx before rbx is taken from the stack, and after it
    let moved = b"\x85\xc9\x75\x06\x89\xd8\x5b\x31\xd2\xc3\x0f\x0b";
    assert_eq!(cheap::before(&walked(moved), 9), found(1, Value::Unsigned(RBX)));
    let late = b"\x85\xc9\x75\x06\x5b\x89\xd8\x31\xd2\xc3\x0f\x0b";
    assert_eq!(cheap::before(&walked(late), 9), []);
    // movslq rax, ebx; xor eax, eax; mov eax, -1
    let signed = b"\x85\xc9\x75\x05\x48\x63\xc3\x5b\xc3\x0f\x0b";
    assert_eq!(cheap::before(&walked(signed), 8), found(1, Value::Signed(RBX)));
    assert_eq!(
        cheap::before(&walked(b"\x85\xc9\x75\x03\x31\xc0\xc3\x0f\x0b"), 6),
        found(0, Value::Constant(0))
    );
    let constant = b"\x85\xc9\x75\x06\xb8\xff\xff\xff\xff\xc3\x0f\x0b";
    assert_eq!(cheap::before(&walked(constant), 9), found(0, Value::Half(-1)));
    // something is written first: mov [rsi], eax
    assert_eq!(cheap::before(&walked(b"\x85\xc9\x75\x03\x89\x06\xc3\x0f\x0b"), 6), []);
}

#[test]
fn each_way_to_a_return_passes_a_jump() {
    // je to the ret; test ecx, ecx; jne to the ret; nop; ret
    let both = b"\x85\xc0\x74\x05\x85\xc9\x75\x01\x90\xc3";
    let at = |at, when| Cheap { at, depth: 0, value: Value::Ready, when };
    let mut found = cheap::before(&walked(both), 9);
    found.sort_by_key(|cheap| (cheap.at, cheap.when));
    assert_eq!(found, [at(2, Some(4)), at(6, Some(4)), at(6, Some(5))]);
    // in a loop, where it would be passed often: nop; je to the nop; ret
    assert_eq!(cheap::before(&walked(b"\x90\x74\xfd\xc3"), 3), []);
    // one way passes none
    assert_eq!(cheap::before(&walked(b"\x90\xc3"), 1), []);
    // behind a call
    assert_eq!(cheap::before(&walked(b"\x74\x05\xe8\0\0\0\0\xc3"), 7), []);
}

#[test]
fn where_a_caller_goes_on() {
    let behind = |bytes: &[u8]| cheap_behind(&Function { start: 0x100, bytes }, 0x100);
    // test eax, eax; jle +2
    assert_eq!(behind(b"\x85\xc0\x7e\x02\xc3"), Some((0x102, Cost::Emulated)));
    // xor edx, edx; test eax, eax; cmovs eax, edx; jle
    assert_eq!(behind(b"\x31\xd2\x85\xc0\x0f\x48\xc2\x7e\x02"), Some((0x100, Cost::Stepped)));
    // mov [rsp], ecx; jle
    assert_eq!(behind(b"\x89\x0c\x24\x7e\x02"), Some((0x100, Cost::Stepped)));
    assert_eq!(behind(b"\xc3"), Some((0x100, Cost::Stepped)));
    assert_eq!(behind(b"\x06"), None);
}
