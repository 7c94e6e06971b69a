//! Index: embeds the rows of a table, or the files of a folder, into an index.
//!
//! A cell is embedded once: what the index holds already, with the same
//! content, stays. Each commit takes old vectors out and new ones in at the
//! same moment, so that a killed run leaves an index that works and the next
//! run goes on with what is missing.

use super::embed::embed;
use super::plan::TablePlan;
use super::space::Space;
use super::{folder, open};
use crate::{Error, Result};
use rayon::prelude::*;
use sensorium_data::media_ref::{MediaRef, parse_media};
use sensorium_data::{ColumnType, Modality, Sample, Sampler, Schema, SchemaOptions, Table, TableOptions, Value};
use sensorium_index::store::{self, StoreWriter};
use sensorium_index::{Entry, Finish, Finished, IndexError, Metric, RowSet, Settings};
use serde_json::json;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

/// What to index, and how.
#[derive(Debug, Clone)]
pub struct IndexOptions {
    /// The index's folder.
    pub out: PathBuf,
    /// The address of a database that the vectors go to; the folder then only
    /// names it.
    pub store: Option<String>,
    /// The columns to embed; empty for those that the model learnt from, or, of
    /// a model without columns or another table, all that it can read.
    pub columns: Vec<String>,
    /// The column that names rows; None for the one that is inferred, else
    /// their numbers.
    pub id: Option<String>,
    /// Types of the table's columns that are not to be inferred.
    pub types: BTreeMap<String, ColumnType>,
    /// Rows embedded at a time.
    pub batch_size: usize,
    /// Whether entries stay that the table no longer has.
    pub keep: bool,
    /// Vectors from which on there is a graph; None for never.
    pub graph_from: Option<usize>,
    /// Stop where more than this share of the rows cannot be read.
    pub max_bad: f64,
}

impl Default for IndexOptions {
    fn default() -> Self {
        Self {
            out: "index".into(),
            store: None,
            columns: Vec::new(),
            id: None,
            types: BTreeMap::new(),
            batch_size: 32,
            keep: false,
            graph_from: Finish::default().graph_from,
            max_bad: 0.1,
        }
    }
}

/// How far indexing is.
#[derive(Debug, Clone, PartialEq)]
pub enum IndexStep {
    /// It begins.
    Begin {
        /// Rows of the table.
        rows: u64,
        /// Vectors that the index has already.
        known: usize,
        /// What is embedded, in words.
        columns: Vec<String>,
    },
    /// So many rows are done.
    Rows(u64),
    /// So many vectors of so many are in the graph.
    Graph(usize, usize),
}

/// What became of an index.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Indexed {
    /// Vectors that were computed, of what is new or has changed.
    pub embedded: u64,
    /// Vectors that were there already, perhaps under another name.
    pub unchanged: u64,
    /// Vectors of what is no longer in the table.
    pub removed: u64,
    /// Rows of which some cell could not be read, or whose name another has.
    pub bad: u64,
    /// The first few problems.
    pub problems: Vec<String>,
    /// Vectors that can be found now.
    pub total: usize,
    /// Vectors in the graph, if there is one.
    pub graph: Option<usize>,
    /// What the index can be searched by.
    pub queries: Vec<Modality>,
}

/// Problems kept for the person to read.
const PROBLEMS: usize = 20;
/// Rows from which on the share of bad ones says something.
const JUDGED_ROWS: u64 = 50;
/// The longest cell that is kept with an entry, in characters.
const MAX_FIELD: usize = 2000;
/// What a killed run loses at most.
const COMMIT_EVERY: Duration = Duration::from_secs(20);

