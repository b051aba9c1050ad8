//! The hub's HTTP endpoints, as far as a download needs them.

use super::cache::is_commit;
use super::settings::Settings;
use super::{Repository, is_plain, roots};
use crate::error::Error;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use percent_encoding::percent_decode_str;
use std::time::Duration;
use ureq::http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, ETAG, HeaderName, LOCATION, RANGE,
};
use ureq::http::uri::Scheme;
use ureq::http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use ureq::tls::TlsConfig;
use ureq::{Agent, Body};

/// Names the header with the commit that a revision is.
const COMMIT: HeaderName = HeaderName::from_static("x-repo-commit");
/// Names the header with the ETag of a file that is kept elsewhere, and the next one its size. Large files are, and
/// their ETag is their SHA-256.
const LINKED_ETAG: HeaderName = HeaderName::from_static("x-linked-etag");
const LINKED_SIZE: HeaderName = HeaderName::from_static("x-linked-size");
/// Names the header that says why the hub refuses for programs, and the next one for people.
const ERROR_CODE: HeaderName = HeaderName::from_static("x-error-code");
const ERROR_MESSAGE: HeaderName = HeaderName::from_static("x-error-message");

/// Limits how long a connection may take, as in huggingface_hub.
const CONNECT: Duration = Duration::from_secs(10);
/// Limits how long the hub may be silent.
const SILENCE: Duration = Duration::from_secs(30);
/// Limits the redirects that are followed.
const REDIRECTS: usize = 10;

/// Says why there is no file.
pub enum Failure {
    /// The hub can't be reached, or doesn't answer as one: the cache may do.
    Unreachable(String),
    /// The revision has no file at this URL.
    Absent(String),
    /// Nothing else will do.
    Final(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// Holds what the hub tells of a file.
pub struct Entry {
    pub commit: String,
    /// The name of its blob: SHA-256 of a large file.
    pub etag: String,
    /// Bytes, where it tells.
    pub size: Option<u64>,
}

/// Asks a hub about one repository.
pub struct Client<'a> {
    agent: Agent,
    endpoint: &'a str,
    repository: &'a Repository,
    /// The header that goes to the endpoint itself, never to where it redirects to.
    authorization: Option<HeaderValue>,
    /// Whose authorization that is.
    account: Account,
}

/// Says who asks.
enum Account {
    Nobody,
    /// A token of the hub.
    Token,
    /// A user of the server in front of the hub.
    User,
}

impl<'a> Client<'a> {
    /// Makes a client for `repository`, which may ask as the user or with the token of `settings`.
    ///
    /// # Errors
    /// [`Error::Input`] for an endpoint that is no URL, and a token that can't be sent.
    pub fn new(settings: &'a Settings, repository: &'a Repository) -> Result<Self, Error> {
        let endpoint = settings.endpoint.as_str();
        let is_url = endpoint.parse().is_ok_and(|uri| origin(&uri).is_some());
        if !is_url || endpoint.contains(['?', '#']) {
            // Without what may be a password that wasn't written as URLs have it, or a key.
            let shown = endpoint.rsplit('@').next().unwrap_or_default();
            let shown = shown.split(['?', '#']).next().unwrap_or_default();
            let problem = format!(
                "`{shown}` is no URL, expected http:// or https:// and a host, without a query; in a password, `/`, \
                 `?` and `#` are written as %2F, %3F and %23"
            );
            return Err(Error::input("HF_ENDPOINT", problem));
        }
        // As Python's clients do, which prefer what the URL has.
        let (account, authorization) = match (&settings.user, &settings.token) {
            (Some(user), _) => (Account::User, Some(basic(user))),
            (None, Some(token)) => (Account::Token, Some(format!("Bearer {token}"))),
            (None, None) => (Account::Nobody, None),
        };
        let authorization = authorization.map(HeaderValue::try_from).transpose();
        let mut authorization = authorization.map_err(|_| {
            Error::input("HF_TOKEN", "the token holds characters that no token has")
        })?;
        if let Some(authorization) = &mut authorization {
            authorization.set_sensitive(true);
        }
        let tls = TlsConfig::builder().root_certs(roots::from_environment()?);
        let config = Agent::config_builder()
            .tls_config(tls.build())
            .http_status_as_error(false)
            // Followed here: only the hub's own answers tell the commit, and only it gets the token.
            .max_redirects(0)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .user_agent(concat!("ptq4vit-gpu/", env!("CARGO_PKG_VERSION")));
        Ok(Self {
            agent: config.build().into(),
            endpoint,
            repository,
            authorization,
            account,
        })
    }

