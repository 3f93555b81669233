//! From the kernel's entry to the program's function.

use alloc::string::ToString;
use core::cell::Cell;
use core::ffi::{CStr, c_char};
use core::panic::PanicInfo;
use core::ptr;

use crate::{Strings, exit, stderr};

/// `AT_EXECFN` (getauxval(3)).
const EXECUTED: usize = 31;

/// What the program was started with.
#[derive(Clone, Copy)]
pub struct Start {
    arguments: Strings<'static>,
    environment: Strings<'static>,
    executed: &'static CStr,
}

impl Start {
    /// # Safety
    /// `stack` is the stack's top at the program's start, or an array that looks like it: the
    /// arguments' count, the arguments, the environment, and the auxiliary vector, of which the
    /// former two end with a null pointer and the last with an entry of kind 0 (System V ABI,
    /// "Process Initialization"; the kernel's `create_elf_tables`). It stays for good.
    unsafe fn from_stack(stack: *const usize) -> Self {
        // SAFETY: the lists are where the ABI says; nobody changes them (invariant 2).
        let (arguments, environment) = unsafe {
            let arguments = Strings::new(stack.wrapping_add(1).cast());
            (arguments, Strings::new(arguments.end()))
        };
        let mut entry = environment.end().cast::<[usize; 2]>();
        let executed = loop {
            // SAFETY: the vector goes on to its entry of kind 0.
            let [kind, value] = unsafe { *entry };
            if kind == 0 {
                break c"";
            }
            if kind == EXECUTED {
                let path = ptr::with_exposed_provenance::<c_char>(value);
                // SAFETY: an entry of this kind is the address of a C string.
                break unsafe { CStr::from_ptr(path) };
            }
            entry = entry.wrapping_add(1);
        };
        Self {
            arguments,
            environment,
            executed,
        }
    }

    /// The arguments, the program's name first.
    pub fn arguments(&self) -> Strings<'static> {
        self.arguments
    }

    /// The environment, each entry `NAME=VALUE` unless somebody made up another one.
    pub fn environment(&self) -> Strings<'static> {
        self.environment
    }

    /// The path that was passed to `execve`; empty if unknown.
    pub fn executed(&self) -> &'static CStr {
        self.executed
    }

    /// A variable's value, the first if it is there more than once (getenv(3)).
    pub fn variable(&self, name: &[u8]) -> Option<&'static [u8]> {
        self.environment.into_iter().find_map(|entry| {
            let value = entry.to_bytes().strip_prefix(name)?;
            value.strip_prefix(b"=")
        })
    }
}

/// What a shell says of a program that was aborted.
const ABORTED: u8 = 128 + 6;

/// The program, or a part of it; what it returns is the exit status.
type Function = fn(&Start) -> u8;

/// What is done after a panic, once.
pub struct Rescue(Cell<Option<(Start, Function)>>);

// SAFETY: the program has one thread (invariant 1).
unsafe impl Sync for Rescue {}

impl Rescue {
    /// Nothing yet.
    #[expect(clippy::new_without_default, reason = "it has to be const")]
    pub const fn new() -> Self {
        Self(Cell::new(None))
    }
}

/// Runs the program; called by its entry.
///
/// # Safety
/// `stack` is the stack's top at the program's start.
pub unsafe fn enter(
    stack: *const usize,
    main: Function,
    rescue: &Rescue,
    otherwise: Function,
) -> ! {
    // SAFETY: the caller's.
    let start = unsafe { Start::from_stack(stack) };
    rescue.0.set(Some((start, otherwise)));
    exit(main(&start))
}

/// Says what is wrong with the program, and has it do the other thing; called by its panic handler.
pub fn panicked(info: &PanicInfo<'_>, rescue: &Rescue) -> ! {
    // Taken, so that a panic in there is the last one.
    let rescue = rescue.0.take();
    let text = info.to_string();
    for part in ["droste: ", &text, "\n"] {
        let _ = rustix::io::write(stderr(), part.as_bytes());
    }
    match rescue {
        Some((start, otherwise)) => exit(otherwise(&start)),
        None => exit(ABORTED),
    }
}

/// Never called, since a panic does not unwind.
pub fn unwound() -> ! {
    exit(ABORTED)
}

