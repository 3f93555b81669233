//! System call filters.

use rustix::io::Errno;

use crate::check;

/// One instruction of a classic BPF program (`struct sock_filter`, seccomp(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip if true.
    pub jump_true: u8,
    /// Instructions to skip if false.
    pub jump_false: u8,
    /// Operand.
    pub k: u32,
}

/// Installs a filter on this thread, and all that it makes, for good (seccomp(2),
/// `SECCOMP_SET_MODE_FILTER`). Needs no_new_privs.
pub fn seccomp_install_filter(program: &[Instruction]) -> Result<(), Errno> {
    with_program(program, |program| {
        // SAFETY: `program` points to instructions that live through the call, and the kernel
        // copies and checks them.
        check(unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, program)
        })
    })?;
    Ok(())
}

/// Calls `install` with the program as the kernel takes it.
pub(crate) fn with_program<T>(
    program: &[Instruction],
    install: impl FnOnce(*const libc::sock_fprog) -> Result<T, Errno>,
) -> Result<T, Errno> {
    let mut filter: Vec<libc::sock_filter> = program
        .iter()
        .map(|instruction| libc::sock_filter {
            code: instruction.code,
            jt: instruction.jump_true,
            jf: instruction.jump_false,
            k: instruction.k,
        })
        .collect();
    let program = libc::sock_fprog {
        len: filter.len().try_into().map_err(|_| Errno::TOOBIG)?,
        filter: filter.as_mut_ptr(),
    };
    install(&raw const program)
}
