//! Proves that an export is no more than a wrapper of the internal function behind it.
//!
//! All paths through the export's machine code are walked with what is known of each register. The proof
//! holds if each path either returns a constant that means "nothing moved", or calls the internal
//! function exactly once with the export's own handle and buffer and then returns what that
//! gave, with no other call, no write but to its own stack frame, and no condition but on that
//! result. Then the internal function moves just what the export moves, whatever the arguments.

use std::collections::{BTreeMap, HashMap};

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register,
};
use object::ReadRef;

use super::code::{CODE_MAX, writes};
use super::function::Function;
use super::image::Image;

/// Steps after which a proof is given up. That of OpenSSL's exports takes about 60.
const STEPS_MAX: usize = 4096;
/// Longest x86 instruction.
const INSTRUCTION_MAX: u64 = 15;
/// `flags` of the internal write function, where it has any, are smaller; addresses are not.
const FLAGS_MAX: i64 = 4096;

/// Why an export cannot be shown to be a wrapper of the internal function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    /// Machine code cannot be read, or is not understood.
    #[error("has code that is not understood")]
    Code,
    /// It calls something else.
    #[error("calls another function")]
    OtherCall,
    /// The internal function gets another handle, buffer, or place for the count.
    #[error("gives the internal function other arguments")]
    Arguments,
    /// It writes to memory that is not its stack frame.
    #[error("writes to memory itself")]
    Writes,
    /// It does not return what the internal function returned.
    #[error("returns something else")]
    Result,
    /// What it returns depends on more than the internal function's result.
    #[error("decides by more than the result")]
    Condition,
}

/// What the walk needs to know of the file.
pub(super) struct Surroundings<'a, 'd, R: ReadRef<'d>> {
    pub(super) image: &'a Image<'d, R>,
    pub(super) text: std::ops::Range<u64>,
    /// Name of the function at an address of the file, or of the import behind a PLT entry there; empty if the function
    /// has none.
    pub(super) name_at: &'a dyn Fn(u64) -> Option<Vec<u8>>,
    /// Name of the import whose address the loader puts into this place.
    pub(super) import_in: &'a dyn Fn(u64) -> Option<Vec<u8>>,
}

/// What is known of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Unknown,
    /// The export's argument, counted from 0.
    Argument(u8),
    Constant(i64),
    /// Address in the frame, relative to the return address.
    Stack(i64),
    /// What the internal function returned.
    Result,
    /// The count that it stored.
    Count,
    /// One of the two, or a constant that means "nothing moved".
    Outcome,
}

impl Value {
    fn join(self, other: Value) -> Value {
        match (self, other) {
            (a, b) if a == b => a,
            (a, b) if a.is_outcome() && b.is_outcome() => Value::Outcome,
            _ => Value::Unknown,
        }
    }

    fn is_outcome(self) -> bool {
        matches!(self, Value::Result | Value::Count | Value::Outcome) || self.is_nothing()
    }

    /// A constant that says that nothing was moved.
    fn is_nothing(self) -> bool {
        matches!(self, Value::Constant(n) if n as i32 <= 0)
    }
}

/// What the flags tell about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flags {
    Unknown,
    /// The internal function's result.
    Result,
    /// Whether the stack protector's canary lives.
    Canary,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    registers: [Value; 16],
    /// Values in the frame, by address.
    frame: BTreeMap<i64, Value>,
    flags: Flags,
}

impl State {
    fn at_entry() -> State {
        let mut registers = [Value::Unknown; 16];
        for (index, register) in
            [Register::RDI, Register::RSI, Register::RDX, Register::RCX, Register::R8, Register::R9]
                .into_iter()
                .enumerate()
        {
            registers[register.number()] = Value::Argument(index as u8);
        }
        registers[Register::RSP.number()] = Value::Stack(0);
        State { registers, frame: BTreeMap::new(), flags: Flags::Unknown }
    }

    fn get(&self, register: Register) -> Value {
        match register.full_register() {
            full if full.is_gpr64() => self.registers[full.number()],
            _ => Value::Unknown,
        }
    }

