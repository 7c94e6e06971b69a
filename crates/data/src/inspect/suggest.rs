//! What to do next.

use super::Inspection;
use crate::schema::ColumnType;

/// Fewer labelled rows than this teach little without a pretrained model.
const FEW_ROWS: u64 = 100;
/// A class with fewer rows than this is hard to learn and to judge.
const FEW_OF_CLASS: u64 = 10;

pub(super) fn suggestions(inspection: &Inspection) -> Vec<String> {
    let mut list = Vec::new();
    let unreadable: u64 = inspection.columns.iter().filter_map(|c| c.media.as_ref()).map(|m| m.unreadable).sum();
    if unreadable > 0 {
        list.push(format!(
            "mend or remove the {unreadable} rows with unreadable media; training treats such a cell as missing and stops at more than 5 % of the rows"
        ));
    }
    for column in inspection.columns.iter().filter(|column| column.unusable > 0) {
        list.push(format!(
            "column {:?}: {} cells are not {} values; mend them, or give the column another type: --type {}=text",
            column.name,
            column.unusable,
            column.kind,
            quoted(&column.name)
        ));
    }
    if let Some(conflicts) = &inspection.conflicts {
        list.push(format!(
            "{} rows have the same inputs and different labels; no model can get all of them right",
            conflicts.rows
        ));
    }
    if let Some(group) = leaking_column(inspection) {
        list.push(format!(
            "the same contents are in more than one split, so test results will look better than they are; \
             keep siblings together with data.group = {group:?}, or a column that names what they share"
        ));
    }
    if let Some(label) = &inspection.label {
        let rare: Vec<&str> =
            label.counts.iter().filter(|(_, count)| *count < FEW_OF_CLASS).map(|(class, _)| class.as_str()).collect();
        if !rare.is_empty() {
            let shown = rare.iter().take(5).copied().collect::<Vec<_>>().join(", ");
            let more = if rare.len() > 5 { ", …" } else { "" };
            list.push(format!(
                "{} classes have fewer than {FEW_OF_CLASS} rows ({shown}{more}); collect more of them, or merge them",
                rare.len()
            ));
        }
        if label.labelled < FEW_ROWS {
            list.push(format!("only {} rows have a label; a few hundred are a start", label.labelled));
        }
    }
    list.push(next_command(inspection));
    list
}

/// The column to group by: a text column whose contents are in several splits, else any such column.
fn leaking_column(inspection: &Inspection) -> Option<&str> {
    inspection.leakage.first()?;
    let columns = || inspection.leakage.iter().filter_map(|repeat| repeat.column.as_deref());
    let is_text = |name: &&str| inspection.columns.iter().any(|c| c.name == *name && c.kind == ColumnType::Text);
    columns().find(is_text).or_else(|| columns().next()).or(Some("COLUMN"))
}

fn next_command(inspection: &Inspection) -> String {
    let table = quoted(&inspection.table.display().to_string());
    if let Some(label) = &inspection.label {
        return format!("next: sensorium fit {table} --label {}", quoted(&label.column));
    }
    let usable = |kind| matches!(kind, ColumnType::Category | ColumnType::Number);
    let candidates: Vec<String> =
        inspection.columns.iter().filter(|column| usable(column.kind)).map(|column| quoted(&column.name)).collect();
    match candidates.as_slice() {
        [] => format!("next: sensorium fit {table} --label COLUMN, with the column to predict"),
        [one] => format!("next: sensorium fit {table} --label {one}"),
        several => format!("next: sensorium fit {table} --label COLUMN, with one of {}", several.join(", ")),
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=:+,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_string()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_are_quoted_for_the_shell() {
        assert_eq!(quoted("data/表.csv"), "data/表.csv");
        assert_eq!(quoted("my table's.csv"), "'my table'\\''s.csv'");
    }
}
