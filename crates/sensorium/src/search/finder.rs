//! Finder: an index and the model that its vectors came from.

use super::embed::{embed_one, unit};
use super::open;
use super::space::Space;
use crate::{Error, Result};
use sensorium_data::{Modality, Value};
use sensorium_index::store::{self, Store, Wanted};
use sensorium_index::{Entry, Hit, IndexError, diverse, taste};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// What is searched for.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// What it is.
    pub modality: Modality,
    /// The text, or the path of a file.
    pub value: String,
}

/// Which hits are wanted.
#[derive(Debug, Clone)]
pub struct FindOptions {
    /// Hits at most.
    pub top: usize,
    /// Only rows whose columns have these values.
    pub filters: Vec<(String, String)>,
    /// Only what was embedded from these columns; empty for all.
    pub columns: Vec<String>,
    /// Compare every vector, also where there is a graph.
    pub exact: bool,
}

impl Default for FindOptions {
    fn default() -> Self {
        Self { top: 10, filters: Vec::new(), columns: Vec::new(), exact: false }
    }
}

/// A taste, and what is wanted of it.
#[derive(Debug, Clone, Default)]
pub struct RecommendOptions {
    /// Names of rows that were liked.
    pub liked: Vec<String>,
    /// Names of rows that were not.
    pub disliked: Vec<String>,
    /// Names of further rows that are not to come again.
    pub seen: Vec<String>,
    /// From 0, by nearness to the taste alone, to 1, by variety alone.
    pub variety: f32,
    /// Which hits are wanted.
    pub find: FindOptions,
}

/// A row that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The cosine with the query.
    pub score: f32,
    /// What it is of.
    pub modality: Option<Modality>,
    /// Its entry.
    pub entry: Entry,
    /// Files of the row's other columns that are embedded too, while they are
    /// there.
    pub media: Vec<(Modality, String)>,
}

/// An index that answers.
pub struct Finder {
    store: Box<dyn Store>,
    space: Option<Box<dyn Space>>,
}

/// Candidates among which recommendations vary, for each one that is wanted.
const CANDIDATES: usize = 10;

impl Finder {
    /// Opens an index: a folder, or the address of a database. The model is
    /// opened when a query needs it.
    ///
    /// # Errors
    /// When there is no index, or it cannot be read.
    pub fn open(place: &Path) -> Result<Self> {
        Ok(Self { store: store::open(place)?, space: None })
    }

    /// Where the index is, for a person to read.
    pub fn place(&self) -> String {
        self.store.place()
    }

    /// Vectors that can be found.
    ///
    /// # Errors
    /// When a database does not answer.
    pub fn count(&mut self) -> Result<usize> {
        Ok(self.store.count()?)
    }

    /// The model that the vectors came from, as it was named then.
    pub fn model(&self) -> Option<PathBuf> {
        self.store.about()["model"].as_str().map(PathBuf::from)
    }

    /// Opens the model for queries; by default the one that the index names.
    ///
    /// # Errors
    /// When it cannot be opened, or is not the one that the vectors came from.
    pub fn open_model(&mut self, model: Option<&Path>) -> Result<&dyn Space> {
        let path = model.map(Path::to_owned).or_else(|| self.model());
        let path = path.ok_or_else(|| Error::Request("the index names no model; give it with --model".into()))?;
        let named = model.is_none();
        let space = open(&path).map_err(|error| match named && !path.exists() {
            true => Error::Request(format!(
                "the index names the model {path:?}, which is no longer there; give the place that it has now with --model"
            )),
            false => error,
        })?;
        if space.fingerprint() != self.store.model() {
            return Err(Error::Request(format!(
                "{path:?} is not the model (or not the version of it) that made the vectors of {}; \
                 give the right one with --model, or make another index",
                self.store.place()
            )));
        }
        Ok(&**self.space.insert(space))
    }

    /// The rows most similar to what is searched for; several queries together
    /// stand for their mean. Each row comes once, with its best column.
    ///
    /// # Errors
    /// When a query cannot be read, or the model cannot take it.
    pub fn find(&mut self, queries: &[Query], options: &FindOptions) -> Result<Vec<Found>> {
        if queries.is_empty() {
            return Err(Error::Request("nothing to search for: give --text, --image, --audio or --video".into()));
        }
        if self.space.is_none() {
            self.open_model(None)?;
        }
        let Some(space) = &self.space else { return Ok(Vec::new()) };
        let mut sum = vec![0.0; self.store.dim()];
        for query in queries {
            let vector = embed_one(&**space, query.modality, Value::Text(query.value.clone()))?;
            sum.iter_mut().zip(vector).for_each(|(s, x)| *s += x);
        }
        let hits = self.hits(&unit(sum), options.top, options)?;
        Ok(self.rows(hits, options.top))
    }

