//! Lists of strings as execve(2) takes and gives them.

use alloc::vec::Vec;
use core::ffi::{CStr, c_char};
use core::marker::PhantomData;
use core::ptr;

/// A list that ends with a null pointer, to be iterated over or passed on.
#[derive(Clone, Copy)]
pub struct Strings<'a> {
    /// The next string, or the null pointer.
    next: *const *const c_char,
    strings: PhantomData<&'a CStr>,
}

impl<'a> Strings<'a> {
    /// # Safety
    /// `next` begins a list of pointers to C strings that ends with a null pointer; the list and
    /// the strings stay as they are for `'a`.
    pub(crate) unsafe fn new(next: *const *const c_char) -> Self {
        let strings = PhantomData;
        Self { next, strings }
    }

    pub(crate) fn as_ptr(self) -> *const *const c_char {
        self.next
    }

    /// What follows the list's null pointer.
    pub(crate) fn end(mut self) -> *const *const c_char {
        while self.next().is_some() {}
        // The null pointer itself is part of the list.
        self.next.wrapping_add(1)
    }
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a CStr;

    fn next(&mut self) -> Option<&'a CStr> {
        // SAFETY: `next` points into the list, at its null pointer at the furthest.
        let string = unsafe { *self.next };
        if string.is_null() {
            return None;
        }
        self.next = self.next.wrapping_add(1);
        // SAFETY: it is a C string and lives for `'a`, as `new` demands.
        Some(unsafe { CStr::from_ptr(string) })
    }
}

/// A list made of single strings.
pub struct StringList<'a> {
    pointers: Vec<*const c_char>,
    strings: PhantomData<&'a CStr>,
}

impl StringList<'_> {
    /// The list as execve(2) takes it.
    pub fn as_strings(&self) -> Strings<'_> {
        // SAFETY: `from_iter` has put the null pointer there; the strings outlive `self`.
        unsafe { Strings::new(self.pointers.as_ptr()) }
    }
}

impl<'a> FromIterator<&'a CStr> for StringList<'a> {
    fn from_iter<I: IntoIterator<Item = &'a CStr>>(strings: I) -> Self {
        let mut pointers: Vec<_> = strings.into_iter().map(CStr::as_ptr).collect();
        pointers.push(ptr::null());
        let strings = PhantomData;
        Self { pointers, strings }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_gives_back_its_strings() {
        let strings = [c"one", c"", c"three"];
        let list: StringList = strings.into_iter().collect();
        assert!(list.as_strings().eq(strings));
        assert!(list.as_strings().eq(strings));
        let none = StringList::from_iter([]);
        assert_eq!(none.as_strings().count(), 0);
    }

    #[test]
    fn the_end_is_behind_the_null_pointer() {
        let list: StringList = [c"one", c"two"].into_iter().collect();
        let begin = list.as_strings();
        assert_eq!(begin.end(), begin.as_ptr().wrapping_add(3));
    }
}
