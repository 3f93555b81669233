//! The system call filter of a build: no set-ID bits, no extended attributes.
//!
//! Both would be lost when outputs are canonicalised, and a set-ID file in a build directory was
//! a hole (CVE-2024-38531). What is refused, and with which error, is what Nix refuses, so that
//! programs see the same; removexattr(2) and the `*xattrat` calls are refused as their siblings.
//! Everything else is allowed. It is no wall by itself: an open(2) with a set-ID mode passes, and
//! what makes such a file harmless is that every mount is `nosuid`; what is asked of the kernel
//! through a ring (io_uring) it does not see at all.
//!
//! A kernel runs programs of several ABIs, each with numbers of its own; a program of an ABI not
//! listed passes unfiltered, and there is none on the kernels listed.

use droste_sys::Instruction;

use crate::calls;

/// The calls of one ABI, by number.
struct Abi {
    /// `AUDIT_ARCH_*` (seccomp(2)).
    arch: u32,
    /// Bits that some variant of it sets in numbers that are otherwise the same.
    variant_bits: u32,
    /// Calls that take file mode bits, and in which argument.
    mode_calls: &'static [(u32, u8)],
    /// Ranges of calls on extended attributes, first and last.
    xattr_calls: &'static [(u32, u32)],
}

/// setxattrat, getxattrat, listxattrat, removexattrat: the same numbers everywhere.
const XATTRAT: (u32, u32) = (463, 466);
/// fchmodat2: the same number everywhere.
const FCHMODAT2: (u32, u8) = (452, 2);

#[cfg(target_arch = "x86_64")]
const ABIS: &[Abi] = &[
    // x86-64, and x32, which sets __X32_SYSCALL_BIT and has the same numbers for these calls.
    Abi {
        arch: 0xC000_003E,
        variant_bits: 0x4000_0000,
        mode_calls: &[(90, 1), (91, 1), (268, 2), FCHMODAT2],
        xattr_calls: &[(188, 199), XATTRAT],
    },
    // i386.
    Abi {
        arch: 0x4000_0003,
        variant_bits: 0,
        mode_calls: &[(15, 1), (94, 1), (306, 2), FCHMODAT2],
        xattr_calls: &[(226, 237), XATTRAT],
    },
];

#[cfg(target_arch = "aarch64")]
const ABIS: &[Abi] = &[
    // AArch64, which has no chmod.
    Abi {
        arch: 0xC000_00B7,
        variant_bits: 0,
        mode_calls: &[(52, 1), (53, 2), FCHMODAT2],
        xattr_calls: &[(5, 16), XATTRAT],
    },
    // 32-bit Arm.
    Abi {
        arch: 0x4000_0028,
        variant_bits: 0,
        mode_calls: &[(15, 1), (94, 1), (333, 2), FCHMODAT2],
        xattr_calls: &[(226, 237), XATTRAT],
    },
];

const LOAD_WORD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const JUMP_BITS_SET: u16 = 0x45;
const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
/// Of the low half of the first argument; both architectures above are little-endian.
const OFFSET_ARGUMENTS: u32 = 16;

const ALLOW: u32 = 0x7FFF_0000;
const ERRNO: u32 = 0x0005_0000;
const USER_NOTIFICATION: u32 = 0x7FC0_0000;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// Also called EOPNOTSUPP.
const ENOTSUP: u32 = 95;
/// S_ISUID and S_ISGID.
const SET_ID_BITS: u32 = 0o6000;

const fn plain(code: u16, k: u32) -> Instruction {
    jump(code, k, 0, 0)
}

const fn jump(code: u16, k: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction {
        code,
        jump_true,
        jump_false,
        k,
    }
}

/// The filter as a program.
pub(crate) fn program() -> Vec<Instruction> {
    let mut program = vec![plain(LOAD_WORD, OFFSET_ARCH)];
    for abi in ABIS {
        let block = block(abi);
        let length = u8::try_from(block.len()).expect("the tables above are short");
        program.push(jump(JUMP_EQUAL, abi.arch, 0, length));
        program.extend(block);
    }
    program.push(plain(RETURN, ALLOW));
    program
}

fn block(abi: &Abi) -> Vec<Instruction> {
    let mut block = vec![plain(LOAD_WORD, OFFSET_NUMBER)];
    if abi.variant_bits != 0 {
        block.push(plain(AND, !abi.variant_bits));
    }
    for &(first, last) in abi.xattr_calls {
        block.extend([
            jump(JUMP_GREATER_OR_EQUAL, first, 0, 2),
            jump(JUMP_GREATER, last, 1, 0),
            plain(RETURN, ERRNO | ENOTSUP),
        ]);
    }
    for &(number, argument) in abi.mode_calls {
        block.extend([
            jump(JUMP_EQUAL, number, 0, 4),
            plain(LOAD_WORD, OFFSET_ARGUMENTS + 8 * u32::from(argument)),
            jump(JUMP_BITS_SET, SET_ID_BITS, 0, 1),
            plain(RETURN, ERRNO | EPERM),
            plain(RETURN, ALLOW),
        ]);
    }
    block.push(plain(RETURN, ALLOW));
    block
}