    /// Rows near a taste that differ from each other, none of which was liked,
    /// disliked or seen.
    ///
    /// # Errors
    /// When a name is not in the index, or the taste has no direction.
    pub fn recommend(&mut self, options: &RecommendOptions) -> Result<Vec<Found>> {
        if !(0.0..=1.0).contains(&options.variety) {
            return Err(Error::Request(format!("--variety {}: expected a number from 0 to 1", options.variety)));
        }
        let (liked, disliked) = (self.named(&options.liked, options)?, self.named(&options.disliked, options)?);
        let direction = taste(self.store.dim(), &self.store.vectors(&liked)?, &self.store.vectors(&disliked)?)?;
        let known: HashSet<&str> =
            [&options.liked, &options.disliked, &options.seen].into_iter().flatten().map(String::as_str).collect();
        let wanted = options.find.top.saturating_mul(CANDIDATES).saturating_add(known.len());
        let hits = self.hits(&direction, wanted, &options.find)?;
        let mut ids = HashSet::new();
        let mut fresh = Vec::new();
        for (hit, entry) in hits {
            if !known.contains(entry.id.as_str()) && ids.insert(entry.id) {
                fresh.push(hit);
            }
        }
        let positions: Vec<usize> = fresh.iter().map(|h| h.position).collect();
        let vectors = self.store.vectors(&positions)?;
        let chosen = diverse(&fresh, &vectors, options.find.top, options.variety);
        let hits = self.entries(chosen)?;
        Ok(self.rows(hits, options.find.top))
    }

    /// Where rows of a taste stand.
    fn named(&mut self, names: &[String], options: &RecommendOptions) -> Result<Vec<usize>> {
        let found = self.store.named(names, &options.find.columns)?;
        match names.iter().find(|name| !found.iter().any(|(_, id)| id == *name)) {
            None => Ok(found.into_iter().map(|(position, _)| position).collect()),
            Some(name) => {
                let like = self.store.example()?.map(|id| format!("; names look like {id:?}")).unwrap_or_default();
                Err(Error::Request(format!("the index has no row {name:?}{like}")))
            }
        }
    }

    /// Hits for a vector, more than `top` where a row can have several.
    fn hits(&mut self, vector: &[f32], top: usize, options: &FindOptions) -> Result<Vec<(Hit, Entry)>> {
        let columns = self.store.about()["columns"].as_object().map_or(1, |c| c.len().max(1));
        let wanted = Wanted {
            top: top.saturating_mul(columns),
            exact: options.exact,
            filters: &options.filters,
            columns: &options.columns,
        };
        let hits = self.store.nearest(vector, &wanted).map_err(|error| match error {
            IndexError::NoColumn { name, known } => {
                let near = sensorium_data::error::nearest(&name, known.iter().map(String::as_str));
                Error::Request(format!(
                    "the index has no column {name:?}{}; it has: {}",
                    near.map(|near| format!(" (did you mean {near:?}?)")).unwrap_or_default(),
                    known.join(", ")
                ))
            }
            other => other.into(),
        })?;
        self.entries(hits)
    }

    /// Hits and what they stand for.
    fn entries(&mut self, hits: Vec<Hit>) -> Result<Vec<(Hit, Entry)>> {
        let positions: Vec<usize> = hits.iter().map(|h| h.position).collect();
        let entries = self.store.entries(&positions)?;
        Ok(hits.into_iter().zip(entries).collect())
    }

    /// The rows of hits, each once.
    fn rows(&self, hits: Vec<(Hit, Entry)>, top: usize) -> Vec<Found> {
        let mut ids = HashSet::new();
        let mut found = Vec::new();
        for (hit, entry) in hits {
            if found.len() == top {
                break;
            }
            if !ids.insert(entry.id.clone()) {
                continue;
            }
            let modality = self.modality(&entry.column);
            let media = self.media(&entry);
            found.push(Found { score: hit.score, modality, entry, media });
        }
        found
    }

    /// What a column of the index holds.
    fn modality(&self, column: &str) -> Option<Modality> {
        match self.store.about()["columns"][column].as_str() {
            Some("text") => Some(Modality::Text),
            Some("image") => Some(Modality::Image),
            Some("audio") => Some(Modality::Audio),
            Some("video") => Some(Modality::Video),
            _ => None,
        }
    }

    /// The files that the fields of a row name, beside the one that was found.
    fn media(&self, entry: &Entry) -> Vec<(Modality, String)> {
        let Some(folder) = self.store.about()["table"].as_str().map(Path::new).and_then(Path::parent) else {
            return Vec::new();
        };
        let fields = entry.fields.iter().filter(|(name, _)| **name != entry.column);
        let files = fields.filter_map(|(name, value)| {
            let modality = self.modality(name).filter(|m| *m != Modality::Text)?;
            let path = folder.join(value);
            path.is_file().then(|| (modality, path.display().to_string()))
        });
        files.collect()
    }
}
