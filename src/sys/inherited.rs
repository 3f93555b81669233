//! What the process was started with, which Rust's runtime changes before `main`.
//!
//! It ignores SIGPIPE and opens `/dev/null` where a standard descriptor is closed. Neither can be
//! undone without knowing what was there, and both go on to a program that is exec'ed.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use rustix::io::Errno;

use crate::last_errno;

static SIGPIPE_IGNORED: AtomicBool = AtomicBool::new(false);
/// Bit n: descriptor n was closed.
static CLOSED: AtomicU8 = AtomicU8::new(0);

// SAFETY: the C library calls what it finds in this section once, before `main`, in a process
// with one thread; `record` has the type that it expects (ld.so and crt1.o pass more arguments,
// which the C calling convention lets a function ignore).
#[used]
#[unsafe(link_section = ".init_array")]
static RECORD: extern "C" fn() = record;

extern "C" fn record() {
    // SAFETY: all-zero bytes are a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: no action is set, and the old one is written to a variable of the right type.
    let result = unsafe { libc::sigaction(libc::SIGPIPE, ptr::null(), &raw mut action) };
    if result == 0 && action.sa_sigaction == libc::SIG_IGN {
        SIGPIPE_IGNORED.store(true, Ordering::Relaxed);
    }
    for descriptor in 0..3 {
        // SAFETY: F_GETFD only asks.
        if unsafe { libc::fcntl(descriptor, libc::F_GETFD) } == -1 {
            CLOSED.fetch_or(1 << descriptor, Ordering::Relaxed);
        }
    }
}

/// Whether a standard descriptor (0, 1 or 2) was closed when the process began.
fn was_closed(descriptor: u8) -> bool {
    CLOSED.load(Ordering::Relaxed) & (1 << descriptor) != 0
}

unsafe extern "C" {
    /// environ(7)
    static environ: *const *const libc::c_char;
}

/// Replaces the program (execve(2)) by one that gets what this process got: SIGPIPE's
/// disposition, closed standard descriptors and, without an `environment` of its own, the
/// environment's very entries. Comes back only with an error, and then without the first two.
///
/// The process must have one thread, and must not have changed its environment.
pub fn execve_as_inherited(
    program: &CStr,
    arguments: &[CString],
    environment: Option<&[CString]>,
) -> Result<Infallible, Errno> {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        let strings = strings.iter().map(|string| string.as_ptr());
        strings.chain([ptr::null()]).collect()
    };
    let arguments = pointers(arguments);
    let environment = environment.map(pointers);
    if !SIGPIPE_IGNORED.load(Ordering::Relaxed) {
        // SAFETY: the default action is no function of ours.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    }
    for descriptor in 0..3 {
        if was_closed(descriptor) {
            // SAFETY: what is open there is the runtime's `/dev/null`, which nobody owns.
            unsafe { libc::close(descriptor.into()) };
        }
    }
    // SAFETY: C strings and null-terminated lists of such, all alive through the call; `environ`
    // is one as long as nobody changes the environment.
    unsafe {
        let environment = environment.as_ref().map_or(environ, |list| list.as_ptr());
        libc::execve(program.as_ptr(), arguments.as_ptr(), environment);
    }
    Err(last_errno())
}