    fn set(&mut self, register: Register, value: Value) {
        let full = register.full_register();
        if full.is_gpr64() {
            self.registers[full.number()] = value;
        }
    }

    fn stack(&self) -> Option<i64> {
        match self.get(Register::RSP) {
            Value::Stack(at) => Some(at),
            _ => None,
        }
    }

    /// Address in the frame of the instruction's memory operand.
    fn frame_address(&self, instruction: &Instruction) -> Option<i64> {
        let base = instruction.memory_base();
        if !base.is_gpr64() || instruction.memory_index() != Register::None {
            return None;
        }
        match self.get(base) {
            Value::Stack(at) => at.checked_add(instruction.memory_displacement64() as i64),
            _ => None,
        }
    }

    /// `size` bytes are written at this address of the frame.
    fn clobber(&mut self, at: i64, size: i64) {
        self.frame.retain(|slot, _| *slot + 8 <= at || at.saturating_add(size) <= *slot);
    }

    /// A function was called, of which only the convention is known.
    fn called(&mut self) {
        use Register::{R8, R9, R10, R11, RAX, RCX, RDI, RDX, RSI};
        for register in [RAX, RCX, RDX, RSI, RDI, R8, R9, R10, R11] {
            self.set(register, Value::Unknown);
        }
        self.frame.clear();
        self.flags = Flags::Unknown;
    }

    fn join(&mut self, other: &State) -> bool {
        let before = self.clone();
        for (mine, theirs) in self.registers.iter_mut().zip(&other.registers) {
            *mine = mine.join(*theirs);
        }
        self.frame = std::mem::take(&mut self.frame)
            .into_iter()
            .filter_map(|(at, value)| Some((at, value.join(*other.frame.get(&at)?))))
            .collect();
        if self.flags != other.flags {
            self.flags = Flags::Unknown;
        }
        *self != before
    }
}

/// Where a step leads.
enum Next {
    /// To these addresses, with the state as it is then.
    To(Vec<u64>),
    /// To the return from the internal function.
    Internal(u64),
    /// The path ends.
    End,
}

/// Proves that the export at `start` is a wrapper of the function at `internal`, or jumps to the
/// export of the name `through`, which is one. Tells whether the internal function gets flags before the place for the count.
pub(super) fn wraps<'d, R: ReadRef<'d>>(
    around: &Surroundings<'_, 'd, R>,
    export: Function,
    start: u64,
    internal: u64,
    through: Option<Function>,
) -> Result<bool, Unproven> {
    let mut walk =
        Walk { around, export, internal, through, has_flags: false, info: InstructionInfoFactory::new() };
    // By address, and whether the internal function was called.
    let mut known: HashMap<(u64, bool), State> = HashMap::new();
    let mut todo = vec![(start, false)];
    known.insert((start, false), State::at_entry());
    for _ in 0..STEPS_MAX {
        let Some((at, inner)) = todo.pop() else { return Ok(walk.has_flags) };
        let mut state = known[&(at, inner)].clone();
        let instruction = walk.decode(at)?;
        let (targets, inner) = match walk.step(&instruction, &mut state, inner)? {
            Next::To(targets) => (targets, inner),
            Next::Internal(target) => (vec![target], true),
            Next::End => continue,
        };
        for target in targets {
            let key = (target, inner);
            let changed = match known.get_mut(&key) {
                Some(old) => old.join(&state),
                None => {
                    known.insert(key, state.clone());
                    true
                }
            };
            if changed {
                todo.push(key);
            }
        }
    }
    Err(Unproven::Code)
}

struct Walk<'a, 'd, R: ReadRef<'d>> {
    around: &'a Surroundings<'a, 'd, R>,
    export: Function,
    internal: u64,
    through: Option<Function>,
    has_flags: bool,
    info: InstructionInfoFactory,
}

impl<'d, R: ReadRef<'d>> Walk<'_, 'd, R> {
    fn decode(&self, at: u64) -> Result<Instruction, Unproven> {
        let text = &self.around.text;
        if !text.contains(&at) {
            return Err(Unproven::OtherCall);
        }
        let len = INSTRUCTION_MAX.min(text.end - at).min(CODE_MAX);
        let code = self.around.image.code(at, len).ok_or(Unproven::Code)?;
        let instruction = Decoder::with_ip(64, code, at, DecoderOptions::NONE).decode();
        if instruction.is_invalid() { Err(Unproven::Code) } else { Ok(instruction) }
    }

