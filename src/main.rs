//! The command line program; everything it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    ptq4vit_gpu::interrupt::listen();
    match ptq4vit_gpu::cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
