//! Text files that are read within bounds.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// Limits the bytes of a text: twenty times a list of ImageNet's training images.
const MAX_TEXT: u64 = 1 << 30;

/// Holds what some programs write before a text in UTF-8.
const BYTE_ORDER_MARK: char = '\u{feff}';
/// Lists what texts of other encodings begin with. The longer ones come first: UTF-32's begins with UTF-16's.
const OTHER_MARKS: [(&[u8], &str); 4] = [
    (&[0xff, 0xfe, 0, 0], "UTF-32"),
    (&[0, 0, 0xfe, 0xff], "UTF-32"),
    (&[0xff, 0xfe], "UTF-16"),
    (&[0xfe, 0xff], "UTF-16"),
];

/// Reads the UTF-8 text in `path`, without the byte order mark that some programs write before it.
///
/// # Errors
/// [`Error::Input`] for what is no regular file (a pipe or a device might never end), is longer than 1 GiB, or no UTF-8.
pub fn text(path: &Path) -> Result<String> {
    text_if_any(path)?.ok_or_else(|| Error::input(path, "can't be read: there is no such file"))
}

/// Reads the [`text`] in `path`, or returns `None` where there is no file.
///
/// # Errors
/// Those of [`text`].
pub fn text_if_any(path: &Path) -> Result<Option<String>> {
    let problem = |problem: String| Error::input(path, problem);
    let unreadable = |error: std::io::Error| problem(format!("can't be read: {error}"));
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
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    // It may have grown, and some files are longer than they say, such as those of /proc.
    file.take(MAX_TEXT + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    bounded(bytes.len() as u64)?;
    utf8(bytes).map(Some).map_err(problem)
}

/// Decodes the text that these bytes are in UTF-8, without its byte order mark.
fn utf8(bytes: Vec<u8>) -> std::result::Result<String, String> {
    let other = OTHER_MARKS.iter().find(|(mark, _)| bytes.starts_with(mark));
    if let Some((_, encoding)) = other {
        return Err(format!(
            "begins with the byte order mark of {encoding}, where a text in UTF-8 is expected"
        ));
    }
    let mut text = String::from_utf8(bytes).map_err(|_| "is no text in UTF-8")?;
    if text.starts_with(BYTE_ORDER_MARK) {
        text.drain(..BYTE_ORDER_MARK.len_utf8());
    }
    Ok(text)
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

    #[test]
    fn byte_order_marks_are_no_text() {
        let marked = |mark: &[u8]| utf8([mark, b"a.jpg\t1\r\n"].concat());
        assert_eq!(marked(&[0xef, 0xbb, 0xbf]).unwrap(), "a.jpg\t1\r\n");
        assert_eq!(utf8(vec![0xef, 0xbb, 0xbf]).unwrap(), "");
        // Only the first is one.
        assert_eq!(utf8("\u{feff}\u{feff}a".into()).unwrap(), "\u{feff}a");
        for (mark, encoding) in [
            (&[0xff, 0xfe][..], "UTF-16,"),
            (&[0xfe, 0xff], "UTF-16,"),
            (&[0xff, 0xfe, 0, 0], "UTF-32,"),
            (&[0, 0, 0xfe, 0xff], "UTF-32,"),
        ] {
            let problem = marked(mark).unwrap_err();
            assert!(problem.contains(encoding), "{problem}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_never_ends_is_not_begun() {
        let problem = text(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(problem.ends_with("is not a regular file"), "{problem}");
    }
}
