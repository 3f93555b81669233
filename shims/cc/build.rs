//! Leaves out the C library's entry: the program has its own (see `droste_start`).

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bins=-nostartfiles");
    // Nothing to protect after relocating, and one mapping less at each start.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,norelro");
}