    /// Name of the function that a call or jump leads to.
    fn target_name(&self, instruction: &Instruction) -> Option<Vec<u8>> {
        match instruction.flow_control() {
            FlowControl::Call | FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch => {
                (self.around.name_at)(instruction.near_branch_target())
            }
            _ if instruction.is_ip_rel_memory_operand() => {
                (self.around.import_in)(instruction.ip_rel_memory_address())
            }
            _ => None,
        }
    }

    fn step(&mut self, instruction: &Instruction, state: &mut State, inner: bool) -> Result<Next, Unproven> {
        let next = instruction.next_ip();
        match instruction.flow_control() {
            FlowControl::Next => {
                self.execute(instruction, state, inner)?;
                Ok(Next::To(vec![next]))
            }
            FlowControl::Return => {
                if state.stack() != Some(0) {
                    return Err(Unproven::Code);
                }
                let value = state.get(Register::RAX);
                let fits = if inner { value.is_outcome() } else { value.is_nothing() };
                if fits { Ok(Next::End) } else { Err(Unproven::Result) }
            }
            FlowControl::ConditionalBranch => {
                if !instruction.is_jcc_short_or_near() || inner && state.flags == Flags::Unknown {
                    return Err(Unproven::Condition);
                }
                let target = instruction.near_branch_target();
                if target == self.internal {
                    return Err(Unproven::OtherCall);
                }
                Ok(Next::To(vec![target, next]))
            }
            FlowControl::UnconditionalBranch => {
                let target = instruction.near_branch_target();
                if target == self.internal {
                    self.call_internal(state, inner)?;
                    // It returns for the export.
                    return if state.stack() == Some(0) { Ok(Next::End) } else { Err(Unproven::Code) };
                }
                match self.target_name(instruction) {
                    None => Ok(Next::To(vec![target])),
                    Some(name) => self.jump_away(&name, state, inner),
                }
            }
            FlowControl::IndirectBranch => match self.target_name(instruction) {
                Some(name) => self.jump_away(&name, state, inner),
                None => Err(Unproven::OtherCall),
            },
            FlowControl::Call if instruction.near_branch_target() == self.internal => {
                self.call_internal(state, inner)?;
                Ok(Next::Internal(next))
            }
            FlowControl::Call | FlowControl::IndirectCall => {
                let name = self.target_name(instruction);
                // What is called for a dead canary does not return, and may have no name.
                let is_end = match name.as_deref() {
                    None | Some(b"") => state.flags == Flags::Canary,
                    Some(name) => name == b"__stack_chk_fail" || name == b"abort",
                };
                if is_end {
                    return Ok(Next::End);
                }
                name.ok_or(Unproven::OtherCall)?;
                if inner {
                    return Err(Unproven::OtherCall);
                }
                state.called();
                Ok(Next::To(vec![next]))
            }
            FlowControl::Interrupt | FlowControl::Exception => Ok(Next::End),
            FlowControl::XbeginXabortXend => Err(Unproven::Code),
        }
    }

    /// A jump to another export, with our arguments.
    fn jump_away(&self, name: &[u8], state: &State, inner: bool) -> Result<Next, Unproven> {
        let through = self.through.is_some_and(|function| function.symbol().as_bytes() == name);
        if !through || inner || state.stack() != Some(0) {
            return Err(Unproven::OtherCall);
        }
        let own = state.get(Register::RDI) == Value::Argument(0)
            && state.get(Register::RSI) == Value::Argument(1)
            && state.get(Register::RDX) == Value::Argument(2)
            && matches!(state.get(Register::RCX), Value::Constant(0..FLAGS_MAX))
            && state.get(Register::R8) == Value::Argument(3);
        if own { Ok(Next::End) } else { Err(Unproven::Arguments) }
    }