/// Embeds a table or a folder into an index.
///
/// # Errors
/// When the model, the table and the index do not fit each other, a file
/// cannot be read or written, or too many rows cannot be read: what was done
/// until then stays in the index.
pub fn index(model: &Path, source: &Path, options: &IndexOptions, watch: &mut dyn FnMut(IndexStep)) -> Result<Indexed> {
    if !(0.0..=1.0).contains(&options.max_bad) {
        return Err(Error::Request(format!("--max-bad {}: expected a share of the rows, 0 to 1", options.max_bad)));
    }
    let space = open(model)?;
    let listed = if source.is_dir() && !Table::is_sharded(source) { Some(folder::table(source)?) } else { None };
    let table = Table::open(listed.as_ref().map_or(source, |f| f.path()), &TableOptions::default())?;
    let mut types = options.types.clone();
    if listed.is_some() {
        for (name, kind) in [
            ("path", ColumnType::Identifier),
            ("image", ColumnType::Image),
            ("audio", ColumnType::Audio),
            ("video", ColumnType::Video),
            ("text", ColumnType::Text),
        ] {
            types.entry(name.into()).or_insert(kind);
        }
    }
    let schema = Schema::infer(&table, &SchemaOptions { types, ..SchemaOptions::default() })?;
    let plan = TablePlan::new(&*space, &table, &schema, &options.columns)?;
    let absolute = |p: &Path| std::path::absolute(p).unwrap_or_else(|_| p.to_owned()).display().to_string();
    let kinds = plan.plan.columns.iter().map(|c| (c.source.clone(), c.modality.name()));
    let about = json!({
        "model": absolute(model),
        "table": absolute(source),
        "columns": kinds.collect::<BTreeMap<_, _>>(),
    });
    let settings = Settings { dim: space.dim(), metric: Metric::Cosine, model: space.fingerprint(), about };
    let mut writer = store::write(&options.out, options.store.as_deref(), &settings)?;
    let known = Known::of(&mut *writer)?;
    let id = match &options.id {
        Some(name) => Some(table.column_index(name)?),
        None => schema.identifier().map(|c| table.column_index(&c.name)).transpose()?,
    };
    let columns =
        plan.plan.columns.iter().map(|c| format!("{} ({}, {})", c.name, c.modality.name(), space.dim())).collect();
    watch(IndexStep::Begin { rows: table.len(), known: known.places.len(), columns });

    let job = Job {
        table: &table,
        plan: &plan,
        known: &known,
        id,
        sampler: Sampler::new(plan.plan.clone(), table.folder(), None),
    };
    let mut run = Run {
        space: &*space,
        plan: &plan,
        writer: &mut *writer,
        indexed: Indexed::default(),
        seen: RowSet::default(),
        moved: RowSet::default(),
        named_by: options.id.as_deref(),
        ids: HashSet::new(),
        known: &known,
    };
    let (job, size) = (&job, options.batch_size.max(1));
    std::thread::scope(|scope| -> Result<()> {
        let (sender, receiver) = sync_channel(2);
        scope.spawn(move || {
            for first in (0..job.table.len()).step_by(size) {
                let rows: Vec<u64> = (first..(first + size as u64).min(job.table.len())).collect();
                if sender.send(rows.par_iter().map(|row| job.read(*row)).collect::<Vec<_>>()).is_err() {
                    return;
                }
            }
        });
        let (mut done, mut last) = (0, Instant::now());
        for rows in receiver {
            done += rows.len() as u64;
            run.take(rows)?;
            run.check(done, options.max_bad)?;
            if last.elapsed() >= COMMIT_EVERY {
                run.writer.commit()?;
                last = Instant::now();
            }
            watch(IndexStep::Rows(done));
        }
        if !table.is_empty() && run.indexed.bad == table.len() {
            return run.stop(done, options.max_bad);
        }
        Ok(())
    })?;
    let Run { mut indexed, seen, moved, .. } = run;
    if !options.keep {
        for position in known.places.values().map(|p| p.position).filter(|p| !seen.contains(*p)) {
            writer.delete(position);
            indexed.removed += u64::from(!moved.contains(position));
        }
    }
    indexed.queries = space.inputs().columns.iter().filter(|c| !c.sound_track).map(|c| c.modality).collect();
    let finish = Finish { graph_from: options.graph_from };
    let Finished { rows, graph } = writer.finish(&finish, &mut |done, of| watch(IndexStep::Graph(done, of)))?;
    Ok(Indexed { total: rows, graph, ..indexed })
}

/// Where the index has what.
struct Known {
    places: HashMap<(String, String), Place>,
    /// A position for each content, for what moved to another row.
    contents: HashMap<(String, String), usize>,
}

struct Place {
    position: usize,
    entry: [u8; 32],
    content: String,
}

impl Known {
    fn of(writer: &mut dyn StoreWriter) -> Result<Self> {
        let (mut places, mut contents) = (HashMap::new(), HashMap::new());
        writer.known(&mut |position, entry| {
            contents.insert((entry.column.clone(), entry.content.clone()), position);
            let place = Place { position, entry: digest(&entry)?, content: entry.content };
            places.insert((entry.id, entry.column), place);
            Ok(())
        })?;
        Ok(Self { places, contents })
    }
}