    /// Asks for `file` at `revision`, without fetching it.
    pub fn look_up(&self, revision: &str, file: &str) -> Result<Entry, Failure> {
        let url = self.url(revision, file);
        let has_all = |response: &Response<Body>| {
            header(response, COMMIT).is_some() && header(response, LINKED_ETAG).is_some()
        };
        let response = self.send(Method::HEAD, &url, 0, has_all)?;
        if response.status().is_redirection() || response.status().is_success() {
            entry(&response).ok_or_else(|| {
                Failure::Unreachable(format!(
                    "{url} answers {} without x-repo-commit and an ETag, as no hub does: check HF_ENDPOINT and the \
                     network's proxy",
                    response.status()
                ))
            })
        } else {
            Err(self.refusal(&response, &url, revision))
        }
    }

    /// Fetches `file` at `commit` from byte `start` on. Also says where the answer starts: some servers send the whole
    /// file.
    pub fn fetch(&self, commit: &str, file: &str, start: u64) -> Result<(u64, Body), Failure> {
        let url = self.url(commit, file);
        let response = self.send(Method::GET, &url, start, |_| false)?;
        match response.status() {
            StatusCode::OK => Ok((0, response.into_body())),
            StatusCode::PARTIAL_CONTENT => Ok((start, response.into_body())),
            _ => Err(self.refusal(&response, &url, commit)),
        }
    }

    /// Returns the URL of `file` at `revision`.
    pub fn url(&self, revision: &str, file: &str) -> String {
        let (endpoint, id) = (self.endpoint, &self.repository.id);
        format!(
            "{endpoint}/{id}/resolve/{}/{file}",
            revision.replace('/', "%2F")
        )
    }

    /// Sends a request, from byte `start` on, and follows redirects up to an answer that is `enough`.
    fn send(
        &self,
        method: Method,
        url: &str,
        start: u64,
        enough: impl Fn(&Response<Body>) -> bool,
    ) -> Result<Response<Body>, Failure> {
        let unreachable =
            |why: &dyn std::fmt::Display| Failure::Unreachable(format!("{url}: {why}"));
        log::debug!("hub: {method} {url}");
        let hub: Uri = url.parse().map_err(|error| unreachable(&error))?;
        let mut uri = hub.clone();
        for _ in 0..=REDIRECTS {
            // The size and the ranges are those of the file itself, not of a compressed form.
            let mut request = Request::builder()
                .method(&method)
                .uri(&uri)
                .header(ACCEPT_ENCODING, "identity");
            if let Some(authorization) = &self.authorization
                && origin(&uri) == origin(&hub)
            {
                request = request.header(AUTHORIZATION, authorization);
            }
            if start > 0 {
                request = request.header(RANGE, format!("bytes={start}-"));
            }
            let request = request.body(()).map_err(|error| unreachable(&error))?;
            let response = self.agent.run(request).map_err(|error| {
                // What stands between may be a company's, with an authority of its own.
                let text = error.to_string();
                let hint = match text.contains("UnknownIssuer") {
                    true => "; SSL_CERT_FILE names a file of more certificates to trust",
                    false => "",
                };
                unreachable(&format!("{text}{hint}"))
            })?;
            if !response.status().is_redirection() || enough(&response) {
                return Ok(response);
            }
            let to = header(&response, LOCATION).unwrap_or_default();
            // What it is isn't said: it may be signed.
            uri =
                redirected(&uri, to).ok_or_else(|| unreachable(&"redirects to what is no URL"))?;
        }
        Err(unreachable(&format!(
            "redirects more than {REDIRECTS} times"
        )))
    }

