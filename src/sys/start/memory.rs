//! The functions that the compiler calls without being asked, and a C library would have.
//!
//! Written in assembly where the compiler could see in them the very function that they are.

use core::arch::asm;

/// memcpy(3)
///
/// # Safety
/// As the manual page says.
#[inline(always)]
pub unsafe fn copy(target: *mut u8, source: *const u8, len: usize) -> *mut u8 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's; the direction flag is clear at the entry of every function.
    unsafe {
        asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rdi") target => _,
            inout("rsi") source => _,
            options(nostack, preserves_flags),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the caller's.
    unsafe {
        asm!(
            "cbz {len}, 2f",
            "1: ldrb {byte:w}, [{source}], #1",
            "strb {byte:w}, [{target}], #1",
            "subs {len}, {len}, #1",
            "b.ne 1b",
            "2:",
            byte = out(reg) _,
            len = inout(reg) len => _,
            target = inout(reg) target => _,
            source = inout(reg) source => _,
            options(nostack),
        );
    }
    target
}

/// memmove(3)
///
/// # Safety
/// As the manual page says.
#[inline(always)]
pub unsafe fn copy_overlapping(target: *mut u8, source: *const u8, len: usize) -> *mut u8 {
    // Forwards is right unless the target begins inside of the source.
    if target.addr().wrapping_sub(source.addr()) >= len {
        // SAFETY: the caller's.
        return unsafe { copy(target, source, len) };
    }
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's; the direction flag is clear again at the end.
    unsafe {
        asm!(
            "std",
            "rep movsb",
            "cld",
            inout("rcx") len => _,
            inout("rdi") target.wrapping_add(len).wrapping_sub(1) => _,
            inout("rsi") source.wrapping_add(len).wrapping_sub(1) => _,
            options(nostack),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the caller's; `len` is not 0 here.
    unsafe {
        asm!(
            "1: subs {len}, {len}, #1",
            "ldrb {byte:w}, [{source}, {len}]",
            "strb {byte:w}, [{target}, {len}]",
            "b.ne 1b",
            byte = out(reg) _,
            len = inout(reg) len => _,
            target = in(reg) target,
            source = in(reg) source,
            options(nostack),
        );
    }
    target
}

/// memset(3)
///
/// # Safety
/// As the manual page says.
#[inline(always)]
pub unsafe fn fill(target: *mut u8, byte: u8, len: usize) -> *mut u8 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's; the direction flag is clear at the entry of every function.
    unsafe {
        asm!(
            "rep stosb",
            inout("rcx") len => _,
            inout("rdi") target => _,
            in("al") byte,
            options(nostack, preserves_flags),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the caller's.
    unsafe {
        asm!(
            "cbz {len}, 2f",
            "1: strb {byte:w}, [{target}], #1",
            "subs {len}, {len}, #1",
            "b.ne 1b",
            "2:",
            byte = in(reg) u32::from(byte),
            len = inout(reg) len => _,
            target = inout(reg) target => _,
            options(nostack),
        );
    }
    target
}

/// memcmp(3)
///
/// # Safety
/// As the manual page says.
#[inline(always)]
pub unsafe fn compare(one: *const u8, other: *const u8, len: usize) -> i32 {
    for index in 0..len {
        // SAFETY: the caller's. Volatile, so that no loop becomes a call of this function.
        let (one, other) = unsafe {
            (
                one.wrapping_add(index).read_volatile(),
                other.wrapping_add(index).read_volatile(),
            )
        };
        if one != other {
            return i32::from(one) - i32::from(other);
        }
    }
    0
}

/// strlen(3)
///
/// # Safety
/// As the manual page says.
#[inline(always)]
pub unsafe fn length(string: *const u8) -> usize {
    let mut len = 0;
    // SAFETY: the caller's. Volatile, so that no loop becomes a call of this function.
    while unsafe { string.wrapping_add(len).read_volatile() } != 0 {
        len += 1;
    }
    len
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_copied_in_either_direction() {
        for (from, to, len) in [(0, 8, 4), (0, 2, 6), (2, 0, 6), (3, 3, 5), (0, 1, 0)] {
            let mut got = *b"0123456789ab";
            let mut expected = got;
            expected.copy_within(from..from + len, to);
            let begin = got.as_mut_ptr();
            // SAFETY: both ranges are inside of the array.
            unsafe { copy_overlapping(begin.add(to), begin.add(from), len) };
            assert_eq!(got, expected, "{from} {to} {len}");
        }
    }

    #[test]
    fn bytes_are_filled_compared_and_counted() {
        let mut bytes = *b"abcdef\0";
        // SAFETY: all lengths are those of the arrays; the last byte is zero.
        unsafe {
            assert_eq!(length(bytes.as_ptr()), 6);
            assert_eq!(compare(bytes.as_ptr(), b"abcdef".as_ptr(), 6), 0);
            assert!(compare(bytes.as_ptr(), b"abd".as_ptr(), 3) < 0);
            assert!(compare(b"\xff".as_ptr(), b"a".as_ptr(), 1) > 0);
            fill(bytes.as_mut_ptr().add(1), b'x', 3);
        }
        assert_eq!(&bytes, b"axxxef\0");
    }
}
