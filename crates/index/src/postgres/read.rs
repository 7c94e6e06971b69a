//! Searching a table of vectors.

use super::address::Address;
use super::catalog::{Catalog, reading};
use super::vector::Vector;
use crate::index::prepare;
use crate::store::{Store, Wanted};
use crate::{Entry, Hit, IndexError, Result};
use postgres::Row;
use serde_json::Value;
use std::collections::HashMap;

/// Neighbours that an approximate search keeps in view, at least: as the graph
/// in a folder.
const BEAM: usize = 96;
/// The most that pgvector keeps in view.
const MAX_BEAM: usize = 1000;

/// An index in a database.
struct Searched {
    catalog: Catalog,
    /// Whether some of the vectors are linked to their neighbours.
    linked: bool,
}

pub(crate) fn open(address: &str) -> Result<Box<dyn Store>> {
    let mut catalog = Catalog::open(Address::parse(address, None)?)?;
    let table = catalog.table();
    // Foreign tables are searched as their servers see fit.
    let linked = reading(&mut catalog, |client| {
        let sql = "WITH parts AS (SELECT to_regclass($1)::oid AS part
                UNION SELECT relid::oid FROM pg_partition_tree(to_regclass($1)))
            SELECT EXISTS (SELECT FROM parts JOIN pg_class ON pg_class.oid = part WHERE relkind = 'f')
                OR EXISTS (SELECT FROM parts JOIN pg_index ON indrelid = part JOIN pg_class ON pg_class.oid = indexrelid
                    JOIN pg_am ON pg_am.oid = relam WHERE amname = 'hnsw' AND indisvalid)";
        client.query_one(sql, &[&table])
    })?;
    Ok(Box::new(Searched { catalog, linked: linked.get(0) }))
}

impl Searched {
    /// The rows of positions, one for each, in their order.
    fn rows(&mut self, columns: &str, positions: &[usize]) -> Result<Vec<Row>> {
        let table = self.catalog.table();
        let numbers: Vec<i64> = positions.iter().map(|p| *p as i64).collect();
        let sql = format!("SELECT position, {columns} FROM {table} WHERE position = ANY($1)");
        let rows = reading(&mut self.catalog, |client| client.query(&sql, &[&numbers]))?;
        let mut rows: HashMap<i64, Row> = rows.into_iter().map(|row| (row.get(0), row)).collect();
        let gone = || self.catalog.address.problem("search", "rows were deleted meanwhile; search again");
        numbers.iter().map(|n| rows.remove(n).ok_or_else(gone)).collect()
    }

    /// Names of columns that a filter can use, for the message.
    fn check_names(&mut self, wanted: &Wanted<'_>) -> Result<()> {
        let table = self.catalog.table();
        for (name, sql, all) in wanted
            .filters
            .iter()
            .map(|(name, _)| (name, "fields ? $1", "SELECT DISTINCT jsonb_object_keys(fields) FROM"))
            .chain(wanted.columns.iter().map(|name| (name, "part = $1", "SELECT DISTINCT part FROM")))
        {
            let sql = format!("SELECT EXISTS (SELECT FROM {table} WHERE {sql})");
            let there: bool = reading(&mut self.catalog, |client| client.query_one(&sql, &[name]))?.get(0);
            if !there {
                let sql = format!("{all} {table} ORDER BY 1");
                let rows = reading(&mut self.catalog, |client| client.query(&sql, &[]))?;
                return Err(IndexError::NoColumn {
                    name: name.clone(),
                    known: rows.iter().map(|row| row.get(0)).collect(),
                });
            }
        }
        Ok(())
    }
}

impl Store for Searched {
    fn place(&self) -> String {
        self.catalog.address.place.clone()
    }

    fn dim(&self) -> usize {
        self.catalog.dim
    }

    fn model(&self) -> &str {
        &self.catalog.model
    }

    fn about(&self) -> &Value {
        &self.catalog.about
    }

