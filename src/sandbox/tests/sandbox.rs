//! The sandbox as seen from inside and from outside.
fn main() {}
