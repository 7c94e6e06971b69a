//! What a database knows of an index: its row in `sensorium_indexes`, and the
//! shape of its table.

use super::address::Address;
use crate::{IndexError, Metric, Result, Settings};
use postgres::error::SqlState;
use postgres::{Client, GenericClient};
use std::path::Path;

/// The version of the tables' format.
const FORMAT: i32 = 1;
/// pgvector's widest vector.
const MAX_DIM: usize = 16_000;
/// pgvector's widest vector in an HNSW index.
const MAX_LINKED_DIM: usize = 2_000;

/// An index, and the connection to it.
pub(super) struct Catalog {
    pub address: Address,
    pub client: Client,
    pub dim: usize,
    pub metric: Metric,
    pub model: String,
    pub about: serde_json::Value,
}

impl Catalog {
    /// The table of vectors. The name needs no quotes ([`Address::parse`]).
    pub(super) fn table(&self) -> String {
        table(&self.address)
    }

    /// The index of neighbours over it.
    pub(super) fn neighbours(&self) -> String {
        format!("{}_hnsw", self.table())
    }

    /// Whether pgvector can link vectors of this width.
    pub(super) fn can_link(&self) -> bool {
        self.dim <= MAX_LINKED_DIM && self.metric == Metric::Cosine
    }

    /// What the database said, as an error.
    pub(super) fn error(&self, action: &'static str) -> impl Fn(postgres::Error) -> IndexError + use<'_> {
        move |error| self.address.error(action, &error)
    }

    /// Opens an index that is there.
    pub(super) fn open(address: Address) -> Result<Self> {
        let mut client = address.connect()?;
        match found(&address, &mut client)? {
            Some(settings) => Ok(Self::of(address, client, settings)),
            None => {
                let name = &address.name;
                Err(address
                    .problem("search", format!("the database has no index {name:?}; make it with `sensorium index`")))
            }
        }
    }

    /// Opens an index for writing, and makes it where it is not there.
    pub(super) fn open_or_make(address: Address, settings: &Settings) -> Result<Self> {
        if !(1..=MAX_DIM).contains(&settings.dim) {
            return Err(IndexError::Vector {
                problem: format!("of {} numbers cannot be kept by pgvector; expected 1 to {MAX_DIM}", settings.dim),
            });
        }
        let mut client = address.connect()?;
        let locked: bool = client
            .query_one("SELECT pg_try_advisory_lock(hashtextextended($1, 0))", &[&table(&address)])
            .map_err(|e| address.error("lock", &e))?
            .get(0);
        if !locked {
            return Err(IndexError::Busy { path: address.place.into() });
        }
        match found(&address, &mut client)? {
            Some(found) => settings.accept(
                (&found.model, found.dim, found.metric),
                Path::new(&address.place),
                "give another index=NAME, or drop this one",
            )?,
            None => make(&address, &mut client, settings)?,
        }
        check_columns(&address, &mut client, settings.dim)?;
        Ok(Self::of(address, client, settings.clone()))
    }

    fn of(address: Address, client: Client, settings: Settings) -> Self {
        let Settings { dim, metric, model, about } = settings;
        Self { address, client, dim, metric, model, about }
    }
}

fn table(address: &Address) -> String {
    format!("sensorium_{}", address.name)
}

/// The settings of an index that is there.
fn found(address: &Address, client: &mut Client) -> Result<Option<Settings>> {
    let said = |e| address.error("read", &e);
    let listed: bool =
        client.query_one("SELECT to_regclass('sensorium_indexes') IS NOT NULL", &[]).map_err(said)?.get(0);
    if !listed {
        return Ok(None);
    }
    let sql = "SELECT format, dim, metric, model, about FROM sensorium_indexes WHERE name = $1";
    let Some(row) = client.query_opt(sql, &[&address.name]).map_err(said)? else { return Ok(None) };
    let format: i32 = row.get(0);
    if format > FORMAT {
        let found = format.unsigned_abs();
        return Err(IndexError::Newer { path: (&address.place).into(), found, known: FORMAT.unsigned_abs() });
    }
    let (dim, metric): (i32, String) = (row.get(1), row.get(2));
    let metric = serde_json::from_value(metric.into()).ok();
    match (usize::try_from(dim).ok().filter(|d| (1..=MAX_DIM).contains(d)), metric) {
        (Some(dim), Some(metric)) => Ok(Some(Settings { dim, metric, model: row.get(3), about: row.get(4) })),
        _ => Err(address.problem("read", "its row in sensorium_indexes is not one that this program wrote")),
    }
}

/// Makes the tables of an index, all or none.
fn make(address: &Address, client: &mut Client, settings: &Settings) -> Result<()> {
    with_pgvector(address, client)?;
    let said = |e| address.error("make", &e);
    let (table, dim) = (table(address), settings.dim);
    let mut work = client.transaction().map_err(said)?;
    // Another program may make the list at the same moment.
    work.batch_execute(
        "SELECT pg_advisory_xact_lock(hashtextextended('sensorium_indexes', 0));
        CREATE TABLE IF NOT EXISTS sensorium_indexes (
            name text PRIMARY KEY, format integer NOT NULL, written_by text NOT NULL, dim integer NOT NULL,
            metric text NOT NULL, model text NOT NULL, about jsonb NOT NULL)",
    )
    .map_err(said)?;
    let sql = "SELECT to_regclass($1) IS NOT NULL";
    let there: bool = work.query_one(sql, &[&table]).map_err(said)?.get(0);
    if there {
        // Made beforehand, in parts on several servers, say.
        let filled: bool = work.query_one(&format!("SELECT EXISTS (SELECT FROM {table})"), &[]).map_err(said)?.get(0);
        if filled {
            let problem = format!("table {table} holds rows that are no index's; give another index=NAME");
            return Err(address.problem("make", problem));
        }
    } else {
        work.batch_execute(&format!(
            "CREATE TABLE {table} (
                position bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, id text NOT NULL, part text NOT NULL,
                content text NOT NULL, source text NOT NULL, fields jsonb NOT NULL, vector vector({dim}) NOT NULL);
            CREATE INDEX {table}_id ON {table} (id);
            CREATE INDEX {table}_fields ON {table} USING gin (fields jsonb_path_ops)"
        ))
        .map_err(said)?;
    }
    let metric = serde_json::to_value(settings.metric).ok().and_then(|m| m.as_str().map(str::to_owned));
    let written_by = concat!("sensorium ", env!("CARGO_PKG_VERSION"));
    work.execute(
        "INSERT INTO sensorium_indexes (name, format, written_by, dim, metric, model, about)
        VALUES ($1, $2, $3, $4, $5, $6, $7)",
        &[
            &address.name,
            &FORMAT,
            &written_by,
            &i32::try_from(dim).unwrap_or(i32::MAX),
            &metric,
            &settings.model,
            &settings.about,
        ],
    )
    .map_err(said)?;
    work.commit().map_err(said)
}

