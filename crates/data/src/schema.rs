//! What each column is: inferred with the reason given, or told.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result, nearest};
use crate::features::is_features;
use crate::media_ref::looks_like;
use crate::split::is_split_name;
use crate::table::{Table, Value};

/// Rows looked at to infer the types.
const SAMPLED_ROWS: u64 = 1000;

/// What a column holds and how it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColumnType {
    /// Free text.
    Text,
    /// One of a few words.
    Category,
    /// A number.
    Number,
    /// Pictures.
    Image,
    /// Sounds.
    Audio,
    /// Videos.
    Video,
    /// Precomputed numbers: a list in the cell or an `.npy` file.
    Features,
    /// What is to be predicted.
    Label,
    /// Names the row and says nothing else.
    Identifier,
    /// Not used.
    Ignore,
}

/// The names of the column types, for messages.
pub const TYPE_NAMES: &str = "text, category, number, image, audio, video, features, label, identifier, ignore";

impl ColumnType {
    /// Every type, in the order of [`TYPE_NAMES`].
    pub const ALL: [ColumnType; 10] = [
        ColumnType::Text,
        ColumnType::Category,
        ColumnType::Number,
        ColumnType::Image,
        ColumnType::Audio,
        ColumnType::Video,
        ColumnType::Features,
        ColumnType::Label,
        ColumnType::Identifier,
        ColumnType::Ignore,
    ];

    /// The name used in configs and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            ColumnType::Text => "text",
            ColumnType::Category => "category",
            ColumnType::Number => "number",
            ColumnType::Image => "image",
            ColumnType::Audio => "audio",
            ColumnType::Video => "video",
            ColumnType::Features => "features",
            ColumnType::Label => "label",
            ColumnType::Identifier => "identifier",
            ColumnType::Ignore => "ignore",
        }
    }

    /// True for the types whose columns a model reads.
    pub fn is_input(self) -> bool {
        !matches!(self, ColumnType::Label | ColumnType::Identifier | ColumnType::Ignore)
    }

    /// True for images, audio and video.
    pub fn is_media(self) -> bool {
        matches!(self, ColumnType::Image | ColumnType::Audio | ColumnType::Video)
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for ColumnType {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self> {
        let wanted = name.trim().to_ascii_lowercase();
        ColumnType::ALL.into_iter().find(|kind| kind.name() == wanted).ok_or_else(|| DataError::UnknownType {
            name: name.to_string(),
            suggestion: nearest(name, ColumnType::ALL.map(ColumnType::name)),
        })
    }
}

/// Reads `COLUMN=TYPE`, as `--type` takes it; the column may itself contain `=`.
///
/// # Errors
/// A text without `=`, or an unknown type, with the nearest one.
pub fn parse_override(text: &str) -> Result<(String, ColumnType)> {
    let (column, kind) = text.rsplit_once('=').ok_or_else(|| {
        DataError::Options(format!("{text:?} is not COLUMN=TYPE, such as photo=image; types: {TYPE_NAMES}"))
    })?;
    Ok((column.trim().to_string(), kind.parse()?))
}

/// One column's type and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ColumnSchema {
    /// The column.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: ColumnType,
    /// Why, in a few words.
    pub reason: String,
    /// True where the cells hold precomputed features; always so for [`ColumnType::Features`],
    /// and for a text, image, audio or video column whose cells are lists of numbers or `.npy`.
    pub precomputed: bool,
}

/// What a person says about the columns; the rest is inferred.
#[derive(Clone, Debug, Default)]
pub struct SchemaOptions {
    /// The column to predict.
    pub label: Option<String>,
    /// Types by column.
    pub types: BTreeMap<String, ColumnType>,
    /// Columns to leave out.
    pub ignore: Vec<String>,
    /// The column that names each row's split.
    pub split: Option<String>,
    /// The column whose equal values keep rows in one split. Where it names things (a category, a
    /// number, a code) it is no input; running text and media are.
    pub group: Option<String>,
}

/// The types of all columns of a table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Schema {
    /// The columns, in the table's order.
    pub columns: Vec<ColumnSchema>,
    /// The column that names each row's split, if there is one.
    pub split: Option<String>,
    /// Rows that were looked at.
    pub sampled_rows: u64,
}

