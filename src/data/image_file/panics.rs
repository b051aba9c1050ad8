//! The boundary to the decoders. They are other people's code: one that panics costs its image, not the run.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// Says whether this thread is inside a decoder.
    static DECODING: Cell<bool> = const { Cell::new(false) };
}

/// Runs a decoder, and makes an error of a panic, which is not printed.
///
/// Nothing that `decode` has touched may be used after an error.
pub(super) fn caught<T>(decode: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    keep_quiet();
    DECODING.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(decode));
    DECODING.set(false);
    outcome.unwrap_or_else(|payload| {
        Err(format!(
            "can't decode this image: its decoder crashed: {}",
            message(&*payload)
        ))
    })
}

/// Puts a hook before the one that is there, which stays in charge of all other panics.
fn keep_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let earlier = take_hook();
        set_hook(Box::new(move |panic| {
            if !DECODING.get() {
                earlier(panic);
            }
        }));
    });
}

fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error() {
        let index = |values: &[u8], at: usize| Ok(values[at]);
        assert_eq!(caught(|| index(&[7], 0)), Ok(7));
        assert_eq!(
            caught(|| index(&[7], 3)).unwrap_err(),
            "can't decode this image: its decoder crashed: index out of bounds: the len is 1 but the index is 3"
        );
        let silent = caught::<()>(|| std::panic::panic_any(1)).unwrap_err();
        assert!(silent.ends_with("without a message"), "{silent}");
    }
}
