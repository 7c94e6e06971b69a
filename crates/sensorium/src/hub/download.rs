//! Fetches the files of a model into the shared cache.
//!
//! A file grows as `blobs/ETAG.incomplete`; a broken connection, or a later
//! run, goes on where it ended. It gets its name when it has its size and,
//! for large files, its SHA-256. `snapshots/COMMIT/NAME` then points to it.

use super::{Downloading, Hub, HubId, plan};
use crate::{Error, Result};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::http::{HeaderMap, Response, StatusCode};
use ureq::{Agent, Body};

/// How often a file is tried without getting further.
const TRIES: u32 = 5;
const BUFFER: usize = 1 << 18;
/// The longest answer about a model.
const LONGEST_LISTING: u64 = 64 << 20;

#[derive(serde::Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(serde::Deserialize)]
struct Sibling {
    rfilename: String,
}

/// What the hub says of a file before it is fetched.
struct Remote {
    url: String,
    etag: String,
    size: u64,
}

impl Hub {
    /// Downloads what a model needs and is not there yet; returns the folder
    /// of its files.
    ///
    /// # Errors
    /// When there is no such model, it is larger than allowed, the network
    /// fails for good, or what came is not what was announced.
    pub fn download(&self, id: &HubId, follow: &mut dyn FnMut(&Downloading)) -> Result<PathBuf> {
        let client = Client::new(self);
        let listing = client.listing(id)?;
        let fail = |problem: String| Error::Request(format!("{id}: {problem}"));
        if listing.sha.is_empty() || !listing.sha.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(fail(format!("the hub names the commit {:?}, which is none", listing.sha)));
        }
        let all: Vec<String> = listing.siblings.into_iter().map(|s| s.rfilename).collect();
        let mut files = plan::needed(&all).map_err(fail)?;
        let model = self.model_folder(id);
        let snapshot = model.join("snapshots").join(&listing.sha);
        let mut left = self.max_bytes;
        let mut at = 0;
        while let Some(file) = files.get(at).cloned() {
            at += 1;
            let remote = client.describe(id, &listing.sha, &file)?;
            left = left.checked_sub(remote.size).ok_or_else(|| {
                let limit = self.max_bytes;
                fail(format!("with {file} ({} bytes) it is larger than the limit of {limit} bytes", remote.size))
            })?;
            let blob = model.join("blobs").join(&remote.etag);
            client.fetch(&remote, &file, &blob, follow)?;
            link(&blob, &snapshot.join(&file)).map_err(|e| Error::io("link", snapshot.join(&file), e))?;
            if file.ends_with(".index.json") {
                let index = fs::read(&blob).map_err(|e| Error::io("read", &blob, e))?;
                files.extend(plan::shards(&index).map_err(fail)?);
            }
        }
        let reference = model.join("refs").join(&id.revision);
        let write = || {
            fs::create_dir_all(model.join("refs"))?;
            fs::write(&reference, &listing.sha)
        };
        write().map_err(|e| Error::io("write", &reference, e))?;
        Ok(snapshot)
    }
}

struct Client<'h> {
    hub: &'h Hub,
    agent: Agent,
}

impl<'h> Client<'h> {
    fn new(hub: &'h Hub) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .user_agent(concat!("sensorium/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            // A stalled transfer breaks off and goes on where it was.
            .timeout_recv_body(Some(Duration::from_secs(600)));
        Self { hub, agent: config.build().into() }
    }

    fn failed(&self, what: &str, problem: &str) -> Error {
        Error::Request(format!(
            "cannot download {what} from {}: {problem} (HF_ENDPOINT names a mirror; a folder fetched with another tool \
             can be given by its path)",
            self.hub.endpoint
        ))
    }

    fn refused(&self, what: &str, status: StatusCode) -> Error {
        match status.as_u16() {
            401 | 403 => self.failed(what, "it needs the right of access: set HF_TOKEN"),
            404 => self.failed(what, "there is no such model, revision or file"),
            status => self.failed(what, &format!("the answer was status {status}")),
        }
    }

