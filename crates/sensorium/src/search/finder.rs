//! Finder: an index and the model that its vectors came from.

use super::embed::{embed_one, unit};
use super::open;
use super::space::Space;
use crate::{Error, Result};
use sensorium_data::{Modality, Value};
use sensorium_index::{Entry, Hit, Index, RowSet, Search, diverse, taste};
use std::collections::{BTreeSet, HashMap, HashSet};
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
}

/// An index that answers.
pub struct Finder {
    index: Index,
    space: Option<Box<dyn Space>>,
}

/// Candidates among which recommendations vary, for each one that is wanted.
const CANDIDATES: usize = 10;

impl Finder {
    /// Opens an index. The model is opened when a query needs it.
    ///
    /// # Errors
    /// When the folder is not an index, or is damaged.
    pub fn open(folder: &Path) -> Result<Self> {
        Ok(Self { index: Index::open(folder)?, space: None })
    }

    /// The index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The model that the vectors came from, as it was named then.
    pub fn model(&self) -> Option<PathBuf> {
        self.index.manifest().about["model"].as_str().map(PathBuf::from)
    }

    /// Opens the model for queries; by default the one that the index names.
    ///
    /// # Errors
    /// When it cannot be opened, or is not the one that the vectors came from.
    pub fn open_model(&mut self, model: Option<&Path>) -> Result<&dyn Space> {
        let path = model.map(Path::to_owned).or_else(|| self.model());
        let path = path.ok_or_else(|| Error::Request("the index names no model; give it with --model".into()))?;
        let space = open(&path)?;
        if space.fingerprint() != self.index.manifest().model {
            return Err(Error::Request(format!(
                "{path:?} is not the model (or not the version of it) that made the vectors of {:?}; \
                 give the right one with --model, or index anew into another folder",
                self.index.folder()
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
        let mut sum = vec![0.0; self.index.dim()];
        for query in queries {
            let vector = embed_one(&**space, query.modality, Value::Text(query.value.clone()))?;
            sum.iter_mut().zip(vector).for_each(|(s, x)| *s += x);
        }
        let hits = self.hits(&unit(sum), options.top, options)?;
        self.rows(hits, options.top)
    }

    /// Rows near a taste that differ from each other, none of which was liked,
    /// disliked or seen.
    ///
    /// # Errors
    /// When a name is not in the index, or the taste has no direction.
    pub fn recommend(&self, options: &RecommendOptions) -> Result<Vec<Found>> {
        if !(0.0..=1.0).contains(&options.variety) {
            return Err(Error::Request(format!("--variety {}: expected a number from 0 to 1", options.variety)));
        }
        let named = self.named(options)?;
        let positions =
            |ids: &[String]| -> Vec<usize> { ids.iter().flat_map(|id| named[id].iter().copied()).collect() };
        let direction = taste(&self.index, &positions(&options.liked), &positions(&options.disliked))?;
        let known: HashSet<&str> =
            [&options.liked, &options.disliked, &options.seen].into_iter().flatten().map(String::as_str).collect();
        let wanted = options.find.top.saturating_mul(CANDIDATES).saturating_add(known.len());
        let hits = self.hits(&direction, wanted, &options.find)?;
        let mut ids = HashSet::new();
        let mut fresh = Vec::new();
        for hit in hits {
            let entry = self.index.entry(hit.position)?;
            if !known.contains(entry.id.as_str()) && ids.insert(entry.id) {
                fresh.push(hit);
            }
        }
        let chosen = diverse(&self.index, &fresh, options.find.top, options.variety);
        self.rows(chosen, options.find.top)
    }

    /// Where the rows of a taste stand.
    fn named(&self, options: &RecommendOptions) -> Result<HashMap<String, Vec<usize>>> {
        let all = options.liked.iter().chain(&options.disliked);
        let mut named: HashMap<String, Vec<usize>> = all.map(|id| (id.clone(), Vec::new())).collect();
        self.index.each_entry(|position, entry| {
            if let Some(positions) = named.get_mut(&entry.id)
                && (options.find.columns.is_empty() || options.find.columns.contains(&entry.column))
            {
                positions.push(position);
            }
            Ok::<(), Error>(())
        })?;
        let mut missing: Vec<&str> = named.iter().filter(|(_, p)| p.is_empty()).map(|(id, _)| id.as_str()).collect();
        missing.sort_unstable();
        match missing.first() {
            None => Ok(named),
            Some(id) => {
                let first = (0..self.index.rows()).find(|p| self.index.holds(*p));
                let first = first.map(|p| self.index.entry(p)).transpose()?;
                let like = first.map(|e| format!("; names look like {:?}", e.id)).unwrap_or_default();
                Err(Error::Request(format!("the index has no row {id:?}{like}")))
            }
        }
    }

    /// Hits for a vector, more than `top` where a row can have several.
    fn hits(&self, vector: &[f32], top: usize, options: &FindOptions) -> Result<Vec<Hit>> {
        let only = self.filter(options)?;
        let columns = self.index.manifest().about["columns"].as_object().map_or(1, |c| c.len().max(1));
        let top = top.saturating_mul(columns).min(self.index.rows().max(1));
        let search = Search { top, exact: options.exact, only: only.as_ref(), beam: None };
        Ok(self.index.search(vector, &search)?.remove(0))
    }

    /// The positions that the filters leave; None for all.
    fn filter(&self, options: &FindOptions) -> Result<Option<RowSet>> {
        if options.filters.is_empty() && options.columns.is_empty() {
            return Ok(None);
        }
        let (mut set, mut fields, mut columns) = (RowSet::default(), BTreeSet::new(), BTreeSet::new());
        self.index.each_entry(|position, entry| {
            let has = |(name, value): &(String, String)| entry.fields.get(name) == Some(value);
            if (options.columns.is_empty() || options.columns.contains(&entry.column))
                && options.filters.iter().all(has)
            {
                set.insert(position);
            }
            // Columns are few; their names are gathered for the message.
            for name in entry.fields.into_keys() {
                fields.insert(name);
            }
            columns.insert(entry.column);
            Ok::<(), Error>(())
        })?;
        let asked =
            options.filters.iter().map(|f| (&f.0, &fields)).chain(options.columns.iter().map(|c| (c, &columns)));
        for (name, known) in asked {
            if !known.contains(name) {
                let near = sensorium_data::error::nearest(name, known.iter().map(String::as_str));
                return Err(Error::Request(format!(
                    "the index has no column {name:?}{}; it has: {}",
                    near.map(|near| format!(" (did you mean {near:?}?)")).unwrap_or_default(),
                    known.iter().cloned().collect::<Vec<_>>().join(", ")
                )));
            }
        }
        Ok(Some(set))
    }

    /// The rows of hits, each once.
    fn rows(&self, hits: Vec<Hit>, top: usize) -> Result<Vec<Found>> {
        let mut ids = HashSet::new();
        let mut found = Vec::new();
        for hit in hits {
            if found.len() == top {
                break;
            }
            let entry = self.index.entry(hit.position)?;
            if !ids.insert(entry.id.clone()) {
                continue;
            }
            let modality = match self.index.manifest().about["columns"][&entry.column].as_str() {
                Some("text") => Some(Modality::Text),
                Some("image") => Some(Modality::Image),
                Some("audio") => Some(Modality::Audio),
                Some("video") => Some(Modality::Video),
                _ => None,
            };
            found.push(Found { score: hit.score, modality, entry });
        }
        Ok(found)
    }
}