    /// Says what an answer other than the file means, and what to do.
    fn refusal(&self, response: &Response<Body>, url: &str, revision: &str) -> Failure {
        let status = response.status();
        let (id, endpoint) = (&self.repository.id, self.endpoint);
        let why = match (status.as_u16(), header(response, ERROR_CODE)) {
            (_, Some("GatedRepo")) => format!(
                "the repository is gated: accept its licence at {endpoint}/{id}, and set HF_TOKEN to a token of that \
                 account"
            ),
            (404, Some("RepoNotFound")) => format!("the hub has no repository {id}"),
            (404, Some("RevisionNotFound")) => {
                format!("the repository has no revision `{revision}`")
            }
            (404, _) => return Failure::Absent(url.to_owned()),
            // So it also answers for a repository that isn't there, unless asked by a known account.
            (401 | 403, _) if matches!(self.account, Account::User) => {
                "the user or the password in HF_ENDPOINT is wrong, or may not read this repository"
                    .to_owned()
            }
            (401, _) if matches!(self.account, Account::Nobody) => {
                "the repository doesn't exist or is private: check its name, or set HF_TOKEN"
                    .to_owned()
            }
            (401 | 403, _) => {
                "the token is wrong or may not read this repository: check HF_TOKEN, or `token` in HF_HOME".to_owned()
            }
            (429, _) => return Failure::Unreachable(format!("{url} answers {status}: try later")),
            (500.., _) => return Failure::Unreachable(format!("{url} answers {status}")),
            _ => "unexpected".to_owned(),
        };
        let message = header(response, ERROR_MESSAGE);
        let message = message.map_or(String::new(), |message| format!(" ({message})"));
        let problem = format!("{why}; {url} answers {status}{message}");
        Failure::Final(Error::input(self.repository.to_string(), problem))
    }
}

/// Reads what an answer tells of a file, if it is a hub's. Commit and ETag will name files.
fn entry(response: &Response<Body>) -> Option<Entry> {
    let commit = header(response, COMMIT).filter(|commit| is_commit(commit))?;
    let etag = header(response, LINKED_ETAG).or_else(|| header(response, ETAG))?;
    let etag = etag.trim_start_matches("W/").trim_matches('"');
    let length = || match response.status().is_redirection() {
        true => None,
        false => header(response, CONTENT_LENGTH),
    };
    let size = header(response, LINKED_SIZE).or_else(length);
    Some(Entry {
        commit: commit.to_owned(),
        etag: Some(etag).filter(|etag| is_plain(etag, "-_."))?.to_owned(),
        size: size.and_then(|size| size.parse().ok()),
    })
}

fn header(response: &Response<Body>, name: HeaderName) -> Option<&str> {
    response.headers().get(name)?.to_str().ok()
}

/// Returns the header's value for a user and a password, written as in a URL.
fn basic(user: &str) -> String {
    // The first colon ends the user.
    let decoded: Vec<u8> = percent_decode_str(user).collect();
    let colon = if user.contains(':') { "" } else { ":" };
    format!(
        "Basic {}",
        BASE64_STANDARD.encode([&decoded, colon.as_bytes()].concat())
    )
}

/// Returns scheme, host and port.
fn origin(uri: &Uri) -> Option<(&Scheme, &str, Option<u16>)> {
    let is_http = |scheme: &&Scheme| [Scheme::HTTP, Scheme::HTTPS].contains(scheme);
    Some((uri.scheme().filter(is_http)?, uri.host()?, uri.port_u16()))
}

/// Returns where a redirect from `uri` leads.
fn redirected(uri: &Uri, to: &str) -> Option<Uri> {
    let absolute = match to.starts_with('/') && !to.starts_with("//") {
        true => format!("{}://{}{to}", uri.scheme()?, uri.authority()?),
        false => to.to_owned(),
    };
    absolute.parse().ok().filter(|uri| origin(uri).is_some())
}
