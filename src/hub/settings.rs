//! What the environment says about the hub, in huggingface_hub's variables.

use crate::error::{Error, Result};
use std::env;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::PathBuf;

/// Says where the hub and its cache are, and who asks.
pub struct Settings {
    /// `HF_ENDPOINT`: the hub's URL, without a slash at its end, and without user and password.
    pub endpoint: String,
    /// The user and the password that `HF_ENDPOINT` has, as it has them, with a colon between them.
    pub user: Option<String>,
    /// `HF_HUB_CACHE`, else `hub` in `HF_HOME`.
    pub cache: PathBuf,
    /// `HF_TOKEN`, else what is in `HF_TOKEN_PATH` or in `token` in `HF_HOME`.
    pub token: Option<String>,
    /// `HF_HUB_OFFLINE`: nothing is asked, the cache alone is used.
    pub offline: bool,
}

impl Settings {
    /// Reads the settings of this process from its environment.
    ///
    /// # Errors
    /// [`Error::Input`] for a token's file that can't be read, and where there is no place for a cache.
    pub fn from_environment() -> Result<Self> {
        Self::from_variables(|name| env::var_os(name), env::home_dir())
    }

    /// Reads the settings from variables, of which an empty one counts as none.
    fn from_variables(
        variable: impl Fn(&str) -> Option<OsString>,
        home: Option<PathBuf>,
    ) -> Result<Self> {
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        let path = |name| variable(name).map(PathBuf::from);
        let text = |name| -> Result<Option<String>> {
            let value = variable(name).map(OsString::into_string).transpose();
            value.map_err(|_| Error::input(name, "is not UTF-8"))
        };
        let home = path("HF_HOME")
            .or_else(|| Some(path("XDG_CACHE_HOME")?.join("huggingface")))
            .or_else(|| Some(home?.join(".cache").join("huggingface")))
            .ok_or_else(|| {
                let problem =
                    "is not set and there is no home folder, so there is no place for a cache";
                Error::input("HF_HOME", problem)
            })?;
        let endpoint = text("HF_ENDPOINT")?.unwrap_or_else(|| "https://huggingface.co".to_owned());
        let (endpoint, user) = split_user(&endpoint);
        let token = match text("HF_TOKEN")? {
            Some(token) => token,
            None => {
                let file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
                match std::fs::read_to_string(&file) {
                    Ok(token) => token,
                    Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
                    Err(error) => {
                        return Err(Error::input(file, format!("can't be read: {error}")));
                    }
                }
            }
        };
        let offline = text("HF_HUB_OFFLINE")?.unwrap_or_default().to_uppercase();
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            user,
            cache: path("HF_HUB_CACHE").unwrap_or_else(|| home.join("hub")),
            token: Some(token.trim().to_owned()).filter(|token| !token.is_empty()),
            offline: ["1", "ON", "YES", "TRUE"].contains(&offline.as_str()),
        })
    }
}

/// Splits a URL into one without user and password, and these.
fn split_user(url: &str) -> (String, Option<String>) {
    let (scheme, rest) = match url.find("://") {
        Some(at) => url.split_at(at + "://".len()),
        None => ("", url),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((user, host)) => ([scheme, host, path].concat(), Some(user.to_owned())),
        None => (url.to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        let value = |name: &str| {
            let (_, value) = variables.iter().find(|(known, _)| *known == name)?;
            Some(OsString::from(value))
        };
        Settings::from_variables(value, Some("/home/me".into())).unwrap()
    }

    #[test]
    fn defaults_are_huggingface_hubs() {
        let found = settings(&[("HF_HOME", ""), ("HF_HUB_OFFLINE", "0")]);
        assert_eq!(found.endpoint, "https://huggingface.co");
        assert_eq!(found.cache, Path::new("/home/me/.cache/huggingface/hub"));
        assert_eq!((found.token, found.offline), (None, false));
    }

    #[test]
    fn variables_are_followed_the_nearer_first() {
        let cache = |variables: &[_]| settings(variables).cache;
        let (xdg, home) = (("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/h"));
        assert_eq!(cache(&[xdg]), Path::new("/x/huggingface/hub"));
        assert_eq!(cache(&[xdg, home]), Path::new("/h/hub"));
        assert_eq!(cache(&[home, ("HF_HUB_CACHE", "/c")]), Path::new("/c"));
        for value in ["1", "on", "YES", "True"] {
            assert!(settings(&[("HF_HUB_OFFLINE", value)]).offline);
        }
        let found = settings(&[("HF_ENDPOINT", "http://mirror:1/hf/")]);
        assert_eq!(found.endpoint, "http://mirror:1/hf");
    }

    #[test]
    fn user_and_password_are_no_part_of_the_endpoint() {
        for (variable, endpoint, user) in [
            ("https://host/a@b", "https://host/a@b", None),
            ("http://u:p@host:1/hf/", "http://host:1/hf", Some("u:p")),
            ("http://u:p@q@[::1]", "http://[::1]", Some("u:p@q")),
            ("u:p@host", "host", Some("u:p")),
        ] {
            let found = settings(&[("HF_ENDPOINT", variable)]);
            assert_eq!((&*found.endpoint, found.user.as_deref()), (endpoint, user));
        }
    }

    #[test]
    fn the_token_is_the_variables_or_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        std::fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        std::fs::write(folder.path().join("other"), "hf_other").unwrap();
        let other = folder.path().join("other");
        let at = ("HF_HOME", home);
        assert_eq!(settings(&[at]).token.as_deref(), Some("hf_file"));
        let named = ("HF_TOKEN_PATH", other.to_str().unwrap());
        assert_eq!(settings(&[at, named]).token.as_deref(), Some("hf_other"));
        let set = ("HF_TOKEN", " hf_set ");
        assert_eq!(settings(&[at, named, set]).token.as_deref(), Some("hf_set"));
    }
}
