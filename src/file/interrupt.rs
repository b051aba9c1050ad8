//! Ctrl-C and SIGTERM: the process ends at once, whatever it computes, and leaves no file that is half there.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

/// Lists unfinished files and folders, which an interruption removes. While somebody holds its lock, the process
/// doesn't end by an interruption.
pub(crate) struct Outstanding {
    unfinished: Vec<PathBuf>,
    /// What the user is told besides that the process was interrupted.
    pub(crate) notice: Option<String>,
}

static OUTSTANDING: Mutex<Outstanding> = Mutex::new(Outstanding {
    unfinished: Vec::new(),
    notice: None,
});

/// Holds the end of the process off while the guard lives, for a step that is short and must be taken whole.
pub(crate) fn hold_off() -> MutexGuard<'static, Outstanding> {
    OUTSTANDING.lock().expect("the lock of what is unfinished")
}

impl Outstanding {
    /// Makes an interruption remove the file or folder `path` as long as the returned value lives.
    pub(crate) fn unfinished(&mut self, path: &Path) -> Unfinished {
        self.unfinished.push(path.to_owned());
        Unfinished(path.to_owned())
    }

    /// Makes an interruption leave a file or folder that is worth keeping now.
    pub(crate) fn keep(&mut self, Unfinished(path): &Unfinished) {
        if let Some(at) = self.unfinished.iter().position(|other| other == path) {
            self.unfinished.swap_remove(at);
        }
    }
}

/// Marks a file or folder that an interruption removes.
pub(crate) struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        hold_off().keep(self);
    }
}

/// Makes Ctrl-C and SIGTERM end the process in order from now on: `conclude` is told what the user should know besides,
/// says so, and returns the exit code. Where there are no such signals, the system's own way to end a process stays,
/// which a journal outlives too.
pub fn listen(conclude: impl FnOnce(Option<&str>) -> u8 + Send + 'static) {
    #[cfg(unix)]
    {
        use signal_hook::consts::{SIGINT, SIGTERM};
        use signal_hook::iterator::Signals;

        let mut signals = Signals::new([SIGINT, SIGTERM]).expect("these signals can be handled");
        std::thread::spawn(move || {
            if signals.forever().next().is_some() {
                end(conclude);
            }
        });
    }
    #[cfg(not(unix))]
    drop(conclude);
}

#[cfg(unix)]
fn end(conclude: impl FnOnce(Option<&str>) -> u8) -> ! {
    let outstanding = hold_off();
    for path in &outstanding.unfinished {
        // What can't be removed now can't be helped.
        let _ = match path.is_dir() {
            true => std::fs::remove_dir_all(path),
            false => std::fs::remove_file(path),
        };
    }
    let code = conclude(outstanding.notice.as_deref());
    // Not by way of the libraries' own clean-up: other threads are in the middle of their work.
    signal_hook::low_level::exit(code.into())
}
