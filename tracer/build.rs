//! Embeds the eBPF object that `cargo xtask build` leaves at `target/tracer-ebpf.o` in the workspace, or an empty stub where
//! there is none, so that `cargo check`, clippy and the offline tests need no eBPF toolchain. Builds nothing itself.

use std::{env, fs, path::PathBuf};

fn main() {
    let workspace = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("..");
    let object = workspace.join("target/tracer-ebpf.o");
    println!("cargo::rerun-if-changed={}", object.display());
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("tracer-ebpf.o");
    let bytes = fs::read(&object).unwrap_or_default();
    if let Err(error) = fs::write(&out, bytes) {
        println!("cargo::error=cannot write {}: {error}", out.display());
    }
}
