//! Arguments in, exit status out.

use std::process::ExitCode;

use siskin::process;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "__shim") {
        return process::shim::main();
    }
    ExitCode::SUCCESS
}
