//! A hub on this machine, as far as downloads see one, that can be told to misbehave.
//!
//! Like the real one it redirects: to another of its paths for small files, to another server, its storage, for large
//! ones, whose ETag is their SHA-256.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// The files of a commit, by name.
pub type Files = BTreeMap<&'static str, Vec<u8>>;

/// Files of at least this many bytes are large.
const LARGE: usize = 100_000;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    None,
    /// The hub answers everything with this status, error code and error message.
    Refuses(u16, &'static str, &'static str),
    /// The hub's answers have none of its headers.
    IsNoHub,
    /// The hub redirects to itself for ever.
    Circles,
    /// The storage's connections end after this many bytes of a file.
    BreaksOff(usize),
    /// The storage announces this length, whatever it sends.
    Announces(usize),
    /// The storage sends whole files where a part is asked for.
    IgnoresRanges,
    /// The storage changes a file's last byte.
    Damages,
}

/// What either server was asked.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: String,
    /// As it was sent. The storage's are `/storage/COMMIT/FILE`.
    pub path: String,
    pub authorization: Option<String>,
    pub range: Option<String>,
}

impl Request {
    /// The first byte that is asked for.
    fn start(&self) -> usize {
        let start = self.range.as_deref().map(|range| {
            let range = range
                .strip_prefix("bytes=")
                .and_then(|range| range.strip_suffix('-'));
            range.expect("an open range").parse().expect("a number")
        });
        start.unwrap_or(0)
    }
}

/// What the servers have, do wrong and were asked.
pub struct State {
    pub fault: Fault,
    requests: Vec<Request>,
    /// The one repository.
    id: &'static str,
    /// Commits of branches and tags.
    revisions: BTreeMap<&'static str, String>,
    commits: BTreeMap<String, Files>,
}

/// A running hub and its storage. They end with the value.
pub struct Hub {
    state: Arc<Mutex<State>>,
    hub: Server,
    _storage: Server,
    scheme: &'static str,
}

/// An authority that signs a server's certificate.
pub struct Authority {
    /// Its own certificate.
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self {
            pem: parameters.self_signed(&key).unwrap().pem(),
            issuer: Issuer::new(parameters, key),
        }
    }

    /// What a server on this machine needs to be believed.
    fn server(&self) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let parameters = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let config = builder
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key);
        Arc::new(config.unwrap())
    }
}

impl Hub {
    /// A hub with one repository, `id`, and these files on its branch `main`.
    pub fn new(id: &'static str, files: Files) -> Self {
        Self::start(id, files, None)
    }

    /// The same over TLS, with a certificate of this authority; its storage has none.
    pub fn with_tls(id: &'static str, files: Files, authority: &Authority) -> Self {
        Self::start(id, files, Some(authority.server()))
    }

