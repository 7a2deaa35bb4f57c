//! What the beginning of a function stores: addresses of code and of imports that it writes to fixed places
//! before its first branch. Compilers turn constant tables into such code.

use std::collections::{BTreeMap, HashMap};

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register,
};

use super::code::writes;
use super::image::Pointer;

/// Where the stack is thought to be: no file has anything there.
const STACK: u64 = 1 << 62;
/// Most places that are remembered.
const STORES_MAX: usize = 1 << 12;

/// The 8-byte words that the code at `start` stores, by address. What cannot be followed is left out.
pub(super) fn stores<'d>(
    code: &'d [u8],
    start: u64,
    load: &dyn Fn(u64) -> Option<Pointer<'d>>,
) -> BTreeMap<u64, Pointer<'d>> {
    let mut machine = Machine {
        registers: HashMap::from([(Register::RSP, Pointer::Address(STACK))]),
        halves: HashMap::new(),
        memory: BTreeMap::new(),
        load,
    };
    let mut info = InstructionInfoFactory::new();
    for instruction in &mut Decoder::with_ip(64, code, start, DecoderOptions::NONE) {
        match instruction.flow_control() {
            FlowControl::Next => {}
            FlowControl::Call | FlowControl::IndirectCall => {
                machine.call();
                continue;
            }
            _ => break,
        }
        if instruction.is_invalid() || machine.memory.len() > STORES_MAX {
            break;
        }
        if machine.step(&instruction).is_none() {
            machine.forget(&mut info, &instruction);
        }
    }
    machine.memory.retain(|address, _| *address < STACK / 2);
    machine.memory
}

struct Machine<'a, 'd> {
    registers: HashMap<Register, Pointer<'d>>,
    /// The two 8-byte halves of vector registers.
    halves: HashMap<(Register, u8), Pointer<'d>>,
    memory: BTreeMap<u64, Pointer<'d>>,
    load: &'a dyn Fn(u64) -> Option<Pointer<'d>>,
}

type Known<'d> = Option<Pointer<'d>>;

