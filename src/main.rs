//! Arguments in, exit status out.

use std::process::ExitCode;

use siskin::{cli, process};

fn main() -> ExitCode {
    // Before anything else: the shim is this binary too, and must stay small.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "__shim") {
        return process::shim::main();
    }
    // A second provider in the process would be a mistake of ours; then the first stays.
    rustls::crypto::ring::default_provider().install_default().ok();
    process::set_shim_to_self();
    let cli = cli::parse();
    match start(cli) {
        Ok(code) => code,
        Err(error) => cli::report(&error),
    }
}

fn start(cli: cli::Cli) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(cli::run(cli));
    // Nothing is left to do for tasks that still wait for the network or a terminal.
    runtime.shutdown_background();
    result
}