impl Schema {
    /// Infers the types of a table's columns from up to 1000 rows spread evenly over it, and applies
    /// what the person said.
    ///
    /// # Errors
    /// An unknown column in the options, with the nearest name; more than one label.
    pub fn infer(table: &Table, options: &SchemaOptions) -> Result<Schema> {
        let named = options.types.keys().chain(&options.ignore).chain(&options.label);
        let named = named.chain(&options.split).chain(&options.group);
        for name in named {
            table.column_index(name)?;
        }
        let sampled = table.sample_rows(SAMPLED_ROWS);
        let mut cells: Vec<Vec<Value>> = vec![Vec::with_capacity(sampled.len()); table.columns().len()];
        for row in &sampled {
            for (column, value) in cells.iter_mut().zip(table.row(*row)?.values) {
                column.push(value);
            }
        }
        let split = options.split.clone().or_else(|| {
            table.columns().iter().zip(&cells).find(|(n, v)| is_split_column(n, v)).map(|(n, _)| n.clone())
        });
        let mut columns: Vec<ColumnSchema> = table
            .columns()
            .iter()
            .zip(&cells)
            .map(|(name, values)| {
                let facts = Facts::of(values);
                let (kind, reason) = if split.as_ref() == Some(name) {
                    (ColumnType::Ignore, "names the split of each row".to_string())
                } else if options.label.as_ref() == Some(name) {
                    (ColumnType::Label, "given as the label".to_string())
                } else if options.ignore.contains(name) {
                    (ColumnType::Ignore, "given as ignored".to_string())
                } else if let Some(kind) = options.types.get(name) {
                    (*kind, "given".to_string())
                } else {
                    match facts.infer(name) {
                        (kind, _) if options.group.as_ref() == Some(name) && facts.names(kind) => {
                            (ColumnType::Ignore, "names what keeps rows in one split (data.group)".to_string())
                        }
                        inferred => inferred,
                    }
                };
                let precomputed = match kind {
                    ColumnType::Features => true,
                    ColumnType::Text | ColumnType::Image | ColumnType::Audio | ColumnType::Video => {
                        facts.mostly(facts.features)
                    }
                    _ => false,
                };
                ColumnSchema { name: name.clone(), kind, reason, precomputed }
            })
            .collect();
        choose_label(&mut columns, &cells, options)?;
        Ok(Schema { columns, split, sampled_rows: sampled.len() as u64 })
    }

    /// The label's column, if there is one.
    pub fn label(&self) -> Option<&ColumnSchema> {
        self.columns.iter().find(|column| column.kind == ColumnType::Label)
    }

    /// The column that identifies rows, if there is one.
    pub fn identifier(&self) -> Option<&ColumnSchema> {
        self.columns.iter().find(|column| column.kind == ColumnType::Identifier)
    }

    /// The columns a model reads.
    pub fn inputs(&self) -> impl Iterator<Item = &ColumnSchema> {
        self.columns.iter().filter(|column| column.kind.is_input())
    }
}

/// Counts over one column's sampled cells.
struct Facts<'v> {
    values: Vec<&'v Value>,
    distinct: HashSet<String>,
    features: usize,
    numbers: usize,
    integers: usize,
    longest: usize,
    characters: usize,
    media: BTreeMap<ColumnType, usize>,
}

impl<'v> Facts<'v> {
    fn of(values: &'v [Value]) -> Self {
        let values: Vec<&Value> = values.iter().filter(|value| !value.is_missing()).collect();
        let texts: Vec<String> = values.iter().filter_map(|value| value.as_text()).collect();
        let mut media = BTreeMap::new();
        for kind in values.iter().filter_map(|value| looks_like(value)) {
            *media.entry(kind).or_insert(0) += 1;
        }
        let numbers: Vec<f64> = values.iter().filter_map(|value| value.as_number()).collect();
        Facts {
            features: values.iter().filter(|value| is_features(value)).count(),
            numbers: numbers.len(),
            integers: numbers.iter().filter(|number| number.fract() == 0.0).count(),
            longest: texts.iter().map(|text| text.chars().count()).max().unwrap_or(0),
            characters: texts.iter().map(|text| text.chars().count()).sum(),
            distinct: texts.into_iter().collect(),
            values,
            media,
        }
    }

    /// Four cells in five: a few broken cells do not change a column's type, they are reported.
    fn mostly(&self, count: usize) -> bool {
        !self.values.is_empty() && count * 5 >= self.values.len() * 4
    }

