//! The report as text for a terminal.

use std::fmt::Write;

use super::{ColumnReport, Inspection, Range, Repeat};
use crate::segment::Problem;

/// Classes drawn in the terminal.
const SHOWN_CLASSES: usize = 20;
/// Problems listed per column.
const SHOWN_PROBLEMS: usize = 5;
/// Width of the bars of classes.
const BAR: usize = 30;

impl Inspection {
    /// The report as text, about 100 columns wide.
    pub fn render(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "{}: {} rows, {} columns", self.table.display(), self.rows, self.columns.len())?;
        for note in &self.notes {
            writeln!(out, "  {note}")?;
        }
        writeln!(out, "\nColumns")?;
        let mut lines = vec![["name", "type", "missing", "values", "why"].map(String::from)];
        for column in &self.columns {
            let missing = match column.missing {
                0 => "0".to_string(),
                n => format!("{n} ({})", percent(n as f64 / self.rows.max(1) as f64)),
            };
            lines.push([column.name.clone(), column.kind.to_string(), missing, values(column), column.reason.clone()]);
        }
        table(out, &lines)?;
        self.write_problems(out)?;
        self.write_label(out)?;
        let splits = &self.splits;
        writeln!(out, "\nSplits: {} train, {} val, {} test; {}", splits.train, splits.val, splits.test, splits.how)?;
        if splits.unassigned > 0 {
            writeln!(out, "  {} rows name no split and are not used", splits.unassigned)?;
        }
        let repeats = |out: &mut String, title: &str, list: &[Repeat]| {
            if list.is_empty() {
                return writeln!(out, "{title}: none found");
            }
            writeln!(out, "{title}")?;
            list.iter().try_for_each(|repeat| {
                let examples: Vec<String> = repeat.examples.iter().map(|rows| join(rows)).collect();
                writeln!(
                    out,
                    "  {}: {} contents in {} rows, such as rows {}",
                    repeat.what,
                    repeat.groups,
                    repeat.rows,
                    examples.join("; ")
                )
            })
        };
        repeats(out, "Duplicates", &self.duplicates)?;
        if let Some(conflicts) = &self.conflicts {
            repeats(out, "Conflicts", std::slice::from_ref(conflicts))?;
        }
        repeats(out, "Leakage between splits", &self.leakage)?;
        writeln!(out, "\nSuggestions")?;
        self.suggestions.iter().try_for_each(|suggestion| writeln!(out, "  - {suggestion}"))
    }

    fn write_problems(&self, out: &mut String) -> std::fmt::Result {
        for column in &self.columns {
            if let Some(media) = &column.media {
                let sampled = if media.checked_rows < self.rows {
                    format!(" (a sample of {} of {} rows)", media.checked_rows, self.rows)
                } else {
                    String::new()
                };
                if media.unreadable > 0 || !sampled.is_empty() {
                    writeln!(
                        out,
                        "\nMedia of {:?}: {} of {} rows cannot be read{sampled}",
                        column.name, media.unreadable, media.present_rows
                    )?;
                    list(out, &media.unreadable_examples, media.unreadable)?;
                }
            }
            if column.unusable > 0 {
                writeln!(
                    out,
                    "\nColumn {:?}: {} cells cannot be used as {}",
                    column.name, column.unusable, column.kind
                )?;
                list(out, &column.unusable_examples, column.unusable)?;
            }
        }
        Ok(())
    }

    fn write_label(&self, out: &mut String) -> std::fmt::Result {
        let Some(label) = &self.label else {
            return writeln!(out, "\nLabel: none; name the column to predict with --label COLUMN");
        };
        if label.counts.is_empty() {
            let range = label.numbers.as_ref().map(range).unwrap_or_default();
            return writeln!(out, "\nLabel {:?}: a number, {range}, in {} rows", label.column, label.labelled);
        }
        writeln!(
            out,
            "\nLabel {:?}: {} classes in {} rows; always saying the most frequent one is right {} of the time",
            label.column,
            label.distinct,
            label.labelled,
            percent(label.majority)
        )?;
        let largest = label.counts.first().map_or(1, |(_, count)| (*count).max(1));
        let shown = &label.counts[..label.counts.len().min(SHOWN_CLASSES)];
        let width = shown.iter().map(|(class, _)| display_width(class)).max().unwrap_or(0).min(30);
        for (class, count) in shown {
            let bar = "#".repeat(((*count as f64 / largest as f64) * BAR as f64).ceil() as usize);
            let share = percent(*count as f64 / label.labelled.max(1) as f64);
            writeln!(out, "  {} {count:>8} {share:>7} {bar}", padded(&cut(class, width), width))?;
        }
        match label.distinct as usize - shown.len() {
            0 => Ok(()),
            more => writeln!(out, "  and {more} more"),
        }
    }
}