/// A second filter beside the first, of a sandbox whose lookups are watched: calls that find files
/// wait for the listener's word. Of what two filters say, the kernel does the stricter, and a
/// refusal is stricter than that. io_uring and x32 are as if the kernel did not have them.
pub(crate) fn watching_program() -> Vec<Instruction> {
    let mut program = vec![plain(LOAD_WORD, OFFSET_ARCH)];
    for abi in calls::ABIS {
        let mut block = vec![plain(LOAD_WORD, OFFSET_NUMBER)];
        if abi.variant_bits != 0 {
            block.extend([
                jump(JUMP_BITS_SET, abi.variant_bits, 0, 1),
                plain(RETURN, ERRNO | ENOSYS),
            ]);
        }
        block.extend([
            jump(JUMP_EQUAL, calls::IO_URING_SETUP, 0, 1),
            plain(RETURN, ERRNO | ENOSYS),
        ]);
        for number in abi.calls.iter().flat_map(|(_, numbers)| *numbers) {
            block.extend([
                jump(JUMP_EQUAL, *number, 0, 1),
                plain(RETURN, USER_NOTIFICATION),
            ]);
        }
        block.push(plain(RETURN, ALLOW));
        let length = u8::try_from(block.len()).expect("the tables of calls are short");
        program.push(jump(JUMP_EQUAL, abi.arch, 0, length));
        program.extend(block);
    }
    // Of an ABI that is not known nothing would be seen.
    program.push(plain(RETURN, ERRNO | ENOSYS));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arch: u32, number: u32, arguments: [u32; 3]) -> u32 {
        run_program(&program(), arch, number, arguments)
    }

    /// What the kernel would do with a program.
    fn run_program(program: &[Instruction], arch: u32, number: u32, arguments: [u32; 3]) -> u32 {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let Instruction {
                code,
                jump_true,
                jump_false,
                k,
            } = program[at];
            at += 1;
            let condition = match code {
                LOAD_WORD => {
                    accumulator = match k {
                        OFFSET_NUMBER => number,
                        OFFSET_ARCH => arch,
                        _ => arguments[(k - OFFSET_ARGUMENTS) as usize / 8],
                    };
                    continue;
                }
                AND => {
                    accumulator &= k;
                    continue;
                }
                RETURN => return k,
                JUMP_EQUAL => accumulator == k,
                JUMP_GREATER => accumulator > k,
                JUMP_GREATER_OR_EQUAL => accumulator >= k,
                JUMP_BITS_SET => accumulator & k != 0,
                _ => panic!("unknown instruction {code:#x}"),
            };
            at += usize::from(if condition { jump_true } else { jump_false });
        }
    }

    #[test]
    fn set_id_modes_are_refused_and_others_are_not() {
        for abi in ABIS {
            for variant in [0, abi.variant_bits] {
                for &(number, argument) in abi.mode_calls {
                    let mut arguments = [0o6000; 3];
                    arguments[usize::from(argument)] = 0o755;
                    assert_eq!(run(abi.arch, number | variant, arguments), ALLOW);
                    for mode in [0o4755, 0o2755, 0o6000] {
                        let mut arguments = [0; 3];
                        arguments[usize::from(argument)] = mode;
                        let action = run(abi.arch, number | variant, arguments);
                        assert_eq!(action, ERRNO | EPERM, "{number} {mode:o}");
                    }
                }
            }
        }
    }

    #[test]
    fn calls_on_extended_attributes_are_refused_and_their_neighbours_are_not() {
        for abi in ABIS {
            for variant in [0, abi.variant_bits] {
                for &(first, last) in abi.xattr_calls {
                    for number in first..=last {
                        let action = run(abi.arch, number | variant, [0; 3]);
                        assert_eq!(action, ERRNO | ENOTSUP, "{number}");
                    }
                    for number in [first - 1, last + 1] {
                        assert_eq!(run(abi.arch, number | variant, [0; 3]), ALLOW);
                    }
                }
            }
        }
    }

    #[test]
    fn other_architectures_pass() {
        assert_eq!(run(0, 90, [0o6000; 3]), ALLOW);
    }

    #[test]
    fn a_watched_sandbox_asks_about_paths_and_has_no_ring() {
        let program = watching_program();
        let run = |arch, number| run_program(&program, arch, number, [0; 3]);
        for abi in calls::ABIS {
            for number in 0..600 {
                let expected = match calls::call(abi.arch, number) {
                    Some(_) => USER_NOTIFICATION,
                    None if number == calls::IO_URING_SETUP => ERRNO | ENOSYS,
                    None => ALLOW,
                };
                assert_eq!(run(abi.arch, number), expected, "{number}");
                if abi.variant_bits != 0 {
                    let variant = run(abi.arch, number | abi.variant_bits);
                    assert_eq!(variant, ERRNO | ENOSYS, "{number}");
                }
            }
        }
        assert_eq!(run(0, 2), ERRNO | ENOSYS);
    }

    #[test]
    fn no_call_is_listed_twice_or_refused_anyway() {
        for abi in calls::ABIS {
            let mut numbers: Vec<u32> = abi.calls.iter().flat_map(|(_, n)| *n).copied().collect();
            let count = numbers.len();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), count);
            for number in numbers {
                assert_eq!(run(abi.arch, number, [0; 3]), ALLOW, "{number}");
            }
        }
    }
}
