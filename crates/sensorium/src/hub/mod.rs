//! Models by their name on the hub: `org/name`, or `org/name@revision`.
//!
//! Files lie in the cache that all tools of the hub share
//! (`models--org--name` with `blobs`, `refs`, `snapshots`), so what another
//! tool has fetched is found here without a network. Downloading is the
//! optional feature `hub`. The environment says where and whether: `HF_HOME`,
//! `HF_HUB_CACHE`, `HF_ENDPOINT` (a mirror), `HF_TOKEN`, `HF_HUB_OFFLINE`.

#[cfg(feature = "hub")]
mod download;
#[cfg(feature = "hub")]
mod plan;

use crate::{Error, Result};
use sensorium_model::checkpoint::Checkpoint;
use std::path::{Path, PathBuf};

/// Where models are asked for unless `HF_ENDPOINT` names a mirror.
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// The most bytes that are fetched for one model.
const MOST_BYTES: u64 = 64 << 30;

/// The name of a model on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubId {
    /// `org/name`, or `name` alone for the oldest models.
    pub name: String,
    /// A branch, a tag or a commit.
    pub revision: String,
}

impl std::str::FromStr for HubId {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (name, revision) = text.split_once('@').unwrap_or((text, "main"));
        let word = |w: &str| {
            !w.is_empty()
                && w.len() <= 96
                && w.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
                && !w.starts_with(['-', '.'])
                && !w.contains("..")
        };
        if name.split('/').count() <= 2 && name.split('/').all(word) && word(revision) {
            Ok(Self { name: name.to_owned(), revision: revision.to_owned() })
        } else {
            Err(format!("{text:?} is neither a folder nor the name of a model (as org/name or org/name@revision)"))
        }
    }
}

impl std::fmt::Display for HubId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.revision.as_str() {
            "main" => f.write_str(&self.name),
            revision => write!(f, "{}@{revision}", self.name),
        }
    }
}

/// How far a download is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Downloading {
    /// The file's name.
    pub file: String,
    /// Bytes that are there.
    pub done: u64,
    /// Its size.
    pub total: u64,
}

/// The hub and its cache on this machine.
#[derive(Debug, Clone)]
pub struct Hub {
    /// Where models are asked for.
    pub endpoint: String,
    /// The folder with a `models--org--name` for each model.
    pub cache: PathBuf,
    /// What private models ask for.
    pub token: Option<String>,
    /// Whether the network is left alone.
    pub offline: bool,
    /// The most bytes that are fetched for one model.
    pub max_bytes: u64,
}

impl Hub {
    /// As the environment says.
    ///
    /// # Errors
    /// When nothing says where the cache is.
    pub fn from_env() -> Result<Self> {
        Self::of(|name| std::env::var(name).ok())
    }

