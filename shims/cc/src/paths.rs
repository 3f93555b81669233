//! What the shim has to know of paths, which are bytes to it.

use alloc::ffi::CString;
use alloc::vec::Vec;

/// The last component.
pub fn file_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

/// The directory that a path lies in: `.` if it says none.
pub fn parent(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|&byte| byte == b'/') {
        None => b".",
        Some(0) => b"/",
        Some(slash) => &path[..slash],
    }
}

/// A name in a directory; an empty directory is the current one, as in `PATH`.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = match dir {
        [] | [.., b'/'] => b"",
        _ => b"/",
    };
    [dir, slash, name].concat()
}

/// A path as the kernel takes it, out of strings that came from the kernel and have no zeros.
pub fn c_string(path: Vec<u8>) -> CString {
    CString::new(path).unwrap_or_default()
}