/// Makes the crate that it stands in a program without a C library: `program!(main, otherwise)`,
/// where both are of type `fn(&Start) -> u8`, given what the program was started with and
/// returning its exit status. The second runs after a panic in the first.
///
/// The crate is `#![no_main]`, is linked with `-nostartfiles`, and where panics abort also
/// `#![no_std]`. Where they do not, as in tests, the standard library is needed to catch them,
/// and only for that.
#[macro_export]
macro_rules! program {
    ($main:path, $otherwise:path) => {
        static __RESCUE: $crate::entry::Rescue = $crate::entry::Rescue::new();

        // SAFETY: the program has one thread.
        #[global_allocator]
        static __ARENA: $crate::Arena = unsafe { $crate::Arena::new() };

        unsafe extern "C" fn __enter(stack: *const usize) -> ! {
            // SAFETY: the entry passes the stack's top.
            unsafe { $crate::entry::enter(stack, $main, &__RESCUE, $otherwise) }
        }

        // The stack is aligned as the calling convention wants it, and has no caller.
        #[cfg(target_arch = "x86_64")]
        ::core::arch::global_asm!(
            ".pushsection .text._start,\"ax\",@progbits",
            ".globl _start",
            ".type _start,@function",
            "_start:",
            "xor ebp, ebp",
            "mov rdi, rsp",
            "and rsp, -16",
            "call {enter}",
            "ud2",
            ".size _start, . - _start",
            ".popsection",
            enter = sym __enter,
        );

        #[cfg(target_arch = "aarch64")]
        ::core::arch::global_asm!(
            ".pushsection .text._start,\"ax\",@progbits",
            ".globl _start",
            ".type _start,@function",
            "_start:",
            "mov x29, #0",
            "mov x30, #0",
            "mov x0, sp",
            "bl {enter}",
            "brk #1",
            ".size _start, . - _start",
            ".popsection",
            enter = sym __enter,
        );

        #[cfg(panic = "abort")]
        mod __bare {
            #[panic_handler]
            fn panicked(info: &::core::panic::PanicInfo<'_>) -> ! {
                $crate::entry::panicked(info, &super::__RESCUE)
            }

            // The standard library's parts are compiled for unwinding, and name what does it.
            #[unsafe(no_mangle)]
            extern "C" fn rust_eh_personality() -> ! {
                $crate::entry::unwound()
            }

            #[unsafe(no_mangle)]
            extern "C" fn _Unwind_Resume() -> ! {
                $crate::entry::unwound()
            }

            // SAFETY, of all: they do what C's functions of these names do.
            #[unsafe(no_mangle)]
            unsafe extern "C" fn memcpy(target: *mut u8, source: *const u8, len: usize) -> *mut u8 {
                unsafe { $crate::memory::copy(target, source, len) }
            }

            #[unsafe(no_mangle)]
            unsafe extern "C" fn memmove(target: *mut u8, source: *const u8, len: usize) -> *mut u8 {
                unsafe { $crate::memory::copy_overlapping(target, source, len) }
            }

            #[unsafe(no_mangle)]
            unsafe extern "C" fn memset(target: *mut u8, byte: i32, len: usize) -> *mut u8 {
                unsafe { $crate::memory::fill(target, byte as u8, len) }
            }

            #[unsafe(no_mangle)]
            unsafe extern "C" fn memcmp(one: *const u8, other: *const u8, len: usize) -> i32 {
                unsafe { $crate::memory::compare(one, other, len) }
            }

            #[unsafe(no_mangle)]
            unsafe extern "C" fn bcmp(one: *const u8, other: *const u8, len: usize) -> i32 {
                unsafe { $crate::memory::compare(one, other, len) }
            }

            #[unsafe(no_mangle)]
            unsafe extern "C" fn strlen(string: *const u8) -> usize {
                unsafe { $crate::memory::length(string) }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(with_executed: bool) -> Start {
        let text = |text: &'static CStr| text.as_ptr().expose_provenance();
        let executed = [EXECUTED, text(c"./cc")];
        let stack = alloc::vec![
            2,
            text(c"cc"),
            text(c"-c"),
            0,
            text(c"AB=no"),
            text(c"odd"),
            text(c"A=1=2"),
            text(c"A=3"),
            text(c"EMPTY="),
            0,
            6,
            4096,
        ];
        let mut stack = stack;
        if with_executed {
            stack.extend(executed);
        }
        stack.extend([0, 0]);
        let stack: &'static [usize] = stack.leak();
        // SAFETY: it is laid out as the kernel does it, and leaked.
        unsafe { Start::from_stack(stack.as_ptr()) }
    }

    #[test]
    fn a_start_is_read_from_the_stack() {
        let start = start(true);
        assert!(start.arguments().eq([c"cc", c"-c"]));
        let environment = [c"AB=no", c"odd", c"A=1=2", c"A=3", c"EMPTY="];
        assert!(start.environment().eq(environment));
        assert_eq!(start.executed(), c"./cc");
    }

    #[test]
    fn a_variable_is_found_by_its_whole_name() {
        let start = start(false);
        assert_eq!(start.variable(b"A"), Some(b"1=2".as_slice()));
        assert_eq!(start.variable(b"EMPTY"), Some(b"".as_slice()));
        assert_eq!(start.variable(b"odd"), None);
        assert_eq!(start.variable(b"B"), None);
        assert_eq!(start.executed(), c"");
    }
}
