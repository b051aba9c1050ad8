//! Ctrl-C and SIGTERM: the process ends at once, whatever it computes, and leaves no file that is half there.

#[cfg(unix)]
use crate::error::INTERRUPTED;
#[cfg(unix)]
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

/// What an interruption must leave in order. Whoever holds it holds the end of the process off.
pub(crate) struct Stakes {
    unfinished: Vec<PathBuf>,
    /// What the user is told besides that the process was interrupted.
    pub(crate) notice: Option<String>,
}

static STAKES: Mutex<Stakes> = Mutex::new(Stakes {
    unfinished: Vec::new(),
    notice: None,
});

/// Holds the end of the process off while the guard lives, for a step that is short and must be taken whole.
pub(crate) fn hold_off() -> MutexGuard<'static, Stakes> {
    STAKES.lock().expect("the stakes' lock")
}

impl Stakes {
    /// Has an interruption remove the file or folder `path` as long as what is returned lives.
    pub(crate) fn unfinished(&mut self, path: &Path) -> Unfinished {
        self.unfinished.push(path.to_owned());
        Unfinished(path.to_owned())
    }

    /// Has an interruption leave what is there, which is worth it now.
    pub(crate) fn keep(&mut self, Unfinished(path): &Unfinished) {
        if let Some(at) = self.unfinished.iter().position(|other| other == path) {
            self.unfinished.swap_remove(at);
        }
    }
}

/// A file or folder that an interruption removes.
pub(crate) struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        hold_off().keep(self);
    }
}

/// Has Ctrl-C and SIGTERM end the process in order from now on. Where there are no such signals, the system's own way to end
/// a process stays, which a journal outlives too.
pub fn listen() {
    #[cfg(unix)]
    {
        use signal_hook::consts::{SIGINT, SIGTERM};
        use signal_hook::iterator::Signals;

        let mut signals = Signals::new([SIGINT, SIGTERM]).expect("these signals can be handled");
        std::thread::spawn(move || {
            if signals.forever().next().is_some() {
                end();
            }
        });
    }
}

#[cfg(unix)]
fn end() -> ! {
    let stakes = hold_off();
    for path in &stakes.unfinished {
        // What can't be removed now can't be helped.
        let _ = match path.is_dir() {
            true => std::fs::remove_dir_all(path),
            false => std::fs::remove_file(path),
        };
    }
    let notice = stakes.notice.as_ref();
    let notice = notice.map_or(String::new(), |notice| format!("; {notice}"));
    // Where stderr can't be written to, there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "\ninterrupted{notice}");
    // Not by way of the libraries' own clean-up: other threads are in the middle of their work.
    signal_hook::low_level::exit(INTERRUPTED.into())
}
