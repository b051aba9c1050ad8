//! The command line program; everything it does is in the library.

use rayon::ThreadPoolBuilder;
use std::process::ExitCode;

fn main() -> ExitCode {
    // The CPU's kernels divide their work among the pool's threads. If this one weren't among them, it would have to be
    // woken up for each. Where no pool can be made now, the first kernel says why.
    let _ = ThreadPoolBuilder::new().use_current_thread().build_global();
    ptq4vit_gpu::cli::run()
}