    fn get(&self, url: &str, from: u64) -> std::result::Result<Response<Body>, ureq::Error> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.hub.token {
            // Not sent along when the hub redirects to another host.
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        request.call()
    }

    fn listing(&self, id: &HubId) -> Result<Listing> {
        let url = format!("{}/api/models/{}/revision/{}", self.hub.endpoint, id.name, id.revision);
        let mut answer = self.get(&url, 0).map_err(|e| self.failed(&id.to_string(), &e.to_string()))?;
        if answer.status() != StatusCode::OK {
            return Err(self.refused(&id.to_string(), answer.status()));
        }
        let text = answer.body_mut().with_config().limit(LONGEST_LISTING).read_to_vec();
        let text = text.map_err(|e| self.failed(&id.to_string(), &e.to_string()))?;
        serde_json::from_slice(&text)
            .map_err(|e| self.failed(&id.to_string(), &format!("the answer is no listing: {e}")))
    }

    /// Size and tag of a file; of large ones they stand in the redirection to
    /// where they are stored.
    fn describe(&self, id: &HubId, commit: &str, file: &str) -> Result<Remote> {
        let url = format!("{}/{}/resolve/{commit}/{file}", self.hub.endpoint, id.name);
        let mut request = self.agent.head(&url).config().max_redirects(0).max_redirects_will_error(false).build();
        if let Some(token) = &self.hub.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        // The size is that of the file, not of its compressed form.
        let answer = request.header("Accept-Encoding", "identity").call();
        let answer = answer.map_err(|e| self.failed(file, &e.to_string()))?;
        if !answer.status().is_success() && !answer.status().is_redirection() {
            return Err(self.refused(file, answer.status()));
        }
        let headers = answer.headers();
        let linked = answer.status().is_redirection();
        let size = text(headers, "x-linked-size").or_else(|| text(headers, "content-length").filter(|_| !linked));
        let size = size.and_then(|s| s.parse().ok());
        let etag = text(headers, "x-linked-etag").or_else(|| text(headers, "etag"));
        let etag = etag.map(|e| e.trim_start_matches("W/").trim_matches('"').to_owned());
        let plain =
            |e: &String| !e.is_empty() && e.len() <= 128 && e.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        match (size, etag.filter(plain)) {
            (Some(size), Some(etag)) => Ok(Remote { url, etag, size }),
            _ => Err(self.failed(file, "the answer does not say its size and tag")),
        }
    }

    /// Fetches a file to `blob`, going on with what is there.
    fn fetch(&self, remote: &Remote, file: &str, blob: &Path, follow: &mut dyn FnMut(&Downloading)) -> Result<()> {
        let progress = |done: u64| Downloading { file: file.to_owned(), done, total: remote.size };
        if blob.is_file() {
            follow(&progress(remote.size));
            return Ok(());
        }
        let partial = blob.with_extension("incomplete");
        let err = |e: io::Error| Error::io("write", &partial, e);
        fs::create_dir_all(blob.parent().unwrap_or(Path::new("."))).map_err(err)?;
        let open = || File::options().create(true).read(true).write(true).truncate(false).open(&partial);
        let mut out = open().map_err(err)?;
        // Another program that fetches the same file is waited for.
        out.lock().map_err(err)?;
        if blob.is_file() {
            return Ok(());
        }
        let mut done = out.metadata().map_err(err)?.len();
        let mut tries = 0;
        while done != remote.size {
            if done > remote.size {
                out.set_len(0).map_err(err)?;
            }
            let before = out.seek(SeekFrom::End(0)).map_err(err)?;
            let result = self.stream(remote, before, &mut out, |done| follow(&progress(done)));
            done = out.metadata().map_err(err)?.len();
            tries = if done > before { 0 } else { tries + 1 };
            match result {
                Ok(()) => {}
                Err(Broken::Final(error)) => return Err(error),
                Err(Broken::Network(problem)) if tries == TRIES => return Err(self.failed(file, &problem)),
                Err(Broken::Network(_)) => std::thread::sleep(Duration::from_millis(250 << tries)),
            }
        }
        out.sync_all().map_err(err)?;
        self.check(remote, file, &mut out, &partial)?;
        follow(&progress(remote.size));
        fs::rename(&partial, blob).map_err(err)
    }

