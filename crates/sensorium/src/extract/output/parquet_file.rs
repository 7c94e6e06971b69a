//! Parquet: `row`, the identifier, a list of numbers (pooled) or a list of
//! such lists (tokens) for each column, and `error` where rows have one.
//!
//! A shard is a row group. Lists are laid out by levels, as in Dremel (Melnik
//! et al. 2010): the repetition level says which list a number continues, the
//! definition level how much of the path to it is there.

use super::{Layout, Out};
use crate::extract::record::Stored;
use crate::extract::shards::Shards;
use crate::{Error, Result};
use parquet::basic::{LogicalType, Repetition, Type as Physical};
use parquet::column::writer::ColumnWriterImpl;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{Type, TypePtr};
use std::ops::Range;
use std::sync::Arc;

pub(super) fn write(out: &mut Out, layout: &Layout, shards: &Shards, range: Range<u64>) -> Result<()> {
    let path = out.path.clone();
    let failed = |e: ParquetError| Error::io("write", &path, std::io::Error::other(e));
    let mut errors = false;
    for shard in range.clone() {
        let summary = shards.reader(shard)?.summary;
        errors |= summary.bad > 0;
    }
    let schema = schema(layout, errors).map_err(failed)?;
    let properties = WriterProperties::builder()
        .set_created_by(concat!("sensorium ", env!("CARGO_PKG_VERSION")).into())
        // Features hardly repeat, and nobody filters by them.
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .build();
    let mut file = SerializedFileWriter::new(&mut out.file, schema, Arc::new(properties)).map_err(failed)?;
    for shard in range {
        let mut group = file.next_row_group().map_err(failed)?;
        let texts = |text: Option<String>| (text.map(|t| ByteArray::from(t.into_bytes())), 1);
        column::<Int64Type, _>(
            &mut group,
            shards,
            shard,
            &failed,
            |_| false,
            |record, batch| {
                batch.put(record.row as i64 + 1, 0, 0);
            },
        )?;
        if layout.identifier.is_some() {
            column::<ByteArrayType, _>(
                &mut group,
                shards,
                shard,
                &failed,
                |_| false,
                |record, batch| {
                    batch.optional(texts(record.name));
                },
            )?;
        }
        for at in 0..layout.columns.len() {
            let dim = layout.columns[at].1;
            column::<FloatType, _>(
                &mut group,
                shards,
                shard,
                &failed,
                |c| c == at,
                |mut record, batch| {
                    let cell = std::mem::take(&mut record.cells[at]);
                    match (cell.count, layout.pooled) {
                        (None, _) => batch.absent(0),
                        (Some(0), _) => batch.absent(1),
                        (Some(_), true) => batch.lists(&cell.values, cell.values.len(), 2),
                        (Some(_), false) => batch.lists(&cell.values, dim, 3),
                    }
                },
            )?;
        }
        if errors {
            column::<ByteArrayType, _>(
                &mut group,
                shards,
                shard,
                &failed,
                |_| false,
                |record, batch| {
                    batch.optional(texts(record.error));
                },
            )?;
        }
        group.close().map_err(failed)?;
    }
    file.close().map_err(failed)?;
    Ok(())
}

fn schema(layout: &Layout, errors: bool) -> std::result::Result<TypePtr, ParquetError> {
    let text = |name: &str| {
        Type::primitive_type_builder(name, Physical::BYTE_ARRAY)
            .with_repetition(Repetition::OPTIONAL)
            .with_logical_type(Some(LogicalType::String))
            .build()
    };
    let row = layout.own("row");
    let row = Type::primitive_type_builder(&row, Physical::INT64).with_repetition(Repetition::REQUIRED).build()?;
    let mut fields = vec![Arc::new(row)];
    if let Some(identifier) = &layout.identifier {
        fields.push(Arc::new(text(identifier)?));
    }
    for (name, _) in &layout.columns {
        let number = Type::primitive_type_builder("element", Physical::FLOAT).with_repetition(Repetition::REQUIRED);
        let mut element = number.build()?;
        if !layout.pooled {
            element = list("element", Repetition::REQUIRED, element)?;
        }
        fields.push(Arc::new(list(name, Repetition::OPTIONAL, element)?));
    }
    if errors {
        fields.push(Arc::new(text(&layout.own("error"))?));
    }
    Ok(Arc::new(Type::group_type_builder("features").with_fields(fields).build()?))
}

fn list(name: &str, repetition: Repetition, element: Type) -> std::result::Result<Type, ParquetError> {
    let repeated = Type::group_type_builder("list")
        .with_repetition(Repetition::REPEATED)
        .with_fields(vec![Arc::new(element)])
        .build()?;
    Type::group_type_builder(name)
        .with_repetition(repetition)
        .with_logical_type(Some(LogicalType::List))
        .with_fields(vec![Arc::new(repeated)])
        .build()
}

/// Values and levels on their way into a column.
struct Values<T: DataType> {
    values: Vec<T::T>,
    definition: Vec<i16>,
    repetition: Vec<i16>,
}

/// Values that are written at a time, about.
const BATCH: usize = 1 << 18;

impl<T: DataType> Values<T> {
    fn put(&mut self, value: T::T, definition: i16, repetition: i16) {
        self.values.push(value);
        self.definition.push(definition);
        self.repetition.push(repetition);
    }

    /// A row whose path ends at this level.
    fn absent(&mut self, definition: i16) {
        self.definition.push(definition);
        self.repetition.push(0);
    }

    fn optional(&mut self, (value, definition): (Option<T::T>, i16)) {
        match value {
            Some(value) => self.put(value, definition, 0),
            None => self.absent(0),
        }
    }

    fn flush(&mut self, writer: &mut ColumnWriterImpl<'_, T>) -> std::result::Result<(), ParquetError> {
        writer.write_batch(&self.values, Some(&self.definition), Some(&self.repetition))?;
        self.values.clear();
        self.definition.clear();
        self.repetition.clear();
        Ok(())
    }
}

impl Values<FloatType> {
    /// A row of lists of `each` numbers, whose numbers are at `definition`:
    /// 2 in one list, 3 in a list of lists.
    fn lists(&mut self, values: &[f32], each: usize, definition: i16) {
        for (i, value) in values.iter().enumerate() {
            let repetition = match i {
                0 => 0,
                _ if i % each == 0 => definition - 2,
                _ => definition - 1,
            };
            self.put(*value, definition, repetition);
        }
    }
}

/// Writes one column of a row group.
fn column<T: DataType, W: std::io::Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    shards: &Shards,
    shard: u64,
    failed: &impl Fn(ParquetError) -> Error,
    wanted: impl Fn(usize) -> bool,
    each: impl Fn(Stored, &mut Values<T>),
) -> Result<()> {
    let missing = || failed(ParquetError::General("the schema has fewer columns than are written".into()));
    let mut writer = group.next_column().map_err(failed)?.ok_or_else(missing)?;
    let mut batch = Values { values: Vec::new(), definition: Vec::new(), repetition: Vec::new() };
    let mut reader = shards.reader(shard)?;
    while let Some(record) = reader.next(&wanted)? {
        each(record, &mut batch);
        if batch.definition.len() >= BATCH {
            batch.flush(writer.typed::<T>()).map_err(failed)?;
        }
    }
    batch.flush(writer.typed::<T>()).map_err(failed)?;
    writer.close().map_err(failed)
}
