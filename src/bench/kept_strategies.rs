//! Which strategies are fastest on a device: what tuning measured, kept in the user's cache for later runs.

use crate::device::{Device, Strategy};
use crate::error::{Error, Result};
use crate::file::input;
use crate::file::output;
use crate::kernels::{
    Elsewhere, INTEGER_STRATEGY_NAMES, STRATEGY_NAMES, adopt, adopt_carefully, suits,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

const FORMAT: &str = "ptq4vit-gpu tuning";
const FORMAT_VERSION: u32 = 1;

/// Says whose strategies they are. Another driver, or another version of the kernels, may be fastest with others.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    adapter: String,
    driver: String,
    tool_version: String,
}

impl Key {
    fn of(device: &Device) -> Self {
        Self {
            adapter: device.name().to_owned(),
            driver: device.driver().to_owned(),
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Returns a name that no other key has.
    fn file_name(&self) -> String {
        let text = [&*self.adapter, &self.driver, &self.tool_version].join("\0");
        let digest = Sha256::digest(text.as_bytes());
        let digest: String = digest[..8].iter().map(|b| format!("{b:02x}")).collect();
        format!("tuning-{digest}.json")
    }
}

/// Holds the file as it is stored.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    format_version: u32,
    key: Key,
    strategies: BTreeMap<String, Strategy>,
}

/// Makes `device` use the strategies that were kept for it. Without any, those that are usually the fastest are tried, at
/// first `elsewhere`, and what was right is kept.
///
/// # Errors
/// [`Error::Input`] for a file that can't be read or isn't right, or can't be written; and for kept strategies that compute
/// wrong, of which the experimental ones are tried each time.
pub fn apply(device: &Device, elsewhere: Elsewhere) -> Result<()> {
    let key = Key::of(device);
    let Some(path) = cache().map(|folder| folder.join(key.file_name())) else {
        return Ok(());
    };
    let Some(text) = input::text_if_any(&path)? else {
        return apply_usual(device, elsewhere);
    };
    log::debug!("tuning: as {} says", path.display());
    let offers = |strategy| device.offers(strategy);
    let strategies = parse(&text, &key, offers).map_err(|problem| Error::input(&path, problem))?;
    for (name, strategy) in strategies {
        if strategy.is_experimental() {
            adopt(device, name, strategy).map_err(|error| Error::input(&path, error))?;
        } else {
            device.set_strategy(name, strategy);
        }
    }
    Ok(())
}

/// Adopts matrices of int8 where a GPU has some: wherever they were measured, integer products were the fastest by far.
fn apply_usual(device: &Device, elsewhere: Elsewhere) -> Result<()> {
    let usual = Strategy::CooperativeInt8;
    if device.is_software() || !device.offers(usual) {
        return Ok(());
    }
    let path = file_for(device)?;
    log::info!("tuning: {usual} are tried, once");
    let mut strategies = Vec::new();
    for name in INTEGER_STRATEGY_NAMES {
        match adopt_carefully(device, name, usual, elsewhere) {
            Ok(()) => strategies.push((name, usual)),
            Err(error) => log::warn!("tuning: not used: {error}"),
        }
    }
    keep(&path, device, &strategies)
}

/// Reads the strategies in a file, each checked.
fn parse(
    text: &str,
    key: &Key,
    offers: impl Fn(Strategy) -> bool,
) -> std::result::Result<Vec<(&'static str, Strategy)>, String> {
    let file: File = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if (&*file.format, file.format_version) != (FORMAT, FORMAT_VERSION) {
        return Err(format!(
            "is not of the format {FORMAT}, version {FORMAT_VERSION}"
        ));
    }
    if file.key != *key {
        return Err(format!("is for {:?}, not for {key:?}", file.key));
    }
    let known = |(name, strategy): (String, Strategy)| {
        let known = STRATEGY_NAMES.into_iter().find(|known| *known == name);
        let known = known.ok_or_else(|| format!("has a strategy for {name}, which is unknown"))?;
        if !suits(known, strategy) {
            Err(format!(
                "has {strategy} for {name}, which isn't computed so"
            ))
        } else if offers(strategy) {
            Ok((known, strategy))
        } else {
            Err(format!(
                "has {strategy} for {name}, which the device doesn't offer"
            ))
        }
    };
    file.strategies.into_iter().map(known).collect()
}

/// Returns the file that keeps strategies for later runs on this adapter with this driver, which can be written.
///
/// # Errors
/// No place for a cache, or one that can't be written to.
pub fn file_for(device: &Device) -> Result<PathBuf> {
    let folder = cache().ok_or_else(|| {
        let problem = "is not set and there is no home folder, so there is no place for a cache";
        Error::input("XDG_CACHE_HOME", problem)
    })?;
    std::fs::create_dir_all(&folder)
        .map_err(|error| Error::input(&folder, format!("can't be made: {error}")))?;
    let path = folder.join(Key::of(device).file_name());
    output::regular(&path, "it is read again")?;
    Ok(path)
}

/// Keeps `strategies` at `path`, the device's [`file_for`] them.
///
/// # Errors
/// A file that can't be written.
pub fn keep(path: &Path, device: &Device, strategies: &[(&'static str, Strategy)]) -> Result<()> {
    let named = strategies.iter();
    let file = File {
        format: FORMAT.to_owned(),
        format_version: FORMAT_VERSION,
        key: Key::of(device),
        strategies: named.map(|(name, s)| ((*name).to_owned(), *s)).collect(),
    };
    output::write(path, |out| {
        serde_json::to_writer_pretty(&mut *out, &file)?;
        writeln!(out)
    })
}

/// Returns this program's folder in the user's cache.
fn cache() -> Option<PathBuf> {
    cache_of(env::consts::OS, |name| env::var_os(name), env::home_dir())
}

/// Returns `XDG_CACHE_HOME`, else where the system has caches.
fn cache_of(
    system: &str,
    variable: impl Fn(&str) -> Option<OsString>,
    home: Option<PathBuf>,
) -> Option<PathBuf> {
    let path = |name| {
        let value = variable(name).filter(|value| !value.is_empty());
        value.map(PathBuf::from)
    };
    let of_system = || match system {
        "windows" => path("LOCALAPPDATA"),
        "macos" => Some(home?.join("Library").join("Caches")),
        _ => Some(home?.join(".cache")),
    };
    let caches = path("XDG_CACHE_HOME").or_else(of_system)?;
    Some(caches.join("ptq4vit-gpu"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Tile;

    fn key() -> Key {
        Key {
            adapter: "an adapter".to_owned(),
            driver: "a driver 1.0".to_owned(),
            tool_version: "0.1.0".to_owned(),
        }
    }

    fn text(strategies: &str) -> String {
        let key = serde_json::to_string(&key()).unwrap();
        format!(
            r#"{{"format":"{FORMAT}","format_version":1,"key":{key},"strategies":{strategies}}}"#
        )
    }

    #[test]
    fn strategies_are_read() {
        let tile = Tile {
            lanes: [4, 8],
            step: 16,
            ..Tile::DEFAULT
        };
        let found = parse(
            &text(
                r#"{"integer_product":{"tiled":{"lanes":[4,8],"step":16}},
                    "float_product":"registers"}"#,
            ),
            &key(),
            |_| true,
        );
        let expected = vec![
            ("float_product", Strategy::Registers),
            ("integer_product", Strategy::Tiled(tile)),
        ];
        assert_eq!(found, Ok(expected));
    }

    #[test]
    fn what_is_not_right_is_refused_by_name() {
        let fails = |text: &str, named: &str| {
            let registers = |strategy| strategy == Strategy::Registers;
            let problem = parse(text, &key(), registers).unwrap_err();
            assert!(problem.contains(named), "{problem}");
        };
        fails("", "EOF");
        fails(&text("{}")[..40], "EOF");
        fails(&text("{}").replace("tuning\"", "tuner\""), "format");
        fails(
            &text("{}").replace("version\":1", "version\":2"),
            "version 1",
        );
        fails(&text("{}").replace("1.0", "1.1"), "a driver 1.1");
        fails(&text(r#"{"gelu":"registers"}"#), "gelu");
        fails(&text(r#"{"integer_product":"magic"}"#), "magic");
        let tile = |tile: &str| text(&format!(r#"{{"integer_product":{{"tiled":{{{tile}}}}}}}"#));
        fails(&tile(r#""lanes":[64,64],"step":8"#), "64x64");
        fails(&tile(r#""lanes":[8,16],"step":8,"depth":1"#), "depth");
        fails(&tile(r#""lanes":[8,16],"step":8,"stages":9"#), "offer");
        fails(&tile(r#""lanes":[8],"step":8"#), "array of length 2");
        let fused = r#"{"fused":{"queries":16}}"#;
        fails(
            &text(&format!(r#"{{"integer_product":{fused}}}"#)),
            "computed so",
        );
        fails(&text(&format!(r#"{{"fused_attention":{fused}}}"#)), "offer");
        fails(&text(r#"{"fused_attention":"registers"}"#), "computed so");
        let deeper = r#"{"fused":{"queries":16,"depth":1}}"#;
        fails(
            &text(&format!(r#"{{"fused_attention":{deeper}}}"#)),
            "depth",
        );
    }

    #[test]
    fn each_system_has_its_place_for_caches() {
        let at = |system: &str, variables: &[(&str, &str)], home: Option<&str>| {
            let value = |name: &str| {
                let (_, value) = variables.iter().find(|(known, _)| *known == name)?;
                Some(OsString::from(value))
            };
            cache_of(system, value, home.map(PathBuf::from))
        };
        let (xdg, local) = (("XDG_CACHE_HOME", "/x"), ("LOCALAPPDATA", "/l"));
        let home = Some("/home/me");
        for (system, variables, found) in [
            ("linux", &[][..], "/home/me/.cache/ptq4vit-gpu"),
            (
                "linux",
                &[("XDG_CACHE_HOME", "")],
                "/home/me/.cache/ptq4vit-gpu",
            ),
            ("linux", &[xdg, local], "/x/ptq4vit-gpu"),
            ("macos", &[], "/home/me/Library/Caches/ptq4vit-gpu"),
            ("windows", &[local], "/l/ptq4vit-gpu"),
        ] {
            assert_eq!(
                at(system, variables, home).as_deref(),
                Some(Path::new(found))
            );
        }
        assert_eq!(at("linux", &[], None), None);
    }
}