/// All that an entry says.
fn digest(entry: &Entry) -> std::result::Result<[u8; 32], IndexError> {
    let json = serde_json::to_vec(entry).map_err(|e| IndexError::Vector { problem: e.to_string() })?;
    Ok(*blake3::hash(&json).as_bytes())
}

/// What becomes of a cell.
enum Cell {
    Missing,
    /// The index has it as it is.
    Same(usize),
    /// It has the vector, under another name or with other fields.
    Moved(Entry, usize),
    /// It must be embedded.
    New(Entry),
    /// It cannot be read; what the index has of it stays.
    Bad(Option<usize>),
}

struct Row {
    row: u64,
    id: String,
    cells: Vec<Cell>,
    sample: Option<Sample>,
    problem: Option<String>,
}

/// Reading rows.
struct Job<'a> {
    table: &'a Table,
    plan: &'a TablePlan,
    known: &'a Known,
    id: Option<usize>,
    sampler: Sampler,
}

impl Job<'_> {
    fn read(&self, row: u64) -> Row {
        let broken =
            |problem: String| Row { row, id: String::new(), cells: Vec::new(), sample: None, problem: Some(problem) };
        let values = match self.table.row(row) {
            Ok(row) => row.values,
            Err(e) => return broken(e.to_string()),
        };
        let id = match self.id {
            None => (row + 1).to_string(),
            Some(at) => match values[at].as_text() {
                Some(id) => id,
                None => {
                    return broken(format!("row {}: it has no name in column {:?}", row + 1, self.table.columns()[at]));
                }
            },
        };
        let fields = self.fields(&values);
        let mut cells = Vec::new();
        let mut wanted = Vec::new();
        let mut problem = None;
        for (column, at) in self.plan.plan.columns.iter().zip(&self.plan.at) {
            let value = &values[*at];
            if value.is_missing() {
                cells.push(Cell::Missing);
                continue;
            }
            let place = self.known.places.get(&(id.clone(), column.name.clone()));
            let (content, source) = match self.content(column.modality, value) {
                Ok(found) => found,
                Err(message) => {
                    problem.get_or_insert(format!("row {}, column {:?}: {message}", row + 1, column.name));
                    cells.push(Cell::Bad(place.map(|p| p.position)));
                    continue;
                }
            };
            let entry = Entry { id: id.clone(), column: column.name.clone(), content, source, fields: fields.clone() };
            let elsewhere = || self.known.contents.get(&(entry.column.clone(), entry.content.clone()));
            cells.push(match place {
                Some(p) if p.content == entry.content && digest(&entry).is_ok_and(|d| d == p.entry) => {
                    Cell::Same(p.position)
                }
                Some(p) if p.content == entry.content => Cell::Moved(entry, p.position),
                _ => match elsewhere() {
                    Some(position) => Cell::Moved(entry, *position),
                    None => {
                        wanted.push((column.source.clone(), value.clone()));
                        Cell::New(entry)
                    }
                },
            });
        }
        let sample = match wanted.is_empty() {
            true => None,
            false => match self.sampler.from_values(row, &wanted) {
                Ok(sample) => Some(sample),
                Err(e) => return broken(format!("row {}: {e}", row + 1)),
            },
        };
        for p in sample.iter().flat_map(|s| &s.problems) {
            let at = self.plan.plan.column(&p.column).unwrap_or(0);
            let place = self.known.places.get(&(id.clone(), p.column.clone()));
            cells[at] = Cell::Bad(place.map(|p| p.position));
            problem.get_or_insert(format!("row {}, column {:?}: {}", p.row + 1, p.column, p.message));
        }
        Row { row, id, cells, sample, problem }
    }

    /// The columns that are kept with each entry of a row.
    fn fields(&self, values: &[Value]) -> BTreeMap<String, String> {
        let columns = self.table.columns().iter().zip(values).enumerate();
        columns
            .filter(|(at, (_, value))| Some(*at) != self.id && !matches!(value, Value::Features(_) | Value::Bytes(_)))
            .filter_map(|(_, (name, value))| Some((name.clone(), shorten(&value.as_text()?))))
            .collect()
    }

    /// A hash of what a cell holds, files included, and what is shown of it.
    fn content(&self, modality: Modality, value: &Value) -> std::result::Result<(String, String), String> {
        let mut hasher = blake3::Hasher::new();
        if modality == Modality::Text {
            value.hash_into(&mut hasher);
            let text = value.texts().join("\n");
            return Ok((hasher.finalize().to_hex()[..32].to_owned(), shorten(&text)));
        }
        let parts = parse_media(value, self.table.folder())?;
        let mut shown = String::new();
        for part in &parts {
            match part {
                MediaRef::Bytes(bytes) => {
                    hasher.update(bytes);
                }
                MediaRef::File(path) => {
                    let read = std::fs::File::open(path).and_then(|file| hasher.update_reader(file).map(|_| ()));
                    read.map_err(|e| format!("{}: cannot read the file: {e}", path.display()))?;
                    if shown.is_empty() {
                        shown = std::path::absolute(path).unwrap_or_else(|_| path.clone()).display().to_string();
                    }
                }
            }
        }
        Ok((hasher.finalize().to_hex()[..32].to_owned(), shown))
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_FIELD) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// Writing what was read.
struct Run<'a> {
    space: &'a dyn Space,
    plan: &'a TablePlan,
    known: &'a Known,
    writer: &'a mut dyn StoreWriter,
    indexed: Indexed,
    /// Positions that stay.
    seen: RowSet,
    /// Positions of vectors that stay under another name.
    moved: RowSet,
    /// The column that was asked for as the rows' names.
    named_by: Option<&'a str>,
    ids: HashSet<String>,
}