    fn start(id: &'static str, files: Files, tls: Option<Arc<ServerConfig>>) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let state = Arc::new(Mutex::new(State {
            fault: Fault::None,
            requests: Vec::new(),
            id,
            revisions: BTreeMap::new(),
            commits: BTreeMap::new(),
        }));
        let storage = Server::start(&state, None, |state, request| state.stored(request));
        let at = storage.address;
        let hub = Server::start(&state, tls, move |state, request| state.answer(request, at));
        let hub = Self {
            state,
            hub,
            _storage: storage,
            scheme,
        };
        hub.commit("main", files);
        hub
    }

    /// Makes a commit, which `revision` is from now on.
    pub fn commit(&self, revision: &'static str, files: Files) -> String {
        let mut state = self.state();
        let commit = format!("{:040x}", 0xc0ffee + state.commits.len());
        state.commits.insert(commit.clone(), files);
        state.revisions.insert(revision, commit.clone());
        commit
    }

    /// What `HF_ENDPOINT` is to be.
    pub fn endpoint(&self) -> String {
        format!("{}://{}", self.scheme, self.hub.address)
    }

    /// The same with a user and a password.
    pub fn endpoint_of(&self, user: &str) -> String {
        format!("{}://{user}@{}", self.scheme, self.hub.address)
    }

    /// What was asked since the last call.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state().requests)
    }

    pub fn set_fault(&self, fault: Fault) {
        self.state().fault = fault;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// The blob's name that the hub gives a file.
pub fn etag(file: &[u8]) -> String {
    let mut digits = format!("{:x}", Sha256::digest(file));
    // Of small files it is the SHA-1 that git has for them.
    digits.truncate(if file.len() < LARGE { 40 } else { 64 });
    digits
}

/// An answer that is to be sent.
struct Response {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Bytes of the body after which the connection ends.
    ends: usize,
}

impl Response {
    fn new(status: u16, headers: Vec<(&'static str, String)>) -> Self {
        Self {
            status,
            headers,
            body: Vec::new(),
            ends: usize::MAX,
        }
    }

    fn error(status: u16, code: &str, message: &str) -> Self {
        let headers = [("X-Error-Code", code), ("X-Error-Message", message)];
        let told = headers.into_iter().filter(|(_, value)| !value.is_empty());
        Self::new(
            status,
            told.map(|(name, value)| (name, value.to_owned())).collect(),
        )
    }
}

impl State {
    /// The hub's answer.
    fn answer(&self, request: &Request, storage: SocketAddr) -> Response {
        match self.fault {
            Fault::Refuses(status, code, message) => return Response::error(status, code, message),
            Fault::IsNoHub => return Response::new(200, Vec::new()),
            Fault::Circles => return Response::new(307, vec![("Location", request.path.clone())]),
            _ => {}
        }
        let (cached, path) = match request.path.strip_prefix("/api/resolve-cache/models/") {
            Some(path) => (true, path),
            None => (false, &request.path[1..]),
        };
        let Some(path) = path
            .strip_prefix(self.id)
            .and_then(|path| path.strip_prefix('/'))
        else {
            return Response::error(404, "RepoNotFound", "Repository not found");
        };
        let path = path.strip_prefix("resolve/").unwrap_or(path);
        let (revision, name) = path.split_once('/').expect("a revision and a file");
        let revision = revision.replace("%2F", "/");
        let commit = self.revisions.get(&*revision).unwrap_or(&revision);
        let Some(files) = self.commits.get(commit) else {
            return Response::error(404, "RevisionNotFound", "Invalid rev id");
        };
        let Some(file) = files.get(name) else {
            return Response::error(404, "EntryNotFound", "Entry not found");
        };
        let mut headers = vec![("X-Repo-Commit", commit.clone())];
        let tag = format!("\"{}\"", etag(file));
        if file.len() >= LARGE {
            headers.push(("X-Linked-Etag", tag));
            headers.push(("X-Linked-Size", file.len().to_string()));
            headers.push((
                "Location",
                format!("http://{storage}/storage/{commit}/{name}"),
            ));
            return Response::new(302, headers);
        }
        if !cached {
            let to = format!("/api/resolve-cache/models/{}/{commit}/{name}", self.id);
            headers.push(("Location", to));
            return Response::new(307, headers);
        }
        headers.push(("ETag", tag));
        Response {
            body: file.clone(),
            ..Response::new(200, headers)
        }
    }

    /// The storage's answer. Like a real one it knows neither commits nor the hub's ETags.
    fn stored(&self, request: &Request) -> Response {
        let path = request
            .path
            .strip_prefix("/storage/")
            .expect("the storage's path");
        let (commit, name) = path.split_once('/').expect("a commit and a file");
        let mut body = self.commits[commit][name].clone();
        if self.fault == Fault::Damages {
            *body.last_mut().expect("a large file") ^= 1;
        }
        let start = match self.fault {
            Fault::IgnoresRanges => 0,
            _ => request.start(),
        };
        if start >= body.len() {
            return Response::new(416, Vec::new());
        }
        let range = format!("bytes {start}-{}/{}", body.len() - 1, body.len());
        let mut response = match start {
            0 => Response::new(200, vec![("ETag", "\"storage\"".to_owned())]),
            _ => Response::new(206, vec![("Content-Range", range)]),
        };
        response.body = body.split_off(start);
        match self.fault {
            Fault::BreaksOff(bytes) => response.ends = bytes,
            Fault::Announces(bytes) => response.headers.push(("Content-Length", bytes.to_string())),
            _ => {}
        }
        response
    }
}

/// A thread that answers on a port of its own.
struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(
        state: &Arc<Mutex<State>>,
        tls: Option<Arc<ServerConfig>>,
        answer: impl Fn(&State, &Request) -> Response + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a port");
        let stop = Arc::new(AtomicBool::new(false));
        let (state, stopped) = (state.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            for connection in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let respond = |connection: TcpStream| -> Result<()> {
                    let mut connection: Box<dyn ReadWrite> = match &tls {
                        None => Box::new(connection),
                        Some(config) => {
                            let session = ServerConnection::new(config.clone());
                            let session = session.expect("a sound configuration");
                            Box::new(StreamOwned::new(session, connection))
                        }
                    };
                    let request = receive(&mut connection)?;
                    let response = {
                        let mut state = state.lock().unwrap();
                        state.requests.push(request.clone());
                        answer(&state, &request)
                    };
                    send(&mut connection, &request, response)
                };
                // A client that goes away before it has all is no failure of the hub's.
                let _ = connection.and_then(respond);
            }
        });
        Self {
            address,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes it up.
        drop(TcpStream::connect(self.address));
        let thread = self.thread.take().expect("it runs until here");
        thread.join().expect("the server's thread did not panic");
    }
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

fn receive(connection: &mut impl Read) -> Result<Request> {
    let mut request = Request::default();
    for (number, line) in BufReader::new(connection).lines().enumerate() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if number == 0 {
            let mut words = line.split(' ').map(str::to_owned);
            request.method = words.next().unwrap_or_default();
            request.path = words.next().unwrap_or_default();
        } else if let Some((name, value)) = line.split_once(": ") {
            match name.to_lowercase().as_str() {
                "authorization" => request.authorization = Some(value.to_owned()),
                "range" => request.range = Some(value.to_owned()),
                _ => {}
            }
        }
    }
    Ok(request)
}

fn send(connection: &mut impl Write, request: &Request, response: Response) -> Result<()> {
    let mut head = format!(
        "HTTP/1.1 {} Status\r\nConnection: close\r\n",
        response.status
    );
    for (name, value) in &response.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !response
        .headers
        .iter()
        .any(|(name, _)| *name == "Content-Length")
    {
        head += &format!("Content-Length: {}\r\n", response.body.len());
    }
    connection.write_all(format!("{head}\r\n").as_bytes())?;
    if request.method == "GET" {
        let sent = response.body.len().min(response.ends);
        connection.write_all(&response.body[..sent])?;
    }
    connection.flush()
}
