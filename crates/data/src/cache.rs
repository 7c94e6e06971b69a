//! Prepared media on disk: decoding and resizing is done once.
//!
//! One file per entry, in 256 folders by the first byte of its key. An entry is written under a
//! temporary name and renamed, so runs side by side share a cache safely; it carries a checksum, and
//! a damaged one counts as absent and is prepared anew. When the files exceed the limit, those used
//! longest ago go first.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::error::{DataError, Result};

/// Changes whenever what is stored changes its meaning.
const VERSION: u8 = 3;
const MAGIC: [u8; 8] = [b'S', b'N', b'S', b'P', b'R', b'E', b'P', VERSION];
const HEADER: usize = 8 + 8 + 32;

/// What an entry is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey([u8; 32]);

impl CacheKey {
    /// A key of the parts, which are told apart by their lengths.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[VERSION]);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        CacheKey(*hasher.finalize().as_bytes())
    }

    fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A folder of prepared entries.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    max_bytes: u64,
    bytes: AtomicU64,
    evicting: Mutex<()>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Cache {
    /// Opens or creates a cache that keeps at most about `max_bytes` on disk.
    pub fn open(folder: impl Into<PathBuf>, max_bytes: u64) -> Result<Cache> {
        let folder = folder.into();
        fs::create_dir_all(&folder).map_err(|source| DataError::io("create", &folder, source))?;
        let cache = Cache {
            max_bytes,
            bytes: AtomicU64::new(0),
            evicting: Mutex::new(()),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            folder,
        };
        cache.bytes.store(cache.entries().iter().map(|entry| entry.bytes).sum(), Ordering::Relaxed);
        Ok(cache)
    }

    /// The entry's contents, if it is there and whole.
    pub fn get(&self, key: &CacheKey) -> Option<Vec<u8>> {
        let found = self.read(&self.path(key));
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Stores an entry. A cache that cannot be written is no reason to stop: the entry is left out.
    pub fn put(&self, key: &CacheKey, contents: &[u8]) {
        let size = (contents.len() + HEADER) as u64;
        if size > self.max_bytes {
            return;
        }
        if self.write(&self.path(key), contents).is_ok() {
            let bytes = self.bytes.fetch_add(size, Ordering::Relaxed) + size;
            if bytes > self.max_bytes {
                self.evict();
            }
        }
    }

    /// How many lookups found their entry, and how many did not.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }

    fn path(&self, key: &CacheKey) -> PathBuf {
        let hex = key.hex();
        self.folder.join(&hex[..2]).join(&hex[2..])
    }

    fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let mut file = File::open(path).ok()?;
        let metadata = file.metadata().ok()?;
        let mut header = [0; HEADER];
        file.read_exact(&mut header).ok()?;
        let length = u64::from_le_bytes(header[8..16].try_into().ok()?);
        if header[..8] != MAGIC || length.checked_add(HEADER as u64) != Some(metadata.len()) {
            return None;
        }
        let mut contents = Vec::with_capacity(length as usize);
        file.read_to_end(&mut contents).ok()?;
        if blake3::hash(&contents).as_bytes() != &header[16..] {
            return None;
        }
        // Remember the use now and then, so that eviction takes the entries used longest ago.
        let now = SystemTime::now();
        let old = metadata.modified().ok().and_then(|at| now.duration_since(at).ok());
        if old.is_some_and(|age| age > Duration::from_secs(3600)) {
            _ = File::options().append(true).open(path).and_then(|file| file.set_modified(now));
        }
        Some(contents)
    }

    fn write(&self, path: &Path, contents: &[u8]) -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder)?;
        let mut file = crate::files::temporary_in(folder)?;
        file.write_all(&MAGIC)?;
        file.write_all(&(contents.len() as u64).to_le_bytes())?;
        file.write_all(blake3::hash(contents).as_bytes())?;
        file.write_all(contents)?;
        // Not synced: after a power cut the checksum finds what is missing.
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }

    fn entries(&self) -> Vec<Entry> {
        let folders = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        folders
            .flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten().flatten())
            .filter_map(|file| {
                let metadata = file.metadata().ok().filter(fs::Metadata::is_file)?;
                Some(Entry {
                    path: file.path(),
                    bytes: metadata.len(),
                    used: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                })
            })
            .collect()
    }

    /// Removes entries until a tenth of the room is free. One thread does it; the others go on.
    fn evict(&self) {
        let Ok(_guard) = self.evicting.try_lock() else { return };
        let mut entries = self.entries();
        entries.sort_by(|a, b| a.used.cmp(&b.used).then_with(|| a.path.cmp(&b.path)));
        let mut bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
        for entry in entries {
            if bytes <= self.max_bytes / 10 * 9 {
                break;
            }
            if fs::remove_file(&entry.path).is_ok() {
                bytes -= entry.bytes;
            }
        }
        self.bytes.store(bytes, Ordering::Relaxed);
    }
}

