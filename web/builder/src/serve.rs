//! A server for this machine, to look at the site.

use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::thread;

/// A request's head may have so many bytes and headers, more than a browser sends.
const MAX_HEAD_BYTES: usize = 1 << 16;
const MAX_HEADERS: usize = 64;

/// Serves the folder `site` on a port of this machine, until it is stopped. Prints the address when it can be reached.
pub fn serve(site: &Path, port: u16) -> Result<()> {
    ensure!(
        site.join("engine.js").exists(),
        "{} has no site; build it first: cargo run --release -p site -- build",
        site.display()
    );
    let listener = TcpListener::bind(("127.0.0.1", port)).context(format!("port {port}"))?;
    println!("http://{}/", listener.local_addr()?);
    thread::scope(|scope| {
        for stream in listener.incoming() {
            let stream = stream?;
            scope.spawn(move || {
                // A browser opens connections that it doesn't use, and leaves when it likes.
                if let Err(error) = answer(site, stream) {
                    eprintln!("{error}");
                }
            });
        }
        Ok(())
    })
}

/// Answers one request, with which the connection ends.
fn answer(site: &Path, mut stream: TcpStream) -> Result<()> {
    let Some((method, url)) = request(&mut stream)? else {
        return Ok(());
    };
    if method != "GET" {
        return refuse(stream, "405 Method Not Allowed");
    }
    let Some(path) = path_of(site, &url) else {
        return refuse(stream, "404 Not Found");
    };
    let mut file = File::open(&path)?;
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-cache\r\nConnection: close\r\n\r\n",
        media_type(&path),
        file.metadata()?.len()
    )?;
    io::copy(&mut file, &mut stream)?;
    Ok(())
}

fn refuse(mut stream: TcpStream, status: &str) -> Result<()> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    Ok(stream.write_all(head.as_bytes())?)
}

/// Reads the head of a request: its method and URL. `None` where the connection ends before it.
fn request(stream: &mut TcpStream) -> Result<Option<(String, String)>> {
    let mut head = Vec::new();
    let mut piece = [0; 4096];
    while head.len() < MAX_HEAD_BYTES {
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Ok(None);
        }
        head.extend(&piece[..count]);
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        if request.parse(&head)?.is_complete() {
            let part = |part: Option<&str>| part.unwrap_or_default().to_owned();
            return Ok(Some((part(request.method), part(request.path))));
        }
    }
    bail!("a request's head has more than {MAX_HEAD_BYTES} bytes")
}

/// Returns the file that a URL stands for, if its path leads nowhere else.
fn path_of(site: &Path, url: &str) -> Option<PathBuf> {
    let (path, _) = url.split_once('?').unwrap_or((url, ""));
    let path = Path::new(path.strip_prefix('/')?);
    let stays = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    let file = match path.as_os_str().is_empty() {
        true => site.join("index.html"),
        false => site.join(path),
    };
    (stays && file.is_file()).then_some(file)
}

fn media_type(path: &Path) -> &'static str {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("wasm") => "application/wasm",
        _ => "application/octet-stream",
    }
}
