//! Functions of OpenSSL that end in a jump through a table of methods: `jmp *0x50(%rax)`, where the handle says which table. All
//! tables are known, since functions with names give them out, and where in them a function stands is in the jump.

use std::cell::OnceCell;

use iced_x86::{Code, Instruction, InstructionInfoFactory, OpKind, Register};
use object::ReadRef;

use super::{Function, NEAR, Program};
use crate::discover::code::writes;
use crate::discover::image::{Image, Pointer};
use crate::discover::internal::Site;

/// What chooses one of the two functions that shake hands, and keeps it in the handle.
const STATES: [&[u8]; 2] = [b"SSL_set_accept_state", b"SSL_set_connect_state"];

/// Where a jump takes its target from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A table that the handle names, at this distance from its beginning.
    Table(u64),
    /// The handle itself, at this distance.
    Handle(u64),
}

/// The tables of a file.
#[derive(Debug, Default)]
pub(super) struct Methods(OnceCell<Vec<u64>>);

impl Methods {
    /// The functions to which a jump may lead; none if that is not known.
    pub(super) fn targets<'d, R: ReadRef<'d>>(
        &self,
        from: Source,
        image: &Image<'d, R>,
        site: &Site<'_, 'd, R>,
        program: &impl Program<'d>,
    ) -> Vec<u64> {
        let tables = self.0.get_or_init(|| tables(site, program));
        let at: Vec<u64> = match from {
            Source::Table(distance) => vec![distance],
            Source::Handle(distance) => {
                let chosen =
                    STATES.map(|name| stored_by(program.function(site.address_named(name)?)?, distance));
                chosen.into_iter().flatten().collect()
            }
        };
        if tables.is_empty() || at.is_empty() {
            return Vec::new();
        }
        let pointers = image.pointers();
        let function = |place: u64| {
            let address = match pointers.get(&place) {
                Some(Pointer::Address(address)) => *address,
                Some(Pointer::Import(_)) => return None,
                None => u64::from_le_bytes(image.bytes_at(place, 8)?.try_into().ok()?),
            };
            site.is_function(address).then_some(address)
        };
        let places = tables.iter().flat_map(|table| at.iter().map(|at| table.wrapping_add(*at)));
        let mut targets: Vec<u64> = places.filter_map(function).collect();
        targets.sort_unstable();
        targets.dedup();
        targets
    }
}

/// The tables that functions with names such as `TLS_client_method` return.
fn tables<'d, R: ReadRef<'d>>(site: &Site<'_, 'd, R>, program: &impl Program<'d>) -> Vec<u64> {
    let gives = |name: &[u8]| {
        let of_tls = [&b"TLS"[..], b"SSLv", b"DTLS"].iter().any(|start| name.starts_with(start));
        of_tls && name.ends_with(b"_method")
    };
    let table = |address: u64| {
        let code = program.function(address)?.all()?;
        code.iter().find_map(|i| match i.code() {
            Code::Lea_r64_m if i.is_ip_rel_memory_operand() => Some(i.ip_rel_memory_address()),
            Code::Mov_r32_imm32 => Some(i.immediate(1)),
            _ => None,
        })
    };
    site.functions().filter(|(name, _)| gives(name)).filter_map(|(_, address)| table(address)).collect()
}

/// Where in a table the function stands that is put into a handle, at this distance in it.
fn stored_by(code: Function<'_>, distance: u64) -> Option<u64> {
    let all = code.all()?;
    let stores = |i: &Instruction| i.code() == Code::Mov_rm64_r64 && i.op0_kind() == OpKind::Memory;
    let at = all.iter().position(|i| stores(i) && i.memory_displacement64() == distance)?;
    let (_, load) = written(&all, at, all[at].op1_register())?;
    plain_load(load)
}

/// Where a jump takes its target from, in the code of its function.
pub(super) fn source(all: &[Instruction], jump: &Instruction) -> Option<Source> {
    let at = all.binary_search_by_key(&jump.ip(), Instruction::ip).ok()?;
    let (at, load) = match jump.op0_kind() {
        OpKind::Register => written(all, at, jump.op0_register())?,
        _ => (at, jump),
    };
    let distance = plain_load(load)?;
    match written(all, at, load.memory_base()) {
        Some((_, base)) if plain_load(base).is_some() => Some(Source::Table(distance)),
        // An argument, or moved from there.
        None => Some(Source::Handle(distance)),
        Some((_, base)) if base.op1_kind() == OpKind::Register => Some(Source::Handle(distance)),
        Some(_) => None,
    }
}

/// The last instruction before one that writes to a register.
fn written(all: &[Instruction], before: usize, register: Register) -> Option<(usize, &Instruction)> {
    let mut info = InstructionInfoFactory::new();
    let writes_to = |i: &Instruction| {
        let used = info.info(i);
        used.used_registers().iter().any(|r| writes(r.access()) && r.register().full_register() == register)
    };
    let near = &all[before.saturating_sub(2 * NEAR)..before];
    let mut writes_to = writes_to;
    near.iter().enumerate().rev().find(|(_, i)| writes_to(i)).map(|(n, i)| (before - near.len() + n, i))
}

/// Distance from a register at which an instruction finds an address, if it does nothing else.
fn plain_load(i: &Instruction) -> Option<u64> {
    let is_load = matches!(i.code(), Code::Mov_r64_rm64 | Code::Jmp_rm64);
    let by_register = ![Register::None, Register::RIP, Register::RSP].contains(&i.memory_base());
    let memory = i.op_kind(i.op_count() - 1) == OpKind::Memory;
    (is_load && memory && by_register && i.memory_index() == Register::None)
        .then(|| i.memory_displacement64())
}