    fn call_internal(&mut self, state: &mut State, inner: bool) -> Result<(), Unproven> {
        if inner {
            return Err(Unproven::OtherCall);
        }
        let (fourth, fifth) = (state.get(Register::RCX), state.get(Register::R8));
        let is_flags = matches!(fourth, Value::Constant(0..FLAGS_MAX));
        // As the kernel side reads it (site_entered in bpf/sites.bpf.h).
        let count_at = match (self.export, fourth) {
            (Function::Read | Function::Write, Value::Stack(at)) => Some(at),
            (Function::ReadEx | Function::WriteEx, Value::Argument(3)) => None,
            (Function::Write, _) if is_flags => match fifth {
                Value::Stack(at) => Some(at),
                _ => return Err(Unproven::Arguments),
            },
            (Function::WriteEx, _) if is_flags && fifth == Value::Argument(3) => None,
            (Function::WriteEx2, Value::Argument(3)) if fifth == Value::Argument(4) => None,
            _ => return Err(Unproven::Arguments),
        };
        self.has_flags |= is_flags || self.export == Function::WriteEx2;
        if state.get(Register::RDI) != Value::Argument(0) || state.get(Register::RSI) != Value::Argument(1) {
            return Err(Unproven::Arguments);
        }
        state.called();
        state.set(Register::RAX, Value::Result);
        if let Some(at) = count_at {
            state.frame.insert(at, Value::Count);
        }
        Ok(())
    }

    /// An instruction that leads to the next one.
    fn execute(&mut self, i: &Instruction, state: &mut State, inner: bool) -> Result<(), Unproven> {
        let (to, from) = (i.op0_register(), i.op1_register());
        let kinds = (i.op0_kind(), i.op_count().checked_sub(2).map(|_| i.op1_kind()));
        let is_wide = |register: Register| register.size() >= 4;
        let flags = self.flags_of(i, state);
        let value = match (i.mnemonic(), kinds) {
            (Mnemonic::Push, _) => {
                let at = state.stack().ok_or(Unproven::Code)? - i64::from(-i.stack_pointer_increment());
                let value = if kinds.0 == OpKind::Register { state.get(to) } else { Value::Unknown };
                state.set(Register::RSP, Value::Stack(at));
                state.clobber(at, 8);
                state.frame.insert(at, value);
                return Ok(());
            }
            (Mnemonic::Pop, (OpKind::Register, _)) => {
                let at = state.stack().ok_or(Unproven::Code)?;
                let value = state.frame.get(&at).copied().unwrap_or(Value::Unknown);
                state.set(Register::RSP, Value::Stack(at + 8));
                state.set(to, value);
                return Ok(());
            }
            (Mnemonic::Leave, _) => {
                let Value::Stack(at) = state.get(Register::RBP) else { return Err(Unproven::Code) };
                let value = state.frame.get(&at).copied().unwrap_or(Value::Unknown);
                state.set(Register::RSP, Value::Stack(at + 8));
                state.set(Register::RBP, value);
                return Ok(());
            }
            (Mnemonic::Mov, (OpKind::Register, Some(OpKind::Register))) if is_wide(to) => {
                match (state.get(from), to.size()) {
                    (value, 8) => value,
                    // What is left of an address is none.
                    (Value::Argument(_) | Value::Stack(_), _) => Value::Unknown,
                    (value, _) => value,
                }
            }
            (Mnemonic::Mov, (OpKind::Register, Some(OpKind::Memory))) if is_wide(to) => {
                let slot = state.frame_address(i).and_then(|at| state.frame.get(&at).copied());
                match slot.unwrap_or(Value::Unknown) {
                    Value::Argument(_) | Value::Stack(_) if to.size() < 8 => Value::Unknown,
                    value => value,
                }
            }
            (Mnemonic::Mov, (OpKind::Register, Some(_))) if is_wide(to) => {
                Value::Constant(i.immediate(1) as i64)
            }
            (Mnemonic::Mov, (OpKind::Memory, Some(OpKind::Register))) if from.size() == 8 => {
                let at = state.frame_address(i).ok_or(Unproven::Writes)?;
                state.clobber(at, 8);
                state.frame.insert(at, state.get(from));
                return Ok(());
            }
            (Mnemonic::Xor | Mnemonic::Sub, (OpKind::Register, Some(OpKind::Register)))
                if to == from && is_wide(to) =>
            {
                Value::Constant(0)
            }
            (Mnemonic::Add | Mnemonic::Sub, (OpKind::Register, Some(kind)))
                if to.size() == 8 && kind != OpKind::Register && kind != OpKind::Memory =>
            {
                let by = i.immediate(1) as i64;
                let by = if i.mnemonic() == Mnemonic::Sub { by.checked_neg() } else { Some(by) };
                match (state.get(to), by) {
                    (Value::Stack(at), Some(by)) => at.checked_add(by).map_or(Value::Unknown, Value::Stack),
                    _ => Value::Unknown,
                }
            }
            (Mnemonic::Or, (OpKind::Register, Some(kind)))
                if is_wide(to) && !matches!(kind, OpKind::Register | OpKind::Memory) =>
            {
                // A short way to load -1.
                if i.immediate(1) as i64 == -1 { Value::Constant(-1) } else { Value::Unknown }
            }
            (Mnemonic::Lea, (OpKind::Register, _)) if to.size() == 8 => {
                state.frame_address(i).map_or(Value::Unknown, Value::Stack)
            }
            _ if i.condition_code() != iced_x86::ConditionCode::None && kinds.0 == OpKind::Register => {
                // cmov; setcc gives nothing that is known.
                if inner && state.flags == Flags::Unknown {
                    return Err(Unproven::Condition);
                }
                let source = match kinds.1 {
                    Some(OpKind::Register) => state.get(from),
                    Some(OpKind::Memory) => state
                        .frame_address(i)
                        .and_then(|at| state.frame.get(&at).copied())
                        .unwrap_or(Value::Unknown),
                    _ => Value::Unknown,
                };
                if is_wide(to) { state.get(to).join(source) } else { Value::Unknown }
            }
            _ => return self.execute_other(i, state, flags),
        };
        state.set(to, value);
        state.flags = flags;
        Ok(())
    }

