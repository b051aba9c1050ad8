//! Waiting for what a device is asked, where that is possible.

use crate::error::Result;

/// Waits for `answer`.
///
/// # Errors
/// Those of `answer`.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn wait<T>(_device: &str, answer: impl Future<Output = Result<T>>) -> Result<T> {
    pollster::block_on(answer)
}

/// Returns `answer` where it is there already, as on the CPU: a browser's thread that waits keeps the answer from
/// coming.
///
/// # Errors
/// Those of `answer`, and one for an answer that has to be waited for.
#[cfg(target_arch = "wasm32")]
pub(super) fn wait<T>(device: &str, answer: impl Future<Output = Result<T>>) -> Result<T> {
    use crate::error::Error;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    match pin!(answer).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => Err(Error::device(
            device,
            "can't be waited for in a browser: its answers are to be awaited",
        )),
    }
}
