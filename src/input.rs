//! Text files that are read within bounds.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// The longest text that is read, in bytes: twenty times a list of ImageNet's training images.
const MAX_TEXT: u64 = 1 << 30;

/// The UTF-8 text in `path`.
///
/// # Errors
/// [`Error::Input`] for what is no regular file (a pipe or a device might never end), is longer than 1 GiB, or no UTF-8.
pub fn text(path: &Path) -> Result<String> {
    text_if_any(path)?.ok_or_else(|| Error::input(path, "can't be read: there is no such file"))
}

/// [`text`], or `None` where there is no file.
///
/// # Errors
/// As there.
pub fn text_if_any(path: &Path) -> Result<Option<String>> {
    let problem = |problem: String| Error::input(path, problem);
    let unreadable = |error: std::io::Error| {
        problem(match error.kind() {
            ErrorKind::InvalidData => "is no text in UTF-8".to_owned(),
            _ => format!("can't be read: {error}"),
        })
    };
    // Looked at before it is opened: opening a pipe would wait for a writer.
    let found = match path.metadata() {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    if found.is_dir() {
        return Err(problem("is a folder, where a text file is expected".into()));
    }
    if !found.is_file() {
        return Err(problem("is not a regular file".into()));
    }
    let bounded = |len: u64| match len {
        0..=MAX_TEXT => Ok(()),
        _ => Err(problem(format!(
            "expected a text of at most {MAX_TEXT} bytes, found {len}"
        ))),
    };
    bounded(found.len())?;
    let mut text = String::new();
    let file = File::open(path).map_err(unreadable)?;
    // It may have grown, and some files are longer than they say, such as those of /proc.
    file.take(MAX_TEXT + 1)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    bounded(text.len() as u64)?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_of_a_bounded_length_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        let problem = |path: &Path| text(path).unwrap_err().to_string();

        assert_eq!(text_if_any(&path).unwrap(), None);
        assert!(problem(&path).ends_with("there is no such file"));
        assert!(problem(folder.path()).contains("is a folder"));
        std::fs::write(&path, "déjà vu\n").unwrap();
        assert_eq!(text(&path).unwrap(), "déjà vu\n");
        std::fs::write(&path, b"d\xe9j\xe0 vu\n").unwrap();
        assert!(problem(&path).ends_with("is no text in UTF-8"));
        // Two terabytes that take no room.
        let long = File::create(&path).unwrap();
        long.set_len(1 << 41).unwrap();
        assert!(problem(&path).contains("found 2199023255552"));
    }

    #[cfg(unix)]
    #[test]
    fn what_never_ends_is_not_begun() {
        let problem = text(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(problem.ends_with("is not a regular file"), "{problem}");
    }
}