    fn infer(&self, name: &str) -> (ColumnType, String) {
        let (rows, distinct) = (self.values.len(), self.distinct.len());
        if rows == 0 {
            return (ColumnType::Ignore, "every sampled cell is missing".into());
        }
        if self.mostly(self.features) {
            let what = format!("{} of {rows} sampled cells are lists of numbers or .npy files", self.features);
            return (ColumnType::Features, what);
        }
        let most = self.media.iter().max_by_key(|(_, count)| **count);
        if let Some((kind, count)) = most.filter(|(_, count)| self.mostly(**count)) {
            let why = format!("{count} of {rows} sampled cells name or contain {kind} files");
            return (*kind, why);
        }
        if distinct == 1 && rows > 1 {
            return (ColumnType::Ignore, "every sampled cell is the same".into());
        }
        let unique = rows >= 3 && distinct * 100 >= rows * 99;
        if unique && is_identifier_name(name) {
            return (ColumnType::Identifier, format!("named like one, {distinct} of {rows} sampled cells distinct"));
        }
        if self.numbers == rows {
            if unique && self.integers == rows && self.counts_up() {
                return (ColumnType::Identifier, "counts the rows".into());
            }
            return (ColumnType::Number, "every sampled cell is a number".into());
        }
        let mean = self.characters / rows;
        let lists = self.values.iter().any(|value| matches!(value, Value::Texts(_)));
        if !lists && self.longest <= 40 && distinct <= 50 && distinct * 5 <= rows {
            return (ColumnType::Category, format!("{distinct} distinct short texts in {rows} sampled rows"));
        }
        if unique && self.mostly(self.values.iter().filter(|v| is_code(v)).count()) {
            return (ColumnType::Identifier, format!("codes without spaces, {distinct} of {rows} distinct"));
        }
        (ColumnType::Text, format!("text of {mean} characters on average, {distinct} distinct in {rows} sampled rows"))
    }

    /// Whether cells of this type name something, as a category, a number or a word of a code does,
    /// rather than say something.
    fn names(&self, kind: ColumnType) -> bool {
        match kind {
            ColumnType::Category | ColumnType::Number => true,
            ColumnType::Text => self.mostly(self.values.iter().filter(|value| is_word(value)).count()),
            _ => false,
        }
    }

    fn counts_up(&self) -> bool {
        let numbers: Vec<f64> = self.values.iter().filter_map(|value| value.as_number()).collect();
        let first = numbers.first().copied().unwrap_or(f64::NAN);
        (first == 0.0 || first == 1.0) && numbers.windows(2).all(|pair| pair[0] < pair[1])
    }
}

/// A word of digits and letters, such as a hash or a serial number.
fn is_code(value: &Value) -> bool {
    let Value::Text(text) = value else { return false };
    text.len() >= 4
        && text.bytes().any(|byte| byte.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte))
}

/// A word without blanks, of letters that do not make a sentence without them.
fn is_word(value: &Value) -> bool {
    value.as_text().is_some_and(|text| text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_graphic()))
}

fn is_identifier_name(name: &str) -> bool {
    let name = name.to_lowercase();
    ["id", "uuid", "guid", "index", "idx", "key", "rowid", "编号", "序号"].contains(&name.as_str())
        || ["_id", "-id", " id", "_uuid", "_key", ".id"].iter().any(|end| name.ends_with(end))
        || name.starts_with("column_")
}

fn is_split_column(name: &str, values: &[Value]) -> bool {
    ["split", "fold", "subset", "partition", "set"].contains(&name.to_lowercase().as_str())
        && values.iter().any(|value| !value.is_missing())
        && values.iter().all(|value| value.is_missing() || value.as_text().is_some_and(|t| is_split_name(&t)))
}

const LABEL_NAMES: [&str; 9] = ["label", "labels", "target", "class", "y", "标签", "类别", "label_id", "target_label"];

