//! How far up the right one stands, in both directions of every pair of columns.

use super::batch::{Cells, PairBatch, segment_contents};
use super::learner::loss_of;
use super::{RetrievalLearner, Retriever};
use crate::verbs::Dataset;
use crate::{Error, Result};
use sensorium_data::{LoaderStatistics, Split, Table, TableOptions};
use sensorium_engine::{Activation, Tape, Tensor, Var, ops};
use sensorium_eval::{Align, Retrieval, RetrievalMetrics, wilson};
use sensorium_model::Context;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Queries whose scores stand in memory at a time.
const BLOCK: usize = 256;
/// Queries shown on the report page, for each direction.
const SHOWN: usize = 6;
/// Answers shown for each.
const ANSWERS: usize = 5;

/// One direction: queries from one column, answers from another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Direction {
    /// The column of the queries.
    pub from: String,
    /// The column of the answers.
    pub to: String,
    /// Different answers to choose from.
    pub items: usize,
    /// Recall at 10 of an order by chance.
    pub chance_at_10: f64,
    /// The metrics.
    #[serde(flatten)]
    pub metrics: RetrievalMetrics,
    /// A few queries and what came first, to be looked at.
    #[serde(skip)]
    pub(super) examples: Vec<Example>,
}

/// A query and its first answers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Example {
    pub query: Place,
    /// Where the answers are, their cosine, and whether they belong to the query.
    pub answers: Vec<(Place, f32, bool)>,
}

/// A cell's part: the table row and the number within the cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub row: u64,
    pub part: usize,
}

/// How well a retriever finds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RetrievalEvaluation {
    /// Both directions of every pair of columns.
    pub directions: Vec<Direction>,
    /// The mean loss over batches.
    pub loss: f64,
    /// Rows looked at.
    pub rows: usize,
    /// Remarks: rows that were left out, and why.
    pub notes: Vec<String>,
}

impl RetrievalEvaluation {
    /// The mean over all directions of a metric.
    pub fn mean(&self, of: impl Fn(&RetrievalMetrics) -> f64) -> f64 {
        self.directions.iter().map(|d| of(&d.metrics)).sum::<f64>() / self.directions.len() as f64
    }