/// Makes sure that the database has pgvector.
fn with_pgvector(address: &Address, client: &mut Client) -> Result<()> {
    let there = client.query_one("SELECT to_regtype('vector') IS NOT NULL", &[]);
    if there.map_err(|e| address.error("read", &e))?.get(0) {
        return Ok(());
    }
    client.batch_execute("CREATE EXTENSION IF NOT EXISTS vector").map_err(|e| {
        let how = if e.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
            "the database has no extension `vector` yet; let an administrator run CREATE EXTENSION vector in it"
        } else {
            "the server has no pgvector; install it there (https://github.com/pgvector/pgvector)"
        };
        match address.error("make", &e) {
            IndexError::Database { action, place, problem } => {
                IndexError::Database { action, place, problem: format!("{how} ({problem})") }
            }
            other => other,
        }
    })
}

/// A table that was made by hand must have the columns that are written.
fn check_columns(address: &Address, client: &mut impl GenericClient, dim: usize) -> Result<()> {
    let rows = client
        .query(
            "SELECT attname::text || ' ' || format_type(atttypid, atttypmod) FROM pg_attribute
            WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped",
            &[&table(address)],
        )
        .map_err(|e| address.error("read", &e))?;
    let found: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let vector = format!("vector({dim})");
    let expected = [
        ("position", "bigint"),
        ("id", "text"),
        ("part", "text"),
        ("content", "text"),
        ("source", "text"),
        ("fields", "jsonb"),
        ("vector", &vector),
    ];
    match expected.iter().map(|(name, kind)| format!("{name} {kind}")).find(|column| !found.contains(column)) {
        None => Ok(()),
        Some(column) => {
            let problem = format!("table {} has no column `{column}`; it has: {}", table(address), found.join(", "));
            Err(address.problem("write", problem))
        }
    }
}

/// Runs `work` in a transaction that reads one state of the database.
pub(super) fn reading<T>(
    catalog: &mut Catalog,
    work: impl FnOnce(&mut postgres::Transaction<'_>) -> std::result::Result<T, postgres::Error>,
) -> Result<T> {
    let address = &catalog.address;
    let said = |e| address.error("search", &e);
    let mut transaction = catalog.client.build_transaction().read_only(true).start().map_err(said)?;
    let done = work(&mut transaction).map_err(said)?;
    transaction.commit().map_err(said)?;
    Ok(done)
}