    /// An instruction of which only is asked what it changes.
    fn execute_other(&mut self, i: &Instruction, state: &mut State, flags: Flags) -> Result<(), Unproven> {
        let info = self.info.info(i);
        if i.is_privileged() || i.is_save_restore_instruction() || i.has_rep_prefix() || i.has_repne_prefix()
        {
            return Err(Unproven::Code);
        }
        for memory in info.used_memory().iter().filter(|m| writes(m.access())) {
            let at = state.frame_address(i).ok_or(Unproven::Writes)?;
            match memory.memory_size().size() {
                0 => return Err(Unproven::Writes),
                size => state.clobber(at, size as i64),
            }
        }
        for used in info.used_registers().iter().filter(|r| writes(r.access())) {
            if used.register().full_register() == Register::RSP {
                return Err(Unproven::Code);
            }
            state.set(used.register(), Value::Unknown);
        }
        state.flags = flags;
        Ok(())
    }

    /// What the flags tell about after this instruction.
    fn flags_of(&mut self, i: &Instruction, state: &State) -> Flags {
        /// Where the C libraries for x86-64 keep the canary, in the thread's block.
        const CANARY: u64 = 0x28;
        if i.rflags_modified() == 0 {
            return state.flags;
        }
        let is_result = matches!(i.mnemonic(), Mnemonic::Test | Mnemonic::Cmp)
            && i.op0_kind() == OpKind::Register
            && state.get(i.op0_register()) == Value::Result
            && match i.op1_kind() {
                OpKind::Register => i.op1_register() == i.op0_register(),
                OpKind::Memory => false,
                _ => true,
            };
        let is_canary = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory)
            && i.segment_prefix() == Register::FS
            && i.memory_base() == Register::None
            && i.memory_index() == Register::None
            && i.memory_displacement64() == CANARY;
        match (is_result, is_canary) {
            (true, _) => Flags::Result,
            (_, true) => Flags::Canary,
            _ => Flags::Unknown,
        }
    }
}
