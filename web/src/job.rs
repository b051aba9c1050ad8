//! One job at a time, each a promise that is settled whatever happens: a panic ends wasm without a word to the promise.

use js_sys::{Function, Promise, futures::spawn_local};
use std::cell::RefCell;
use wasm_bindgen::prelude::*;

/// Says what goes on.
enum State {
    Idle,
    /// A job runs, whose promise this rejects.
    Running(Function),
    /// A job panicked, and left anything behind.
    Failed(String),
}

thread_local! {
    static STATE: RefCell<State> = const { RefCell::new(State::Idle) };
}

/// Starts `job` and returns its promise, which is rejected at once where another job runs.
pub fn promised<T: Into<JsValue>>(
    job: impl Future<Output = Result<T, JsError>> + 'static,
) -> Promise {
    let mut job = Some(job);
    Promise::new(&mut |resolve, reject| {
        if let Err(error) = check_idle() {
            settle(&reject, error.into());
            return;
        }
        STATE.set(State::Running(reject.clone()));
        let job = job.take().expect("a promise starts once");
        spawn_local(async move {
            let outcome = job.await;
            STATE.set(State::Idle);
            match outcome {
                Ok(value) => settle(&resolve, value.into()),
                Err(error) => settle(&reject, error.into()),
            }
        });
    })
}

/// Checks that no job runs.
///
/// # Errors
/// That one does, or has panicked.
pub fn check_idle() -> Result<(), JsError> {
    STATE.with_borrow(|state| match state {
        State::Idle => Ok(()),
        State::Running(_) => Err(JsError::new("another job is running")),
        State::Failed(problem) => Err(JsError::new(&format!("the engine has failed: {problem}"))),
    })
}

/// Makes a panic the error of the job that runs, and refuses further ones.
pub fn reject_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let problem = panic.to_string();
        let before = STATE.replace(State::Failed(problem.clone()));
        if let State::Running(reject) = before {
            let error = JsError::new(&format!("internal error: {problem}"));
            settle(&reject, error.into());
        }
    }));
}

/// Calls a promise's function, which throws nothing.
fn settle(function: &Function, value: JsValue) {
    let _ = function.call1(&JsValue::UNDEFINED, &value);
}
