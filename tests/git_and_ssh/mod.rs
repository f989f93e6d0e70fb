//! Real git repositories and a real sshd.

mod git;
mod ssh;
pub(crate) mod sshd;

/// Programs are started as the server starts them.
pub(crate) fn use_the_shim() {
    siskin::process::set_shim(std::path::PathBuf::from(env!("CARGO_BIN_EXE_siskin")));
}