/// Without a label given, a column that is named like one becomes it, if it can be one.
fn choose_label(columns: &mut [ColumnSchema], cells: &[Vec<Value>], options: &SchemaOptions) -> Result<()> {
    let labels: Vec<&str> =
        columns.iter().filter(|column| column.kind == ColumnType::Label).map(|column| column.name.as_str()).collect();
    if labels.len() > 1 {
        return Err(DataError::Options(format!(
            "several columns are given as the label: {}; keep one and ignore the others",
            labels.join(", ")
        )));
    }
    if labels.len() == 1 {
        return Ok(());
    }
    for name in LABEL_NAMES {
        let found = columns.iter().position(|column| column.name.to_lowercase() == name);
        let Some(at) = found else { continue };
        let column = &mut columns[at];
        if options.types.contains_key(&column.name) || options.ignore.contains(&column.name) {
            continue;
        }
        let usable = matches!(column.kind, ColumnType::Category | ColumnType::Number)
            || (column.kind == ColumnType::Text && Facts::of(&cells[at]).longest <= 100);
        if usable {
            column.reason = format!("named {:?}; {}", column.name, column.reason);
            column.kind = ColumnType::Label;
            column.precomputed = false;
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::TableOptions;

    fn infer(csv: &str, options: &SchemaOptions) -> Result<Schema> {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("t.csv");
        std::fs::write(&path, csv).expect("write");
        Schema::infer(&Table::open(&path, &TableOptions::default()).expect("table"), options)
    }

    fn kinds(schema: &Schema) -> Vec<ColumnType> {
        schema.columns.iter().map(|column| column.kind).collect()
    }

    fn mixed_table() -> String {
        let mut csv = String::from("id,text,picture,sound,size,colour,features,empty,same,split,label\n");
        for i in 0..60 {
            let colour = ["red", "green", "blue"][i % 3];
            let split = ["train", "val", "test"][i % 3];
            csv += &format!(
                "{},这是第{i}句话，很长的一句,p/{i}.png,s{i}.wav,{}.5,{colour},\"[{i}, 2, 3]\",,x,{split},{}\n",
                i * 7,
                i,
                ["yes", "no"][i % 2]
            );
        }
        csv
    }

    #[test]
    fn each_type_is_inferred() {
        use ColumnType::*;
        let schema = infer(&mixed_table(), &SchemaOptions::default()).expect("schema");
        assert_eq!(
            kinds(&schema),
            [Identifier, Text, Image, Audio, Number, Category, Features, Ignore, Ignore, Ignore, Label]
        );
        assert_eq!(schema.split.as_deref(), Some("split"));
        assert!(schema.columns.iter().all(|column| !column.reason.is_empty()));
        assert!(schema.columns[6].precomputed);
    }

    #[test]
    fn what_a_person_says_wins() {
        let options = SchemaOptions {
            label: Some("colour".into()),
            types: BTreeMap::from([("features".into(), ColumnType::Audio), ("size".into(), ColumnType::Category)]),
            ignore: vec!["sound".into()],
            ..SchemaOptions::default()
        };
        let schema = infer(&mixed_table(), &options).expect("schema");
        assert_eq!(schema.label().map(|c| c.name.as_str()), Some("colour"));
        assert_eq!(schema.columns[3].kind, ColumnType::Ignore);
        assert_eq!(schema.columns[4].kind, ColumnType::Category);
        assert_eq!((schema.columns[6].kind, schema.columns[6].precomputed), (ColumnType::Audio, true));
        assert_eq!(schema.columns[10].kind, ColumnType::Category);
    }

    #[test]
    fn what_names_a_group_is_no_input_and_what_says_something_is() {
        let mut csv = String::from("customer,number,dialog,caption,photo,label\n");
        for i in 0..60 {
            csv += &format!(
                "{},{},dialog-{},a photo of a thing {},p/{}.png,{}\n",
                ["anna", "bert"][i / 30],
                i / 5,
                i / 2,
                i / 2,
                i / 2,
                i % 2
            );
        }
        let kind = |group: &str, types: &[(&str, ColumnType)]| {
            let types = types.iter().map(|(name, kind)| ((*name).to_string(), *kind)).collect();
            let options = SchemaOptions { group: Some(group.into()), types, ..SchemaOptions::default() };
            let schema = infer(&csv, &options).expect("schema");
            schema.columns.into_iter().find(|column| column.name == group).expect("the column").kind
        };
        for name in ["customer", "number", "dialog"] {
            assert_eq!(kind(name, &[]), ColumnType::Ignore, "{name}");
        }
        assert_eq!(kind("caption", &[]), ColumnType::Text);
        assert_eq!(kind("photo", &[]), ColumnType::Image);
        assert_eq!(kind("customer", &[("customer", ColumnType::Category)]), ColumnType::Category, "said outright");
        let options = SchemaOptions { group: Some("costumer".into()), ..SchemaOptions::default() };
        assert!(infer(&csv, &options).expect_err("unknown").to_string().contains("customer"));
    }

    #[test]
    fn mistakes_in_overrides_are_named() {
        let options = SchemaOptions { label: Some("lable".into()), ..Default::default() };
        let error = infer(&mixed_table(), &options).expect_err("unknown");
        assert!(matches!(error, DataError::UnknownColumn { suggestion: Some(near), .. } if near == "label"));
        let error = "imgae".parse::<ColumnType>().expect_err("unknown").to_string();
        assert!(error.contains("did you mean \"image\"?"), "{error}");
        let types = BTreeMap::from([("text".into(), ColumnType::Label)]);
        let options = SchemaOptions { label: Some("label".into()), types, ..Default::default() };
        assert!(matches!(infer(&mixed_table(), &options), Err(DataError::Options(_))));
    }

    #[test]
    fn overrides_are_read_from_text() {
        assert_eq!(parse_override("a=b=image").expect("override"), ("a=b".to_string(), ColumnType::Image));
        assert!(parse_override("photo").expect_err("no type").to_string().contains("COLUMN=TYPE"));
        assert!(
            matches!(parse_override("a=vidoe"), Err(DataError::UnknownType { suggestion: Some(near), .. }) if near == "video")
        );
    }

    #[test]
    fn names_round_trip() {
        for kind in ColumnType::ALL {
            assert_eq!(kind.name().parse::<ColumnType>().expect("name"), kind);
            assert_eq!(serde_json::to_string(&kind).expect("json"), format!("\"{kind}\""));
        }
        assert_eq!(TYPE_NAMES, ColumnType::ALL.map(ColumnType::name).join(", "));
    }
}
