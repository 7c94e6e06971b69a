//! Downloads from a hub that runs in the test: whole, broken off and gone on
//! with, refused.

use sensorium::hub::{Hub, HubId};
use sensorium::rooms::engine::Tensor;
use sensorium::rooms::model::checkpoint::{Checkpoint, write_safetensors};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the hub does wrong.
#[derive(Default, Clone)]
struct Faults {
    /// So many transfers of large files end after half of what is left.
    cut: usize,
    /// Ranges are not known.
    no_ranges: bool,
    /// Large files have other bytes than announced.
    falsified: bool,
}

struct Server {
    endpoint: String,
    /// `METHOD PATH RANGE AUTHORIZATION` of every request.
    log: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// A hub with the model `org/tiny`; files of more than 1000 bytes are large ones.
    fn start(files: BTreeMap<String, Vec<u8>>, faults: Faults) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let log = Arc::new(Mutex::new(Vec::new()));
        let server = Self { endpoint, log: Arc::clone(&log) };
        std::thread::spawn(move || {
            let mut faults = faults;
            for stream in listener.incoming().flatten() {
                // A client that hangs up is not the server's business.
                let _ = answer(stream, &files, &mut faults, &log);
            }
        });
        server
    }

    fn hub(&self, cache: &Path) -> Hub {
        Hub {
            endpoint: self.endpoint.clone(),
            cache: cache.into(),
            token: Some("secret".into()),
            offline: false,
            max_bytes: 1 << 30,
        }
    }

    fn requests(&self, part: &str) -> Vec<String> {
        self.log.lock().expect("the log").iter().filter(|line| line.contains(part)).cloned().collect()
    }
}