struct Entry {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(max_bytes: u64) -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().expect("folder");
        let cache = Cache::open(folder.path().join("cache"), max_bytes).expect("cache");
        (folder, cache)
    }

    #[test]
    fn entries_come_back_whole_or_not_at_all() {
        let (_folder, cache) = cache(1 << 20);
        let key = CacheKey::of(&[b"picture", b"config"]);
        assert_eq!(cache.get(&key), None);
        cache.put(&key, b"contents");
        assert_eq!(cache.get(&key).as_deref(), Some(b"contents".as_slice()));
        assert_eq!(cache.hits_and_misses(), (1, 1));

        let path = cache.path(&key);
        let whole = fs::read(&path).expect("read");
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).expect("write");
            assert_eq!(cache.get(&key), None, "byte {at}");
            fs::write(&path, &whole[..at]).expect("write");
            assert_eq!(cache.get(&key), None, "cut at {at}");
        }
        cache.put(&key, b"contents");
        assert!(cache.get(&key).is_some());
    }

    #[test]
    fn keys_tell_their_parts_apart() {
        assert_ne!(CacheKey::of(&[b"ab", b"c"]), CacheKey::of(&[b"a", b"bc"]));
        assert_eq!(CacheKey::of(&[b"ab"]), CacheKey::of(&[b"ab"]));
    }

    #[test]
    fn the_oldest_entries_make_room() {
        let (_folder, cache) = cache(10 * 1000);
        let keys: Vec<CacheKey> = (0..30u32).map(|i| CacheKey::of(&[&i.to_le_bytes()])).collect();
        for (i, key) in keys.iter().enumerate() {
            cache.put(key, &vec![0; 1000 - HEADER]);
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(i as u64);
            let file = File::options().append(true).open(cache.path(key));
            // An entry just written may already have been evicted.
            if let Ok(file) = file {
                file.set_modified(time).expect("time");
            }
        }
        let bytes: u64 = cache.entries().iter().map(|entry| entry.bytes).sum();
        assert!(bytes <= 10 * 1000, "{bytes}");
        assert!(cache.get(&keys[29]).is_some());
        assert!(cache.get(&keys[0]).is_none());
        cache.put(&CacheKey::of(&[b"too large"]), &vec![0; 20_000]);
        assert!(cache.get(&CacheKey::of(&[b"too large"])).is_none());
    }

    #[test]
    fn threads_share_a_cache() {
        let (_folder, cache) = cache(1 << 20);
        std::thread::scope(|scope| {
            for thread in 0..4u32 {
                let cache = &cache;
                scope.spawn(move || {
                    for i in 0..100u32 {
                        let key = CacheKey::of(&[&(i % 10).to_le_bytes()]);
                        cache.put(&key, &[(i % 10) as u8; 100]);
                        let found = cache.get(&key).expect("entry");
                        assert_eq!(found, [(i % 10) as u8; 100], "thread {thread}");
                    }
                });
            }
        });
    }
}
