//! Lists of names that may be long.

/// Names listed in one error before the rest is only counted.
const LISTED: usize = 8;

/// Words the first names of a list, and how many more there are.
pub fn abridged(names: &[String]) -> String {
    let shown = names[..names.len().min(LISTED)].join(", ");
    match names.len().saturating_sub(LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
