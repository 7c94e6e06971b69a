//! Changing a table of vectors.

use super::address::Address;
use super::catalog::Catalog;
use super::read::entry;
use super::vector::Vector;
use crate::index::prepare;
use crate::store::StoreWriter;
use crate::{Entry, Finish, Finished, IndexError, Result, Settings};
use postgres::binary_copy::BinaryCopyInWriter;
use postgres::fallible_iterator::FallibleIterator;
use postgres::types::{ToSql, Type};
use serde_json::Value;
use std::path::Path;

/// A commit has at most so many bytes of vectors: what a writer holds.
const COMMIT_BYTES: usize = 64 << 20;

/// An index in a database that is open for writing. The lock goes with the
/// connection.
struct Written {
    catalog: Catalog,
    added: Vec<(Vector, Entry)>,
    deleted: Vec<i64>,
    vector_type: Type,
}

pub(crate) fn write(address: &str, folder: Option<&Path>, settings: &Settings) -> Result<Box<dyn StoreWriter>> {
    let mut catalog = Catalog::open_or_make(Address::parse(address, folder)?, settings)?;
    if let Some(folder) = folder {
        catalog.address.keep(folder)?;
    }
    let said = |address: &Address, e: postgres::Error| address.error("write", &e);
    // What a commit deletes may still be asked for: its vector, for a row with the same content.
    let prepared = catalog
        .client
        .batch_execute("CREATE TEMPORARY TABLE sensorium_gone (position bigint, vector vector)")
        .and_then(|()| catalog.client.prepare("SELECT vector FROM sensorium_gone"));
    let vector_type = match prepared {
        Ok(statement) => statement.columns()[0].type_().clone(),
        Err(e) => return Err(said(&catalog.address, e)),
    };
    Ok(Box::new(Written { catalog, added: Vec::new(), deleted: Vec::new(), vector_type }))
}

impl Written {
    /// What is pending, in one transaction.
    fn change(&mut self) -> std::result::Result<(), postgres::Error> {
        let table = self.catalog.table();
        let mut work = self.catalog.client.transaction()?;
        if !self.deleted.is_empty() {
            let sql = format!(
                "WITH gone AS (DELETE FROM {table} WHERE position = ANY($1) RETURNING position, vector)
                INSERT INTO sensorium_gone SELECT position, vector FROM gone"
            );
            work.execute(&sql, &[&self.deleted])?;
        }
        if !self.added.is_empty() {
            let sql = format!("COPY {table} (id, part, content, source, fields, vector) FROM STDIN BINARY");
            let types = [Type::TEXT, Type::TEXT, Type::TEXT, Type::TEXT, Type::JSONB, self.vector_type.clone()];
            let mut out = BinaryCopyInWriter::new(work.copy_in(&sql)?, &types);
            for (vector, entry) in &self.added {
                let fields = entry.fields.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
                let fields = Value::Object(fields);
                let row: [&(dyn ToSql + Sync); 6] =
                    [&entry.id, &entry.column, &entry.content, &entry.source, &fields, vector];
                out.write(&row)?;
            }
            out.finish()?;
        }
        work.commit()
    }

    fn count(&mut self) -> std::result::Result<usize, postgres::Error> {
        let sql = format!("SELECT count(*) FROM {}", self.catalog.table());
        let count: i64 = self.catalog.client.query_one(&sql, &[])?.get(0);
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// Links vectors with their neighbours, or takes the links away.
    fn link(&mut self, wanted: bool) -> std::result::Result<(), postgres::Error> {
        let (table, neighbours) = (self.catalog.table(), self.catalog.neighbours());
        let client = &mut self.catalog.client;
        if wanted {
            // Of partitions in this database; servers of foreign tables have their own.
            let sql = format!("CREATE INDEX IF NOT EXISTS {neighbours} ON {table} USING hnsw (vector vector_ip_ops)");
            client.batch_execute(&sql)?;
        } else {
            client.batch_execute(&format!("DROP INDEX IF EXISTS {neighbours}"))?;
        }
        client.execute(
            "UPDATE sensorium_indexes SET about = $2, written_by = $3 WHERE name = $1",
            &[&self.catalog.address.name, &self.catalog.about, &concat!("sensorium ", env!("CARGO_PKG_VERSION"))],
        )?;
        // So that the next search is planned for what is there now.
        client.batch_execute(&format!("ANALYZE {table}"))
    }
}

impl StoreWriter for Written {
    fn known(&mut self, each: &mut dyn FnMut(usize, Entry) -> Result<()>) -> Result<()> {
        let Catalog { client, address, .. } = &mut self.catalog;
        let said = |e| address.error("read", &e);
        let sql = format!("SELECT position, id, part, content, source, fields FROM sensorium_{}", address.name);
        let mut rows = client.query_raw(&sql, std::iter::empty::<&str>()).map_err(said)?;
        while let Some(row) = rows.next().map_err(said)? {
            each(row.get::<_, i64>(0) as usize, entry(&row))?;
        }
        Ok(())
    }

    fn vector(&mut self, position: usize) -> Result<Vec<f32>> {
        let sql = format!(
            "SELECT vector FROM {} WHERE position = $1 UNION ALL SELECT vector FROM sensorium_gone WHERE position = $1",
            self.catalog.table()
        );
        let row = self.catalog.client.query_one(&sql, &[&(position as i64)]).map_err(self.catalog.error("read"))?;
        Ok(row.get::<_, Vector>(0).0)
    }

    fn add(&mut self, vector: &[f32], entry: &Entry) -> Result<()> {
        let dim = self.catalog.dim;
        if vector.len() != dim {
            return Err(IndexError::Vector { problem: format!("has {} numbers, expected {dim}", vector.len()) });
        }
        self.added.push((Vector(prepare(vector, self.catalog.metric)?), entry.clone()));
        if self.added.len() * dim * 4 >= COMMIT_BYTES { self.commit() } else { Ok(()) }
    }

    fn delete(&mut self, position: usize) {
        self.deleted.push(position as i64);
    }

    fn commit(&mut self) -> Result<()> {
        if self.added.is_empty() && self.deleted.is_empty() {
            return Ok(());
        }
        self.change().map_err(self.catalog.error("write"))?;
        self.added.clear();
        self.deleted.clear();
        Ok(())
    }

    fn finish(&mut self, finish: &Finish, watch: &mut dyn FnMut(usize, usize)) -> Result<Finished> {
        self.commit()?;
        let rows = self.count().map_err(self.catalog.error("read"))?;
        let large = finish.graph_from.is_some_and(|from| rows >= from.max(1)) && self.catalog.can_link();
        if large {
            watch(0, rows);
        }
        self.link(large).map_err(self.catalog.error("write"))?;
        if large {
            watch(rows, rows);
        }
        Ok(Finished { rows, graph: large.then_some(rows) })
    }
}