fn answer(
    stream: TcpStream,
    files: &BTreeMap<String, Vec<u8>>,
    faults: &mut Faults,
    log: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let header = |name: &str| headers.get(name).map_or("-", String::as_str).to_owned();
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    log.lock().expect("the log").push(format!("{method} {path} {} {}", header("range"), header("authorization")));
    let mut out = stream;
    let mut send = |status: &str, more: &str, body: &[u8], length: usize| {
        write!(out, "HTTP/1.1 {status}\r\n{more}Content-Length: {length}\r\nConnection: close\r\n\r\n")?;
        if method != "HEAD" {
            out.write_all(body)?;
        }
        out.flush()
    };
    if path == "/api/models/org/tiny/revision/main" {
        let names: Vec<_> = files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
        let listing = serde_json::json!({ "sha": COMMIT, "siblings": names }).to_string();
        return send("200 OK", "", listing.as_bytes(), listing.len());
    }
    let stored = path.strip_prefix("/store/");
    let name = stored.or_else(|| path.strip_prefix(&format!("/org/tiny/resolve/{COMMIT}/")));
    let Some((name, bytes)) = name.and_then(|name| Some((name, files.get(name)?))) else {
        return send("404 Not Found", "", b"", 0);
    };
    if bytes.len() <= 1000 {
        let more = format!("ETag: \"{:040x}\"\r\n", bytes.len());
        return send("200 OK", &more, bytes, bytes.len());
    }
    if stored.is_none() {
        let hash: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        let size = bytes.len();
        let more = format!("Location: /store/{name}\r\nX-Linked-Size: {size}\r\nX-Linked-ETag: \"{hash}\"\r\n");
        return send("302 Found", &more, b"", 0);
    }
    let from = header("range").strip_prefix("bytes=").and_then(|r| r.strip_suffix('-')?.parse().ok());
    let from: usize = if faults.no_ranges { 0 } else { from.unwrap_or(0) };
    let mut rest = bytes[from..].to_vec();
    if faults.falsified {
        rest[0] ^= 1;
    }
    let length = rest.len();
    if faults.cut > 0 {
        faults.cut -= 1;
        rest.truncate(length / 2);
    }
    match from {
        0 => send("200 OK", "", &rest, length),
        _ => {
            let range = format!("Content-Range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len());
            send("206 Partial Content", &range, &rest, length)
        }
    }
}

fn files() -> BTreeMap<String, Vec<u8>> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.safetensors");
    let values: Vec<f32> = (0..5000).map(|i| i as f32).collect();
    let tensor = Tensor::from_slice(&[50, 100], &values).expect("a tensor");
    write_safetensors(&path, [("weight", &tensor)]).expect("written");
    BTreeMap::from([
        ("README.md".to_owned(), b"not needed".to_vec()),
        ("config.json".to_owned(), br#"{"model_type":"bert"}"#.to_vec()),
        ("1_Pooling/config.json".to_owned(), b"{}".to_vec()),
        ("model.safetensors".to_owned(), std::fs::read(&path).expect("a file")),
    ])
}

fn id() -> HubId {
    "org/tiny".parse().expect("a name")
}

fn weights_are_whole(folder: &Path) {
    let checkpoint = Checkpoint::open(folder).expect("a checkpoint");
    assert_eq!(checkpoint.read("weight").expect("read").data()[4999], 4999.0);
}

#[test]
fn a_model_is_fetched_once_into_the_shared_layout() {
    let cache = tempfile::tempdir().expect("a folder");
    let server = Server::start(files(), Faults::default());
    let mut hub = server.hub(cache.path());
    let mut last = None;
    let folder = hub.resolve("org/tiny", &mut |p| last = Some(p.clone())).expect("downloaded");
    weights_are_whole(&folder);
    let last = last.expect("progress");
    assert_eq!((last.file.as_str(), last.done), ("model.safetensors", last.total));
    let model = cache.path().join("models--org--tiny");
    assert_eq!(folder, model.join("snapshots").join(COMMIT));
    assert_eq!(std::fs::read_to_string(model.join("refs/main")).expect("a reference"), COMMIT);
    assert_eq!(std::fs::read(folder.join("1_Pooling/config.json")).expect("a file"), b"{}");
    assert!(!folder.join("README.md").exists(), "only what is needed is fetched");
    let link = std::fs::read_link(folder.join("config.json")).expect("a link");
    assert!(link.starts_with("../../blobs"), "{link:?}");
    assert!(server.requests("/api/")[0].ends_with("Bearer secret"));
    assert!(server.requests("/store/").iter().all(|r| r.ends_with(" -")), "the token stays with the hub");
    // From now on without the network.
    hub.endpoint = "http://127.0.0.1:1".into();
    assert_eq!(hub.resolve("org/tiny", &mut |_| {}).expect("cached"), folder);
}

#[test]
fn a_transfer_that_breaks_off_goes_on_where_it_was() {
    let cache = tempfile::tempdir().expect("a folder");
    let files = files();
    let size = files["model.safetensors"].len();
    let server = Server::start(files, Faults { cut: 2, ..Faults::default() });
    let folder = server.hub(cache.path()).download(&id(), &mut |_| {}).expect("downloaded");
    weights_are_whole(&folder);
    let ranges: Vec<_> =
        server.requests("GET /store/").iter().map(|r| r.split(' ').nth(2).expect("a range").to_owned()).collect();
    let half = size / 2;
    let quarter = half + (size - half) / 2;
    assert_eq!(ranges, ["-".to_owned(), format!("bytes={half}-"), format!("bytes={quarter}-")]);
}

#[test]
fn what_an_earlier_run_left_is_used() {
    let cache = tempfile::tempdir().expect("a folder");
    let files = files();
    let whole = files["model.safetensors"].clone();
    let hash: String = Sha256::digest(&whole).iter().map(|b| format!("{b:02x}")).collect();
    let blobs = cache.path().join("models--org--tiny/blobs");
    std::fs::create_dir_all(&blobs).expect("a folder");
    std::fs::write(blobs.join(format!("{hash}.incomplete")), &whole[..7000]).expect("a file");
    let server = Server::start(files, Faults::default());
    weights_are_whole(&server.hub(cache.path()).download(&id(), &mut |_| {}).expect("downloaded"));
    assert!(server.requests("GET /store/")[0].contains("bytes=7000-"));
    assert!(!blobs.join(format!("{hash}.incomplete")).exists());
}

#[test]
fn a_server_without_ranges_sends_it_all_again() {
    let cache = tempfile::tempdir().expect("a folder");
    let server = Server::start(files(), Faults { cut: 1, no_ranges: true, ..Faults::default() });
    weights_are_whole(&server.hub(cache.path()).download(&id(), &mut |_| {}).expect("downloaded"));
    assert_eq!(server.requests("GET /store/").len(), 2);
}

#[test]
fn what_is_not_as_announced_is_refused() {
    let cache = tempfile::tempdir().expect("a folder");
    let fail = |hub: &Hub| hub.download(&id(), &mut |_| {}).expect_err("must be refused").to_string();
    let falsified = Server::start(files(), Faults { falsified: true, ..Faults::default() });
    assert!(fail(&falsified.hub(cache.path())).contains("SHA-256"));
    assert_eq!(falsified.hub(cache.path()).cached(&id()), None);

    let server = Server::start(files(), Faults::default());
    let mut small = server.hub(cache.path());
    small.max_bytes = 10_000;
    assert!(fail(&small).contains("larger than the limit of 10000 bytes"));
    let other: HubId = "org/other".parse().expect("a name");
    let missing = server.hub(cache.path()).download(&other, &mut |_| {}).expect_err("not there").to_string();
    assert!(missing.contains("no such model") && missing.contains("HF_ENDPOINT"), "{missing}");

    let mut without_weights = files();
    without_weights.remove("model.safetensors");
    let server = Server::start(without_weights, Faults::default());
    assert!(fail(&server.hub(cache.path())).contains("no weights"));
    let mut offline = server.hub(cache.path());
    offline.offline = true;
    assert!(offline.resolve("org/tiny", &mut |_| {}).expect_err("offline").to_string().contains("HF_HUB_OFFLINE"));
}