    /// One connection: appends what comes, up to the announced size.
    fn stream(
        &self,
        remote: &Remote,
        from: u64,
        out: &mut File,
        mut follow: impl FnMut(u64),
    ) -> std::result::Result<(), Broken> {
        let network = |e: &dyn std::fmt::Display| Broken::Network(e.to_string());
        let mut answer = self.get(&remote.url, from).map_err(|e| network(&e))?;
        let mut done = match answer.status() {
            StatusCode::PARTIAL_CONTENT if starts_at(answer.headers(), from) => from,
            // The server does not go on half-way: from the beginning.
            StatusCode::OK => {
                out.set_len(0).and_then(|()| out.rewind()).map_err(|e| network(&e))?;
                0
            }
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(Broken::Network(format!("the answer was status {}", status.as_u16())));
            }
            status => return Err(Broken::Final(self.refused(&remote.url, status))),
        };
        let mut body = answer.body_mut().as_reader();
        let mut buffer = vec![0; BUFFER];
        while done < remote.size {
            let n = body.read(&mut buffer).map_err(|e| network(&e))?;
            if n == 0 {
                return Err(Broken::Network("the connection ended early".into()));
            }
            let n = n.min(usize::try_from(remote.size - done).unwrap_or(n));
            out.write_all(&buffer[..n]).map_err(|e| network(&e))?;
            done += n as u64;
            follow(done);
        }
        Ok(())
    }

    /// Large files have their SHA-256 for a tag.
    fn check(&self, remote: &Remote, file: &str, out: &mut File, partial: &Path) -> Result<()> {
        if remote.etag.len() != 64 || !remote.etag.chars().all(|c| c.is_ascii_hexdigit()) {
            return Ok(());
        }
        let mut hash = Sha256::new();
        let mut work = || {
            out.rewind()?;
            let mut buffer = vec![0; BUFFER];
            loop {
                match out.read(&mut buffer)? {
                    0 => return Ok(()),
                    n => hash.update(&buffer[..n]),
                }
            }
        };
        work().map_err(|e: io::Error| Error::io("read", partial, e))?;
        let found: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        if found == remote.etag.to_ascii_lowercase() {
            return Ok(());
        }
        // What is there is of no use; the next try begins anew.
        out.set_len(0).map_err(|e| Error::io("write", partial, e))?;
        Err(self.failed(file, &format!("its SHA-256 is {found}, announced was {}", remote.etag)))
    }
}

enum Broken {
    /// Worth another try.
    Network(String),
    Final(Error),
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Whether `Content-Range: bytes FROM-…` is what was asked for.
fn starts_at(headers: &HeaderMap, from: u64) -> bool {
    let range = text(headers, "content-range").and_then(|r| r.strip_prefix("bytes "));
    range.and_then(|r| r.split_once('-')).is_some_and(|(start, _)| start.trim().parse() == Ok(from))
}

/// Points `at` to a blob: a relative link, or a copy where there are none.
fn link(blob: &Path, at: &Path) -> io::Result<()> {
    let folder = at.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    if at.exists() {
        return Ok(());
    }
    // A link that points nowhere, left by a cleaned cache.
    match fs::remove_file(at) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    #[cfg(unix)]
    {
        // From snapshots/COMMIT (and folders below it) up to the model's folder.
        let model = blob.parent().and_then(Path::parent).unwrap_or(Path::new("."));
        let depth = folder.strip_prefix(model).map_or(2, |p| p.components().count());
        let name = blob.file_name().unwrap_or_default();
        std::os::unix::fs::symlink(PathBuf::from("../".repeat(depth)).join("blobs").join(name), at)
    }
    #[cfg(not(unix))]
    {
        fs::copy(blob, at).map(|_| ())
    }
}
