//! Which authorities may say that a server is who it says it is.

use crate::error::{Error, Result};
use rustls_native_certs::{CertificateResult, load_certs_from_paths, load_native_certs};
use std::env;
use std::ffi::OsString;
use std::path::Path;
use ureq::tls::{Certificate, RootCerts};

/// Lists the variables of Python's requests, the nearer first. Each is a file or a folder in the place of all other
/// roots.
const BUNDLES: [&str; 2] = ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"];
/// Names the variables of OpenSSL: a file, and folders. They take the place of the system's roots.
const FILE: &str = "SSL_CERT_FILE";
const FOLDERS: &str = "SSL_CERT_DIR";

/// Returns Mozilla's roots, which are built in, and the system's, unless the environment names others.
///
/// # Errors
/// [`Error::Input`] where those alone are to be trusted that can't be read or aren't there.
pub fn from_environment() -> Result<RootCerts> {
    from_variables(|name| env::var_os(name))
}

/// Reads the roots by variables, of which an empty one counts as none.
fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Result<RootCerts> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    for name in BUNDLES {
        if let Some(path) = variable(name) {
            return Ok(certificates(name, path.as_ref())?.into());
        }
    }
    let built_in = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter();
    let mut roots: Vec<_> = built_in.map(|root| Certificate::from_der(root)).collect();
    match (variable(FILE), variable(FOLDERS)) {
        (None, None) => {
            let system = load_native_certs();
            for error in &system.errors {
                log::debug!("hub: the system's certificates: {error}");
            }
            roots.extend(owned(system));
        }
        (file, folders) => {
            let folders = folders.iter().flat_map(env::split_paths);
            let folders = folders.filter(|folder| !folder.as_os_str().is_empty());
            let file = file.map(|file| (FILE, file.into()));
            for (name, path) in file.into_iter().chain(folders.map(|it| (FOLDERS, it))) {
                match certificates(name, &path) {
                    Ok(found) => roots.extend(found),
                    // The built-in ones may do.
                    Err(error) => log::warn!("hub: {error}"),
                }
            }
        }
    }
    Ok(roots.into())
}

/// Reads the certificates in the file or folder that the variable `name` names.
fn certificates(name: &str, path: &Path) -> Result<Vec<Certificate<'static>>> {
    let problem = |problem: &dyn std::fmt::Display| {
        Error::input(name, format!("{}: {problem}", path.display()))
    };
    let found = match path.is_dir() {
        true => load_certs_from_paths(None, Some(path)),
        false => load_certs_from_paths(Some(path), None),
    };
    match found.errors.first() {
        Some(error) => Err(problem(error)),
        None if found.certs.is_empty() => Err(problem(&"expected certificates in PEM, found none")),
        None => Ok(owned(found)),
    }
}

fn owned(found: CertificateResult) -> Vec<Certificate<'static>> {
    let certificates = found.certs.iter();
    certificates
        .map(|found| Certificate::from_der(found).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate of nobody.
    fn pem() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.self_signed(&key).unwrap().pem()
    }

    fn count(variables: &[(&str, &Path)]) -> Result<usize> {
        let value = |name: &str| {
            let (_, value) = variables.iter().find(|(known, _)| *known == name)?;
            Some(value.as_os_str().to_owned())
        };
        match from_variables(value)? {
            RootCerts::Specific(roots) => Ok(roots.len()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn bundles_replace_all_roots_and_openssls_variables_the_systems() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (one, two, none) = (at("one.pem"), at("two.pem"), Path::new(""));
        std::fs::write(&one, pem()).unwrap();
        std::fs::write(&two, pem() + &pem()).unwrap();
        let built_in = webpki_root_certs::TLS_SERVER_ROOT_CERTS.len();
        assert!(built_in > 100);
        for (variables, expected) in [
            (&[(BUNDLES[0], &*one), (FILE, &*two)][..], 1),
            (&[(BUNDLES[0], none), (BUNDLES[1], &*two)], 2),
            (&[(BUNDLES[1], folder.path())], 3),
            (&[(FILE, &*two)], built_in + 2),
            (&[(FOLDERS, folder.path()), (FILE, &*one)], built_in + 4),
        ] {
            assert_eq!(count(variables).unwrap(), expected, "{variables:?}");
        }
        assert!(count(&[]).unwrap() >= built_in);
    }

    #[test]
    fn a_variable_that_leads_to_no_certificate_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "no certificate").unwrap();
        let missing = folder.path().join("missing");
        let built_in = webpki_root_certs::TLS_SERVER_ROOT_CERTS.len();
        for path in [&empty, &missing] {
            for name in [FILE, FOLDERS] {
                assert_eq!(count(&[(name, path)]).unwrap(), built_in);
            }
            for name in BUNDLES {
                let problem = count(&[(name, path)]).unwrap_err().to_string();
                assert!(
                    problem.starts_with(&format!("{name}: {}", path.display())),
                    "{problem}"
                );
            }
        }
    }
}
