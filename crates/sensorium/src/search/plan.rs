//! Which columns of a table go through which way into a space.

use super::space::Space;
use crate::{Error, Result};
use sensorium_data::{ColumnPlan, ColumnType, DataPlan, Modality, Schema, Table};
use std::sync::Arc;

/// Columns of a table, and the way of each into the space.
pub(super) struct TablePlan {
    /// How cells become segments.
    pub plan: Arc<DataPlan>,
    /// For each column of the plan its place among the table's.
    pub at: Vec<usize>,
    /// For each column of the plan its way into the space.
    pub ways: Vec<usize>,
}

fn modality(kind: ColumnType) -> Option<Modality> {
    match kind {
        ColumnType::Text => Some(Modality::Text),
        ColumnType::Image => Some(Modality::Image),
        ColumnType::Audio => Some(Modality::Audio),
        ColumnType::Video => Some(Modality::Video),
        _ => None,
    }
}

/// The first way in for a modality.
pub(super) fn way_for(space: &dyn Space, modality: Modality) -> Result<usize> {
    let inputs = &space.inputs().columns;
    inputs.iter().position(|c| c.modality == modality && !c.sound_track).ok_or_else(|| {
        let known: Vec<&str> = inputs.iter().map(|c| c.modality.name()).collect();
        Error::Request(format!("the model embeds no {}; it embeds {}", modality.name(), known.join(" and ")))
    })
}

impl TablePlan {
    /// The columns that are named, or those that the model learnt from, or all
    /// that it can read.
    pub(super) fn new(space: &dyn Space, table: &Table, schema: &Schema, named: &[String]) -> Result<Self> {
        for name in named {
            table.column_index(name)?;
        }
        let inputs = &space.inputs().columns;
        let own = |name: &str| inputs.iter().position(|input| input.source == name && !input.sound_track);
        let only_own =
            named.is_empty() && space.knows_columns() && schema.columns.iter().any(|c| own(&c.name).is_some());
        let (mut columns, mut at, mut ways) = (Vec::new(), Vec::new(), Vec::new());
        for column in &schema.columns {
            let wanted = named.contains(&column.name);
            let way = match (own(&column.name), modality(column.kind)) {
                _ if column.precomputed || (!named.is_empty() && !wanted) => continue,
                (Some(way), _) => way,
                (None, _) if only_own => continue,
                (None, Some(modality)) => match (way_for(space, modality), wanted) {
                    (Ok(way), _) => way,
                    (Err(e), true) => return Err(e),
                    (Err(_), false) => continue,
                },
                // Short texts look like categories or identifiers.
                (None, None) if wanted => way_for(space, Modality::Text)?,
                (None, None) => continue,
            };
            let name = column.name.clone();
            columns.push(ColumnPlan { source: name.clone(), name, ..inputs[way].clone() });
            at.push(table.column_index(&column.name)?);
            ways.push(way);
        }
        if columns.is_empty() {
            let types = schema.columns.iter().map(|c| format!("{}={}", c.name, c.kind)).collect::<Vec<_>>().join(", ");
            let known = inputs.iter().map(|c| c.modality.name()).collect::<Vec<_>>().join(" and ");
            return Err(Error::Request(format!(
                "the model embeds {known}, and no column of {:?} is that; types: {types}; name one with --column",
                table.path()
            )));
        }
        let plan = Arc::new(DataPlan { columns, ..space.inputs().clone() });
        Ok(Self { plan, at, ways })
    }
}
