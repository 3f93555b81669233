//! Leaves out the C library's entry: the program has its own (see `droste_start`).

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bins=-nostartfiles");
}