impl<'d> Machine<'_, 'd> {
    /// A call returns with other registers, and this function's frame.
    fn call(&mut self) {
        use Register::{R12, R13, R14, R15, RBP, RBX, RSP};
        self.registers.retain(|register, _| [RBX, RBP, RSP, R12, R13, R14, R15].contains(register));
        self.halves.clear();
    }

    /// Follows an instruction; `None`: it is not one of those that are understood.
    fn step(&mut self, i: &Instruction) -> Option<()> {
        match i.mnemonic() {
            Mnemonic::Lea => {
                let address = self.address(i).map(Pointer::Address);
                self.set(i.op0_register(), address);
            }
            Mnemonic::Mov => match (i.op0_kind(), i.op1_kind()) {
                (OpKind::Register, OpKind::Memory) if i.op0_register().is_gpr64() => {
                    let value = self.address(i).and_then(|at| self.read(at));
                    self.set(i.op0_register(), value);
                }
                (OpKind::Register, OpKind::Register) if i.op0_register().is_gpr64() => {
                    let value = self.registers.get(&i.op1_register()).copied();
                    self.set(i.op0_register(), value);
                }
                (OpKind::Register, _) if i.op0_register().is_gpr64() || i.op0_register().is_gpr32() => {
                    self.set(i.op0_register().full_register(), Some(Pointer::Address(number(i)?)));
                }
                (OpKind::Memory, OpKind::Register) if i.op1_register().is_gpr64() => {
                    let value = self.registers.get(&i.op1_register()).copied();
                    self.store(i, 0, value)?;
                }
                (OpKind::Memory, OpKind::Register) if i.op1_register().is_gpr32() => {
                    let value = self.registers.get(&i.op1_register().full_register()).copied();
                    self.store(
                        i,
                        0,
                        value.filter(|v| matches!(v, Pointer::Address(n) if *n <= u32::MAX.into())),
                    )?;
                }
                (OpKind::Memory, _) if i.memory_size().size() >= 4 => {
                    let value = Pointer::Address(number(i)?);
                    self.store(i, 0, Some(value))?;
                }
                _ => return None,
            },
            Mnemonic::Push if i.op0_register().is_gpr64() => {
                let value = self.registers.get(&i.op0_register()).copied();
                let top = self.shift(8u64.wrapping_neg())?;
                self.write(top, value);
            }
            Mnemonic::Sub if i.op0_register() == Register::RSP => {
                self.shift(number(i)?.wrapping_neg())?;
            }
            Mnemonic::Add if i.op0_register() == Register::RSP => {
                self.shift(number(i)?)?;
            }
            Mnemonic::Movq => match (i.op0_kind(), i.op1_kind()) {
                (OpKind::Memory, _) => {
                    let value = self.halves.get(&(i.op1_register(), 0)).copied();
                    self.store(i, 0, value)?;
                }
                _ if i.op0_register().is_xmm() => {
                    let value = self.source(i)?;
                    self.set_half(i.op0_register(), 0, value);
                    self.set_half(i.op0_register(), 1, Some(Pointer::Address(0)));
                }
                _ => return None,
            },
            Mnemonic::Movhps | Mnemonic::Movhpd | Mnemonic::Movlps | Mnemonic::Movlpd => {
                let half = u8::from(matches!(i.mnemonic(), Mnemonic::Movhps | Mnemonic::Movhpd));
                if i.op0_kind() == OpKind::Memory {
                    let value = self.halves.get(&(i.op1_register(), half)).copied();
                    self.store(i, 0, value)?;
                } else {
                    let value = self.source(i)?;
                    self.set_half(i.op0_register(), half, value);
                }
            }
            Mnemonic::Punpcklqdq | Mnemonic::Movlhps => {
                let value = self.source(i)?;
                self.set_half(i.op0_register(), 1, value);
            }
            Mnemonic::Pinsrq => {
                let value = self.source(i)?;
                self.set_half(i.op0_register(), i.immediate8() & 1, value);
            }
            Mnemonic::Movaps
            | Mnemonic::Movups
            | Mnemonic::Movapd
            | Mnemonic::Movupd
            | Mnemonic::Movdqa
            | Mnemonic::Movdqu => {
                for half in [0u8, 1] {
                    let from = (i.op1_register(), half);
                    if i.op0_kind() == OpKind::Memory {
                        let value = self.halves.get(&from).copied();
                        self.store(i, u64::from(half) * 8, value)?;
                    } else {
                        let value = match i.op1_kind() {
                            OpKind::Memory => {
                                self.address(i).and_then(|at| self.read(at.wrapping_add(u64::from(half) * 8)))
                            }
                            _ => self.halves.get(&from).copied(),
                        };
                        self.set_half(i.op0_register(), half, value);
                    }
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// Whatever the instruction may change is unknown from here on.
    fn forget(&mut self, info: &mut InstructionInfoFactory, i: &Instruction) {
        let used = info.info(i);
        for register in used.used_registers().iter().filter(|r| writes(r.access())) {
            let register = register.register().full_register();
            self.registers.remove(&register);
            // Vector registers are named by their longest form.
            self.halves.retain(|(half, _), _| half.full_register() != register);
        }
        let Some(memory) = used.used_memory().iter().find(|m| writes(m.access())) else { return };
        match self.address(i).filter(|_| !i.is_string_instruction()) {
            Some(at) => {
                let end = at.saturating_add(memory.memory_size().size() as u64);
                self.memory.retain(|known, _| known.saturating_add(8) <= at || *known >= end);
            }
            // Elsewhere, but not in this function's frame.
            None => self.memory.retain(|known, _| *known >= STACK / 2),
        }
    }

    /// The instruction's second operand, 8 bytes of it.
    fn source(&self, i: &Instruction) -> Option<Known<'d>> {
        Some(match i.op1_kind() {
            OpKind::Memory => self.address(i).and_then(|at| self.read(at)),
            OpKind::Register if i.op1_register().is_gpr64() => self.registers.get(&i.op1_register()).copied(),
            OpKind::Register if i.op1_register().is_xmm() => self.halves.get(&(i.op1_register(), 0)).copied(),
            _ => return None,
        })
    }

    /// Address of the instruction's memory operand.
    fn address(&self, i: &Instruction) -> Option<u64> {
        if i.is_ip_rel_memory_operand() {
            return Some(i.ip_rel_memory_address());
        }
        let plain = i.memory_index() == Register::None && i.segment_prefix() == Register::None;
        match self.registers.get(&i.memory_base()).filter(|_| plain)? {
            Pointer::Address(base) => Some(base.wrapping_add(i.memory_displacement64())),
            Pointer::Import(_) => None,
        }
    }

    fn read(&self, at: u64) -> Known<'d> {
        self.memory.get(&at).copied().or_else(|| (self.load)(at))
    }

    /// `None`, and nothing done: it is not known where.
    fn store(&mut self, i: &Instruction, offset: u64, value: Known<'d>) -> Option<()> {
        let at = self.address(i)?.wrapping_add(offset);
        self.write(at, value);
        Some(())
    }

    fn write(&mut self, at: u64, value: Known<'d>) {
        self.memory.retain(|known, _| known.saturating_add(8) <= at || *known >= at.saturating_add(8));
        if let Some(value) = value {
            self.memory.insert(at, value);
        }
    }

    fn set(&mut self, register: Register, value: Known<'d>) {
        match value {
            Some(value) => self.registers.insert(register, value),
            None => self.registers.remove(&register),
        };
    }

    fn set_half(&mut self, register: Register, half: u8, value: Known<'d>) {
        match value {
            Some(value) => self.halves.insert((register, half), value),
            None => self.halves.remove(&(register, half)),
        };
    }

    /// Moves the stack pointer, and gives it.
    fn shift(&mut self, by: u64) -> Option<u64> {
        let Pointer::Address(top) = *self.registers.get(&Register::RSP)? else { return None };
        let top = top.wrapping_add(by);
        self.registers.insert(Register::RSP, Pointer::Address(top));
        Some(top)
    }
}

/// The instruction's immediate operand.
fn number(i: &Instruction) -> Option<u64> {
    i.try_immediate(1).ok()
}
