//! What is shown to people: text from files and from the network, so that it can neither steer a terminal nor give a secret
//! away.
//!
//! Terminals obey control characters, and so do their users' eyes: after U+202E, text runs backwards. They are shown as JSON
//! writes them, `\\u001b`, whether or not it is a terminal that shows them, and JSON that is treated so means what it did.

use std::borrow::Cow;
use std::fmt::Write;

/// Stands in the place of a secret.
const HIDDEN: &str = "***";

#[cfg(feature = "page")]
/// Returns `text` without control characters but line feeds and tabs, and without the secrets in its URLs.
pub fn text(text: &str) -> Cow<'_, str> {
    escaped(without_secrets(text), |it| !matches!(it, '\n' | '\t'))
}

/// Returns `text` on one line, without any control character, and without the secrets in its URLs.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(without_secrets(text), |_| true)
}

fn escaped(text: Cow<'_, str>, escapes: impl Fn(char) -> bool) -> Cow<'_, str> {
    let is_escaped = |it: char| is_control(it) && escapes(it);
    if !text.contains(is_escaped) {
        return text;
    }
    let mut shown = String::new();
    for character in text.chars() {
        match character {
            '\n' if is_escaped('\n') => shown.push_str("\\n"),
            '\t' if is_escaped('\t') => shown.push_str("\\t"),
            other if is_escaped(other) => {
                write!(shown, "\\u{:04x}", u32::from(other)).expect("a string takes all");
            }
            other => shown.push(other),
        }
    }
    shown.into()
}

/// Says whether a character is an order to whoever shows the text rather than text: C0 and C1 controls, DEL, the ends
/// of lines and paragraphs, what turns the direction, and the byte order mark.
fn is_control(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}'
                | '\u{200e}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
                | '\u{feff}'
        )
}

/// Returns `text` without the users and passwords in its URLs, and without their queries, which may be signatures.
fn without_secrets(text: &str) -> Cow<'_, str> {
    const SCHEME_END: &str = "://";
    let ends = |it: char| it.is_whitespace() || "\"'`<>\\".contains(it);
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(SCHEME_END) {
        let (before, url) = rest.split_at(at + SCHEME_END.len());
        let (url, after) = url.split_at(url.find(ends).unwrap_or(url.len()));
        let (user, place) = url.split_at(user_len(url));
        let (place, query) = place.split_at(place.find('?').unwrap_or(place.len()));
        shown.push_str(before);
        if !user.is_empty() {
            shown.push_str(HIDDEN);
            shown.push('@');
        }
        shown.push_str(place);
        if !query.is_empty() {
            shown.push('?');
            shown.push_str(HIDDEN);
        }
        rest = after;
    }
    match rest.len() == text.len() {
        true => text.into(),
        false => (shown + rest).into(),
    }
}

/// Counts the bytes of the user and the password that `url`, without its scheme, begins with, and of the `@` behind
/// them.
fn user_len(url: &str) -> usize {
    let authority = url.split(['/', '?', '#']).next().unwrap_or_default();
    let is_number = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    // A password may have been written as it is, with what ends a host.
    let is_cut = authority
        .rsplit_once(':')
        .is_some_and(|(_, port)| !is_number(port) && !port.ends_with(']'));
    let within = match authority.contains('@') || !is_cut {
        true => authority,
        false => url,
    };
    within.rfind('@').map_or(0, |at| at + 1)
}

#[cfg(all(test, feature = "page"))]
mod tests {
    use super::*;

    #[test]
    fn what_steers_is_shown_as_json_writes_it() {
        for (found, on_a_line, in_text) in [
            ("déjà vu.png", "déjà vu.png", "déjà vu.png"),
            (
                "\x1b[31mred\x07",
                "\\u001b[31mred\\u0007",
                "\\u001b[31mred\\u0007",
            ),
            ("\u{9b}2J\x7f", "\\u009b2J\\u007f", "\\u009b2J\\u007f"),
            ("gpj.\u{202e}png", "gpj.\\u202epng", "gpj.\\u202epng"),
            (
                "\u{2066}\u{200f}\u{61c}",
                "\\u2066\\u200f\\u061c",
                "\\u2066\\u200f\\u061c",
            ),
            ("\u{feff}0\u{2028}", "\\ufeff0\\u2028", "\\ufeff0\\u2028"),
            (
                "a\r\nerror: b\tc",
                "a\\u000d\\nerror: b\\tc",
                "a\\u000d\nerror: b\tc",
            ),
        ] {
            assert_eq!(line(found), on_a_line);
            assert_eq!(text(found), in_text);
        }
    }

    #[test]
    fn json_means_what_it_did() {
        let value = serde_json::json!({ "a\u{9b}": ["\x1b\n\u{202e}\u{7f}", "\\u0041", "é"] });
        let json = serde_json::to_string_pretty(&value).unwrap();
        let shown = text(&json);
        assert!(
            !shown.contains(|it| it != '\n' && is_control(it)),
            "{shown}"
        );
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
            value
        );
    }

    #[test]
    fn urls_keep_their_secrets() {
        for (found, shown) in [
            ("http://host:1/a@b: refused", "http://host:1/a@b: refused"),
            ("`http://user:secret@host/a`", "`http://***@host/a`"),
            ("http://secret@host", "http://***@host"),
            ("http://user:se@cret@[::1]:80/", "http://***@[::1]:80/"),
            ("http://user:se/cr?et@host/a", "http://***@host/a"),
            ("http://[::1]/a@b", "http://[::1]/a@b"),
            (
                "from https://a/b?X-Sig=secret to \"s3://k:s@b?s\" at last",
                "from https://a/b?*** to \"s3://***@b?***\" at last",
            ),
        ] {
            assert_eq!(line(found), shown);
        }
    }
}