    fn count(&mut self) -> Result<usize> {
        let sql = format!("SELECT count(*) FROM {}", self.catalog.table());
        let count: i64 = reading(&mut self.catalog, |client| client.query_one(&sql, &[]))?.get(0);
        Ok(usize::try_from(count).unwrap_or(0))
    }

    fn nearest(&mut self, query: &[f32], wanted: &Wanted<'_>) -> Result<Vec<Hit>> {
        if query.len() != self.catalog.dim {
            return Err(IndexError::Vector {
                problem: format!("of {} numbers was given where this index has {}", query.len(), self.catalog.dim),
            });
        }
        let query = Vector(prepare(query, self.catalog.metric)?);
        let filters: serde_json::Map<String, Value> =
            wanted.filters.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
        let beam = BEAM.max(wanted.top.saturating_mul(2));
        let chosen = !wanted.filters.is_empty() || !wanted.columns.is_empty();
        let exact = wanted.exact || chosen || !self.linked || beam > MAX_BEAM;
        // Vectors have length 1, so that the inner product is the cosine; `<#>` is the negative of it. An index of
        // neighbours is not walked for a sum, and equals come by position.
        let order = if exact { "(vector <#> $1) + 0, position" } else { "vector <#> $1" };
        let sql = format!(
            "SELECT position, vector <#> $1 FROM {}
            WHERE (cardinality($2::text[]) = 0 OR part = ANY($2)) AND ($3::jsonb = '{{}}' OR fields @> $3)
            ORDER BY {order} LIMIT $4",
            self.catalog.table()
        );
        let top = i64::try_from(wanted.top).unwrap_or(i64::MAX);
        let rows = reading(&mut self.catalog, |client| {
            if !exact {
                client.batch_execute(&format!("SET LOCAL hnsw.ef_search = {beam}"))?;
            }
            client.query(&sql, &[&query, &wanted.columns, &Value::Object(filters), &top])
        })?;
        if rows.is_empty() && chosen {
            self.check_names(wanted)?;
        }
        let hit = |row: &Row| {
            let (position, score): (i64, f64) = (row.get(0), row.get(1));
            Hit { position: position as usize, score: -score as f32 }
        };
        Ok(rows.iter().map(hit).collect())
    }

    fn entries(&mut self, positions: &[usize]) -> Result<Vec<Entry>> {
        let rows = self.rows("id, part, content, source, fields", positions)?;
        Ok(rows.iter().map(entry).collect())
    }

    fn vectors(&mut self, positions: &[usize]) -> Result<Vec<f32>> {
        let rows = self.rows("vector", positions)?;
        Ok(rows.iter().flat_map(|row| row.get::<_, Vector>(1).0).collect())
    }

    fn named(&mut self, names: &[String], columns: &[String]) -> Result<Vec<(usize, String)>> {
        let sql = format!(
            "SELECT position, id FROM {} WHERE id = ANY($1) AND (cardinality($2::text[]) = 0 OR part = ANY($2))
            ORDER BY position",
            self.catalog.table()
        );
        let rows = reading(&mut self.catalog, |client| client.query(&sql, &[&names, &columns]))?;
        Ok(rows.iter().map(|row| (row.get::<_, i64>(0) as usize, row.get(1))).collect())
    }

    fn example(&mut self) -> Result<Option<String>> {
        let sql = format!("SELECT id FROM {} LIMIT 1", self.catalog.table());
        Ok(reading(&mut self.catalog, |client| client.query_opt(&sql, &[]))?.map(|row| row.get(0)))
    }
}

/// An entry from `position, id, part, content, source, fields`.
pub(super) fn entry(row: &Row) -> Entry {
    let fields: Value = row.get(5);
    let fields = match fields {
        Value::Object(fields) => fields.into_iter().filter_map(|(k, v)| Some((k, v.as_str()?.to_owned()))).collect(),
        _ => Default::default(),
    };
    Entry { id: row.get(1), column: row.get(2), content: row.get(3), source: row.get(4), fields }
}
