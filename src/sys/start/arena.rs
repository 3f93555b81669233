//! Memory for a program that is soon over.

use alloc::alloc::{GlobalAlloc, Layout};
use core::cell::{Cell, UnsafeCell};
use core::ptr;

use rustix::mm::{MapFlags, ProtFlags};

/// What is there from the start, in bytes. Pages that are not touched cost nothing.
const FIRST_BYTES: usize = 256 << 10;

/// The least that is asked of the kernel when that is used up, in bytes.
const MORE_BYTES: usize = 1 << 20;

/// An allocator that takes back nothing but what it gave last, which is what a growing buffer
/// needs.
pub struct Arena {
    first: UnsafeCell<[u8; FIRST_BYTES]>,
    /// Where the current piece has room; null before the first allocation.
    next: Cell<*mut u8>,
    /// Where it ends.
    end: Cell<*mut u8>,
}

// SAFETY: whoever makes an `Arena` promises that there is one thread.
unsafe impl Sync for Arena {}

impl Arena {
    /// An arena in which nothing has been allocated.
    ///
    /// # Safety
    /// One thread alone uses it.
    pub const unsafe fn new() -> Self {
        Self {
            first: UnsafeCell::new([0; FIRST_BYTES]),
            next: Cell::new(ptr::null_mut()),
            end: Cell::new(ptr::null_mut()),
        }
    }

    /// Room in the current piece.
    fn take(&self, layout: Layout) -> Option<*mut u8> {
        let next = self.next.get();
        let padding = next.addr().wrapping_neg() & (layout.align() - 1);
        let room = self.end.get().addr() - next.addr();
        if padding.checked_add(layout.size())? > room {
            return None;
        }
        let given = next.wrapping_add(padding);
        self.next.set(given.wrapping_add(layout.size()));
        Some(given)
    }

    fn begin_with(&self, piece: *mut u8, len: usize) {
        self.next.set(piece);
        self.end.set(piece.wrapping_add(len));
    }

    /// A new piece, in which `layout` fits; what was left of the old one is lost.
    fn more(&self, layout: Layout) -> Option<()> {
        let len = layout
            .size()
            .checked_add(layout.align())?
            .max(MORE_BYTES)
            .checked_next_multiple_of(1 << 12)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses a place where nothing is.
        let piece =
            unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), len, access, MapFlags::PRIVATE) };
        self.begin_with(piece.ok()?.cast(), len);
        Some(())
    }

    /// Whether `len` bytes from `pointer` are what was given last.
    fn is_last(&self, pointer: *mut u8, len: usize) -> bool {
        pointer.wrapping_add(len) == self.next.get()
    }
}

// SAFETY: what is given away lies in a piece that is never given back, is aligned, and is behind
// everything that was given before and not taken back. Nothing here unwinds.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if self.next.get().is_null() {
            self.begin_with(self.first.get().cast(), FIRST_BYTES);
        }
        self.take(layout)
            .or_else(|| self.more(layout).and_then(|()| self.take(layout)))
            .unwrap_or(ptr::null_mut())
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if self.is_last(pointer, layout.size()) {
            self.next.set(pointer);
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if self.is_last(pointer, layout.size()) {
            self.next.set(pointer);
            // It is aligned already, so this is the same place.
            let grown = Layout::from_size_align(new_size, layout.align());
            if grown.is_ok_and(|grown| self.take(grown).is_some()) {
                return pointer;
            }
            self.next.set(pointer.wrapping_add(layout.size()));
        } else if new_size <= layout.size() {
            return pointer;
        }
        let Ok(new_layout) = Layout::from_size_align(new_size, layout.align()) else {
            return ptr::null_mut();
        };
        // SAFETY: the caller keeps the rules of `realloc`, which include those of `alloc`.
        let new = unsafe { self.alloc(new_layout) };
        if !new.is_null() {
            // SAFETY: both are at least as long, and the new one is nobody else's.
            unsafe { ptr::copy_nonoverlapping(pointer, new, layout.size().min(new_size)) };
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn what_is_given_is_aligned_and_apart() {
        // SAFETY: this thread alone uses it; each layout has a size.
        let (arena, one, two) = unsafe {
            let arena = alloc::boxed::Box::new(Arena::new());
            let one = arena.alloc(layout(3, 1));
            let two = arena.alloc(layout(100, 64));
            (arena, one, two)
        };
        assert_eq!(two.addr() % 64, 0);
        assert!(two.addr() >= one.addr() + 3);
        assert!(!arena.is_last(one, 3));
    }

    #[test]
    fn a_buffer_grows_in_its_place_and_then_elsewhere() {
        // SAFETY: this thread alone uses it; sizes and layouts are those of each allocation.
        unsafe {
            let arena = alloc::boxed::Box::new(Arena::new());
            let buffer = arena.alloc(layout(10, 1));
            buffer.write_bytes(7, 10);
            let same = arena.realloc(buffer, layout(10, 1), 1000);
            assert_eq!(same, buffer);
            let moved = arena.realloc(same, layout(1000, 1), FIRST_BYTES + 1);
            assert_ne!(moved, buffer);
            assert_eq!(core::slice::from_raw_parts(moved, 10), [7; 10]);
            let large = arena.realloc(moved, layout(FIRST_BYTES + 1, 1), 3 * MORE_BYTES);
            assert_eq!(core::slice::from_raw_parts(large, 10), [7; 10]);
            large.add(3 * MORE_BYTES - 1).write(1);
        }
    }

    #[test]
    fn only_the_last_is_taken_back() {
        // SAFETY: this thread alone uses it; sizes and layouts are those of each allocation.
        unsafe {
            let arena = alloc::boxed::Box::new(Arena::new());
            let one = arena.alloc(layout(10, 1));
            let two = arena.alloc(layout(10, 1));
            arena.dealloc(one, layout(10, 1));
            assert_eq!(arena.alloc(layout(1, 1)), two.add(10));
            arena.dealloc(two.add(10), layout(1, 1));
            arena.dealloc(two, layout(10, 1));
            assert_eq!(arena.alloc(layout(10, 1)), two);
        }
    }
}