    fn of(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let set = |name: &str| variable(name).filter(|v| !v.trim().is_empty());
        let below = |folder: String, rest: &str| PathBuf::from(folder).join(rest);
        let cache = set("HF_HUB_CACHE")
            .or_else(|| set("HUGGINGFACE_HUB_CACHE"))
            .map(PathBuf::from)
            .or_else(|| set("HF_HOME").map(|d| below(d, "hub")))
            .or_else(|| set("XDG_CACHE_HOME").map(|d| below(d, "huggingface/hub")))
            .or_else(|| set("HOME").or_else(|| set("USERPROFILE")).map(|d| below(d, ".cache/huggingface/hub")))
            .ok_or_else(|| Error::Request("there is no home folder for models of the hub: set HF_HOME".into()))?;
        let truth = |name: &str| {
            set(name).is_some_and(|v| ["1", "on", "yes", "true"].contains(&v.to_ascii_lowercase().as_str()))
        };
        Ok(Self {
            endpoint: set("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.into()).trim_end_matches('/').to_owned(),
            cache,
            token: set("HF_TOKEN"),
            offline: truth("HF_HUB_OFFLINE") || truth("TRANSFORMERS_OFFLINE"),
            max_bytes: MOST_BYTES,
        })
    }

    /// The folder of a model's files in the cache, when its weights are there.
    pub fn cached(&self, id: &HubId) -> Option<PathBuf> {
        let model = self.model_folder(id);
        let commit = match std::fs::read_to_string(model.join("refs").join(&id.revision)) {
            Ok(commit) => commit.trim().to_owned(),
            Err(_) => id.revision.clone(),
        };
        let plain = !commit.is_empty() && commit.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        let snapshot = model.join("snapshots").join(&commit);
        (plain && !commit.starts_with('.') && Checkpoint::open(&snapshot).is_ok()).then_some(snapshot)
    }

    /// The folder or file that a person means: a path that exists, or else a
    /// model of the hub, out of the cache or downloaded into it.
    ///
    /// # Errors
    /// When it is neither, is not in the cache and cannot be downloaded: with
    /// what to do about it.
    pub fn resolve(&self, text: &str, follow: &mut dyn FnMut(&Downloading)) -> Result<PathBuf> {
        if Path::new(text).exists() {
            return Ok(text.into());
        }
        let id: HubId = text.parse().map_err(|problem| Error::Request(format!("{text:?} is not there: {problem}")))?;
        if let Some(folder) = self.cached(&id) {
            return Ok(folder);
        }
        if self.offline {
            let cache = self.cache.display();
            return Err(Error::Request(format!(
                "{id} is neither a path nor in the cache {cache}, and HF_HUB_OFFLINE forbids to download it"
            )));
        }
        self.fetch(&id, follow)
    }

    #[cfg(feature = "hub")]
    fn fetch(&self, id: &HubId, follow: &mut dyn FnMut(&Downloading)) -> Result<PathBuf> {
        self.download(id, follow)
    }

    #[cfg(not(feature = "hub"))]
    fn fetch(&self, id: &HubId, _: &mut dyn FnMut(&Downloading)) -> Result<PathBuf> {
        Err(Error::Request(format!(
            "{id} is neither a path nor in the cache {}. This program was built without downloads: build it with \
             `--features hub` (HF_ENDPOINT names a mirror), or fetch the folder with another tool and give its path",
            self.cache.display()
        )))
    }

    fn model_folder(&self, id: &HubId) -> PathBuf {
        self.cache.join(format!("models--{}", id.name.replace('/', "--")))
    }
}

/// The folder or file that a person means, as the environment says; see
/// [`Hub::resolve`].
///
/// # Errors
/// As there.
pub fn resolve(text: &str, follow: &mut dyn FnMut(&Downloading)) -> Result<PathBuf> {
    match Path::new(text).exists() {
        true => Ok(text.into()),
        false => Hub::from_env()?.resolve(text, follow),
    }
}

/// The folder of a model of the hub that is already on this machine; asks no
/// network.
pub fn cached(id: &HubId) -> Option<PathBuf> {
    Hub::from_env().ok()?.cached(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sensorium_engine::Tensor;
    use sensorium_model::checkpoint::write_safetensors;

    fn hub(variables: &[(&str, &str)]) -> Hub {
        let get = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Hub::of(get).expect("a cache")
    }

    #[test]
    fn names_are_words_around_one_slash() {
        let id: HubId = "org/model-v1.5".parse().expect("a name");
        assert_eq!((id.name.as_str(), id.revision.as_str()), ("org/model-v1.5", "main"));
        assert_eq!("bert@v1".parse::<HubId>().expect("a name").to_string(), "bert@v1");
        for bad in ["", "a/b/c", "../x", "a/..", "a//b", "/a", "a b", "a/b@", "a/b@x/y", "中文/模型"] {
            assert!(bad.parse::<HubId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_environment_is_read_as_other_tools_do() {
        assert_eq!(hub(&[("HOME", "/home/me")]).cache, Path::new("/home/me/.cache/huggingface/hub"));
        assert_eq!(hub(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/c")]).cache, Path::new("/c/huggingface/hub"));
        assert_eq!(hub(&[("HOME", "/h"), ("HF_HOME", "/hf")]).cache, Path::new("/hf/hub"));
        assert_eq!(hub(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/hub")]).cache, Path::new("/hub"));
        let mirrored = hub(&[("HOME", "/h"), ("HF_ENDPOINT", "https://mirror.example/"), ("HF_HUB_OFFLINE", "1")]);
        assert_eq!((mirrored.endpoint.as_str(), mirrored.offline), ("https://mirror.example", true));
        assert!(!hub(&[("HOME", "/h"), ("HF_HUB_OFFLINE", "0")]).offline);
        assert!(Hub::of(|_| None).is_err());
    }

    #[test]
    fn what_another_tool_fetched_is_found_offline() {
        let cache = tempfile::tempdir().expect("a folder");
        let mut hub = hub(&[("HF_HUB_CACHE", cache.path().to_str().expect("text")), ("HF_HUB_OFFLINE", "1")]);
        let id: HubId = "org/tiny".parse().expect("a name");
        let missing = hub.resolve("org/tiny", &mut |_| {}).expect_err("not there").to_string();
        assert!(missing.contains("HF_HUB_OFFLINE"), "{missing}");
        let model = cache.path().join("models--org--tiny");
        let snapshot = model.join("snapshots/0a1b2c");
        std::fs::create_dir_all(&snapshot).expect("a folder");
        std::fs::create_dir_all(model.join("refs")).expect("a folder");
        std::fs::write(model.join("refs/main"), "0a1b2c").expect("a file");
        assert_eq!(hub.cached(&id), None, "a snapshot without weights is none");
        let tensor = Tensor::zeros(&[2]);
        write_safetensors(&snapshot.join("model.safetensors"), [("a", &tensor)]).expect("written");
        assert_eq!(hub.cached(&id).as_deref(), Some(snapshot.as_path()));
        assert_eq!(hub.resolve("org/tiny@0a1b2c", &mut |_| {}).expect("found"), snapshot);
        std::fs::write(model.join("refs/main"), "../../..").expect("a file");
        assert_eq!(hub.cached(&id), None);
        hub.offline = false;
        if cfg!(not(feature = "hub")) {
            let problem = hub.resolve("org/other", &mut |_| {}).expect_err("not there").to_string();
            assert!(problem.contains("--features hub") && problem.contains("HF_ENDPOINT"), "{problem}");
        }
    }
}