fn values(column: &ColumnReport) -> String {
    if let Some(media) = &column.media {
        let sides = media.shorter_side.as_ref().map(|r| format!("{:.0} to {:.0} px", r.min, r.max));
        let seconds = media.seconds.as_ref().map(|r| format!("{:.1} to {:.1} s", r.min, r.max));
        let facts: Vec<String> = sides.into_iter().chain(seconds).collect();
        return format!("{} files {}", media.files, facts.join(", ")).trim().to_string();
    }
    if let Some(characters) = &column.characters {
        return format!("{:.0} to {:.0} characters", characters.min, characters.max);
    }
    if let Some(numbers) = &column.numbers {
        return range(numbers);
    }
    column.examples.first().map(|example| cut(example, 30)).unwrap_or_default()
}

fn range(range: &Range) -> String {
    let number = |x: f64| crate::table::format_number((x * 1e4).round() / 1e4);
    format!("{} to {}, mean {}", number(range.min), number(range.max), number(range.mean))
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn join(rows: &[u64]) -> String {
    rows.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

fn list(out: &mut String, problems: &[Problem], count: u64) -> std::fmt::Result {
    let shown = problems.len().min(SHOWN_PROBLEMS);
    for problem in &problems[..shown] {
        writeln!(out, "  row {}: {}", problem.row + 1, problem.message)?;
    }
    match count as usize - shown {
        0 => Ok(()),
        more => writeln!(out, "  and {more} more"),
    }
}

/// Lines of cells, aligned; the last column is ragged.
fn table<const N: usize>(out: &mut String, lines: &[[String; N]]) -> std::fmt::Result {
    let width = |i: usize| lines.iter().map(|line| display_width(&line[i])).max().unwrap_or(0).min(40);
    let widths: Vec<usize> = (0..N).map(width).collect();
    for line in lines {
        out.push_str("  ");
        for (i, cell) in line.iter().enumerate() {
            if i + 1 == N {
                out.push_str(cell);
            } else {
                out.push_str(&padded(&cut(cell, widths[i]), widths[i]));
                out.push_str("  ");
            }
        }
        out.push('\n');
    }
    Ok(())
}

/// Cells that a character takes in a terminal: two for Chinese, Japanese, Korean and most emoji.
fn character_width(character: char) -> usize {
    match u32::from(character) {
        0x0300..=0x036F | 0x200B..=0x200F | 0xFE00..=0xFE0F => 0,
        0x1100..=0x115F
        | 0x2E80..=0x303E
        | 0x3041..=0xA4CF
        | 0xAC00..=0xD7A3
        | 0xF900..=0xFAFF
        | 0xFE30..=0xFE6F
        | 0xFF00..=0xFF60
        | 0xFFE0..=0xFFE6
        | 0x1F300..=0x1FAFF
        | 0x20000..=0x3FFFD => 2,
        _ => 1,
    }
}

fn display_width(text: &str) -> usize {
    text.chars().map(character_width).sum()
}

fn padded(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(display_width(text))))
}

fn cut(text: &str, width: usize) -> String {
    if display_width(text) <= width {
        return text.to_string();
    }
    let mut kept = String::new();
    let mut used = 1;
    for character in text.chars() {
        used += character_width(character);
        if used > width {
            break;
        }
        kept.push(character);
    }
    kept + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_characters_take_two_cells() {
        assert_eq!(display_width("房间a"), 5);
        assert_eq!(padded("房间", 6), "房间  ");
        assert_eq!(cut("房间很干净", 7), "房间很…");
        assert_eq!(cut("abc", 3), "abc");
    }
}