impl Run<'_> {
    fn take(&mut self, rows: Vec<Row>) -> Result<()> {
        let mut samples = Vec::new();
        let mut takes = Vec::new();
        for Row { row, id, cells, sample, mut problem } in rows {
            let mut cells = cells;
            if problem.is_none() && self.ids.contains(&id) {
                let mend = match self.named_by {
                    Some(column) => format!("column {column:?} does not name rows; give another one with --id"),
                    None => "name rows with --id COLUMN".into(),
                };
                problem = Some(format!("row {}: its name {id:?} is another row's too; {mend}", row + 1));
                cells.clear();
            }
            if let Some(problem) = problem {
                self.indexed.bad += 1;
                if self.indexed.problems.len() < PROBLEMS {
                    self.indexed.problems.push(problem);
                }
            }
            if !cells.is_empty() {
                self.ids.insert(id);
            }
            let at = sample.filter(|_| !cells.is_empty()).map(|sample| {
                samples.push(sample);
                samples.len() - 1
            });
            takes.push((at, cells));
        }
        let vectors = embed(self.space, &self.plan.plan, &self.plan.ways, samples)?;
        for (at, cells) in takes {
            for (column, cell) in cells.into_iter().enumerate() {
                match cell {
                    Cell::Missing | Cell::Bad(None) => {}
                    Cell::Bad(Some(position)) => {
                        self.seen.insert(position);
                    }
                    Cell::Same(position) => {
                        self.seen.insert(position);
                        self.indexed.unchanged += 1;
                    }
                    Cell::Moved(entry, position) => {
                        let vector = self.writer.vector(position)?;
                        self.moved.insert(position);
                        self.replace(&entry);
                        self.writer.add(&vector, &entry)?;
                        self.indexed.unchanged += 1;
                    }
                    Cell::New(entry) => {
                        let Some(vector) = at.and_then(|at| vectors[column][at].as_ref()) else { continue };
                        self.replace(&entry);
                        self.writer.add(vector, &entry)?;
                        self.indexed.embedded += 1;
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes out what stood for a cell before.
    fn replace(&mut self, entry: &Entry) {
        if let Some(old) = self.known.places.get(&(entry.id.clone(), entry.column.clone())) {
            self.writer.delete(old.position);
            self.seen.insert(old.position);
        }
    }

    fn check(&mut self, done: u64, max_bad: f64) -> Result<()> {
        let bad = self.indexed.bad;
        if done < JUDGED_ROWS || bad as f64 <= max_bad * done as f64 {
            return Ok(());
        }
        self.stop(done, max_bad)
    }

    /// Keeps what was done, and says why it goes no further.
    fn stop(&mut self, done: u64, max_bad: f64) -> Result<()> {
        self.writer.commit()?;
        Err(Error::Request(format!(
            "{} of {done} rows could not be indexed, more than --max-bad {max_bad} allows; the first: {}; what was \
             indexed until then stays in the index",
            self.indexed.bad,
            self.indexed.problems.first().map_or("", String::as_str)
        )))
    }
}