    /// The loss, and of ranks the mean over all directions, by the names under
    /// which validation has them.
    pub(crate) fn metrics(&self) -> BTreeMap<String, f64> {
        [
            ("loss", self.loss),
            ("recall_at_1", self.mean(|m| m.recall_at_1)),
            ("recall_at_5", self.mean(|m| m.recall_at_5)),
            ("recall_at_10", self.mean(|m| m.recall_at_10)),
            ("mrr", self.mean(|m| m.mrr)),
            ("median_rank", self.mean(|m| m.median_rank)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// A table for people; recall with half the width of its 95 % interval.
    ///
    /// # Errors
    /// Never for metrics of whole queries.
    pub fn to_text(&self) -> Result<String> {
        let mut columns = vec![("query → answer", Align::Left)];
        columns.extend(
            ["queries", "answers", "R@1", "R@5", "R@10", "by chance", "median rank", "MRR", "nDCG@10", "mAP"]
                .map(|name| (name, Align::Right)),
        );
        let mut table = sensorium_eval::Table::new(columns);
        for d in &self.directions {
            let m = &d.metrics;
            let recall = |share: f64| -> Result<String> {
                let found = (share * m.queries as f64).round() as u64;
                let interval = wilson(found, m.queries as u64, 0.95)?;
                Ok(format!("{share:.3} ±{:.3}", (interval.high - interval.low) / 2.0))
            };
            table.row([
                format!("{} → {}", d.from, d.to),
                m.queries.to_string(),
                d.items.to_string(),
                recall(m.recall_at_1)?,
                recall(m.recall_at_5)?,
                recall(m.recall_at_10)?,
                format!("{:.3}", d.chance_at_10),
                format!("{}", m.median_rank),
                format!("{:.3}", m.mrr),
                format!("{:.3}", m.ndcg_at_10),
                format!("{:.3}", m.map),
            ]);
        }
        Ok(table.to_text())
    }
}

/// Evaluates a retriever on a table, or on the rows of one of its splits.
///
/// # Errors
/// When the table lacks the model's columns, or no row has two of a pair.
pub fn evaluate_retrieval(model: &Retriever, table: &Path, split: Option<Split>) -> Result<RetrievalEvaluation> {
    let opened = Table::open(table, &TableOptions::default())?;
    let columns = opened.columns();
    let known = |c: &String| columns.contains(c);
    let mut config = model.config.clone();
    config.data.ignore.retain(known);
    config.data.types.retain(|c, _| known(c));
    config.data.split = config.data.split.take().filter(known);
    config.data.group = config.data.group.take().filter(known);
    let dataset = Dataset::of(opened, &config)?;
    let rows = match split {
        Some(split) => dataset.splits.rows(split).to_vec(),
        None => (0..dataset.table.len()).collect(),
    };
    if rows.is_empty() {
        return Err(Error::Request(format!("{table:?} has no rows to evaluate ({})", dataset.splits.summary())));
    }
    evaluate_rows(model, &dataset, &rows)
}

/// Evaluates a retriever on some rows of an opened table.
///
/// # Errors
/// When no row has two columns of a pair.
pub(crate) fn evaluate_rows(model: &Retriever, dataset: &Dataset, rows: &[u64]) -> Result<RetrievalEvaluation> {
    let loader = dataset.in_order(&model.plan, rows, &model.config, false)?;
    let cells = Cells::new(&dataset.table, &model.plan)?;
    let mut galleries = Galleries::of(&model.learner);
    for pack in loader.epoch(0, 0) {
        galleries.add(&model.learner, &cells.batch(pack?)?)?;
    }
    let mut evaluation = galleries.evaluation(&model.learner)?;
    let LoaderStatistics { bad, skipped, truncated, .. } = loader.statistics();
    let mut note = |count: u64, what: &str| {
        if count > 0 {
            evaluation.notes.push(format!("{count} {what}"));
        }
    };
    note(bad, "rows have a cell that could not be read; `sensorium inspect` lists them");
    note(skipped, "rows were left out, nothing of them could be used");
    note(truncated, "texts were longer than the model reads, their ends were cut");
    Ok(evaluation)
}

/// The different contents of a column.
#[derive(Default)]
struct Gallery {
    /// `[items, dim]`
    vectors: Vec<f32>,
    places: Vec<Place>,
    /// The item of each content.
    known: HashMap<u64, u32>,
    /// The rows that each item stands in.
    rows: Vec<Vec<u64>>,
}

/// The contents of all columns, gathered batch by batch.
pub(crate) struct Galleries {
    columns: Vec<Gallery>,
    rows: usize,
    losses: f64,
    weight: f64,
}

impl Galleries {
    pub(crate) fn of(learner: &RetrievalLearner) -> Self {
        let columns = learner.model.columns().iter().map(|_| Gallery::default()).collect();
        Self { columns, rows: 0, losses: 0.0, weight: 0.0 }
    }

    /// Embeds a batch; what was seen already is not taken twice.
    pub(crate) fn add(&mut self, learner: &RetrievalLearner, batch: &PairBatch) -> Result<()> {
        let tape = Tape::inference();
        let cx = Context::inference(&tape, &learner.params);
        let dim = learner.model.config().dim;
        let mut embedded = Vec::new();
        for (column, input) in batch.batch.inputs.columns.iter().enumerate() {
            if !learner.model.compares(column) {
                embedded.push(learner.model.nothing());
                continue;
            }
            let vectors = learner.embed(&cx, column, input)?;
            let contents = segment_contents(input, &batch.cells[column]);
            let gallery = &mut self.columns[column];
            let mut part = 0;
            for (segment, sample) in input.sample_of().iter().enumerate() {
                part = if segment > 0 && input.sample_of()[segment - 1] == *sample { part + 1 } else { 0 };
                let row = batch.batch.rows[*sample as usize];
                let next = gallery.places.len() as u32;
                let item = *gallery.known.entry(contents[segment]).or_insert(next);
                if item == next {
                    gallery.vectors.extend_from_slice(&vectors.vectors.data()[segment * dim..][..dim]);
                    gallery.places.push(Place { row, part });
                    gallery.rows.push(Vec::new());
                }
                let rows = &mut gallery.rows[item as usize];
                if rows.last() != Some(&row) {
                    rows.push(row);
                }
            }
            embedded.push(vectors);
        }
        let (loss, weight) = loss_of(&learner.model, &cx, &embedded, &batch.batch.inputs, &batch.cells)?;
        self.losses += f64::from(loss.loss.value().scalar()?) * weight;
        self.weight += weight;
        self.rows += batch.batch.rows.len();
        Ok(())
    }

    /// The rows of a column that was gathered, and the vectors `[dim]` that
    /// stand in them.
    pub(crate) fn vectors(&self, column: usize, dim: usize) -> impl Iterator<Item = (u64, &[f32])> {
        let gallery = &self.columns[column];
        let items = gallery.rows.iter().zip(gallery.vectors.chunks_exact(dim));
        items.flat_map(|(rows, vector)| rows.iter().map(move |row| (*row, vector)))
    }

    /// The metrics of what was gathered.
    pub(crate) fn evaluation(&self, learner: &RetrievalLearner) -> Result<RetrievalEvaluation> {
        let config = learner.model.config();
        let mut directions = Vec::new();
        for &[a, b] in &config.pairs {
            for (from, to) in [(a, b), (b, a)] {
                let name = |c: usize| config.columns[c].name.clone();
                let found = direction(&self.columns[from], &self.columns[to], config.dim)?;
                let Some((retrieval, chance_at_10, examples)) = found else {
                    return Err(Error::Request(format!("no row has both {} and {}", name(from), name(to))));
                };
                let items = self.columns[to].places.len();
                let metrics = retrieval.metrics();
                directions.push(Direction { from: name(from), to: name(to), items, chance_at_10, metrics, examples });
            }
        }
        let loss = if self.weight > 0.0 { self.losses / self.weight } else { 0.0 };
        Ok(RetrievalEvaluation { directions, loss, rows: self.rows, notes: Vec::new() })
    }
}

/// Queries of one gallery, answers of another: ranks, recall at 10 by chance,
/// and examples; None where nothing belongs together.
fn direction(from: &Gallery, to: &Gallery, dim: usize) -> Result<Option<(Retrieval, f64, Vec<Example>)>> {
    let mut items_of_row: HashMap<u64, Vec<usize>> = HashMap::new();
    for (item, rows) in to.rows.iter().enumerate() {
        for row in rows {
            items_of_row.entry(*row).or_default().push(item);
        }
    }
    let queries: Vec<(usize, Vec<usize>)> = from
        .rows
        .iter()
        .enumerate()
        .filter_map(|(query, rows)| {
            let mut relevant: Vec<usize> = rows.iter().filter_map(|r| items_of_row.get(r)).flatten().copied().collect();
            relevant.sort_unstable();
            relevant.dedup();
            (!relevant.is_empty()).then_some((query, relevant))
        })
        .collect();
    if queries.is_empty() {
        return Ok(None);
    }
    let items = to.places.len();
    let chance = queries.iter().map(|(_, relevant)| by_chance(items, relevant.len(), 10)).sum::<f64>();
    let all = Var::constant(Tensor::from_slice(&[items, dim], &to.vectors)?);
    let every = (queries.len() / SHOWN).max(1);
    let (mut parts, mut examples) = (Vec::new(), Vec::new());
    for (block, some) in queries.chunks(BLOCK).enumerate() {
        let asked: Vec<f32> = some.iter().flat_map(|(q, _)| from.vectors[q * dim..][..dim].iter().copied()).collect();
        let asked = Var::constant(Tensor::from_slice(&[some.len(), dim], &asked)?);
        let cosines = ops::linear(&Tape::inference(), &asked, &all, None, Activation::Identity)?;
        let scores: Vec<f64> = cosines.data().iter().map(|x| f64::from(*x)).collect();
        let relevant: Vec<Vec<usize>> = some.iter().map(|(_, relevant)| relevant.clone()).collect();
        parts.push(Retrieval::from_scores(&scores, items, &relevant)?);
        for (i, (query, relevant)) in some.iter().enumerate() {
            if (block * BLOCK + i).is_multiple_of(every) && examples.len() < SHOWN {
                let row = &cosines.data()[i * items..][..items];
                let mut order: Vec<usize> = (0..items).collect();
                order.sort_by(|a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
                let answers = order.iter().take(ANSWERS).map(|j| (to.places[*j], row[*j], relevant.contains(j)));
                examples.push(Example { query: from.places[*query], answers: answers.collect() });
            }
        }
    }
    Ok(Some((Retrieval::joined(parts)?, chance / queries.len() as f64, examples)))
}

/// The probability that one of `relevant` items is among the first `k` of an
/// order by chance.
fn by_chance(items: usize, relevant: usize, k: usize) -> f64 {
    let none: f64 =
        (0..k.min(items)).map(|i| (items - relevant).saturating_sub(i) as f64 / (items - i) as f64).product();
    1.0 - none
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_what_drawing_without_replacement_gives() {
        assert!((by_chance(1000, 1, 10) - 0.01).abs() < 1e-12);
        assert!((by_chance(5, 2, 2) - (1.0 - 3.0 / 5.0 * 2.0 / 4.0)).abs() < 1e-12);
        assert!((by_chance(4, 1, 10) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn what_stands_in_several_rows_is_one_answer_that_belongs_to_all() -> Result<()> {
        let gallery = |vectors: &[[f32; 2]], rows: &[&[u64]]| Gallery {
            vectors: vectors.concat(),
            places: rows.iter().map(|r| Place { row: r[0], part: 0 }).collect(),
            known: HashMap::new(),
            rows: rows.iter().map(|r| r.to_vec()).collect(),
        };
        let pictures = gallery(&[[1.0, 0.0], [0.0, 1.0]], &[&[0, 1], &[2]]);
        let captions = gallery(&[[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]], &[&[0], &[1], &[2]]);
        let (found, _, examples) = direction(&pictures, &captions, 2)?.expect("pairs");
        assert_eq!((found.queries(), found.recall_at(1)), (2, 1.0));
        assert!(examples[0].answers[0].2);
        let (back, ..) = direction(&captions, &pictures, 2)?.expect("pairs");
        // The second caption of the first picture lies nearer the other one.
        assert_eq!((back.queries(), back.recall_at(1)), (3, 2.0 / 3.0));
        Ok(())
    }
}
