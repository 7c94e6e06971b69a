//! Tables of text, aligned also where characters are two columns wide.

use unicode_width::UnicodeWidthStr;

/// Where the text of a column stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Rows of cells under a head.
#[derive(Debug, Clone)]
pub struct Table {
    head: Vec<String>,
    align: Vec<Align>,
    rows: Vec<Option<Vec<String>>>,
}

impl Table {
    /// A table with these column heads, each with its alignment.
    pub fn new(columns: impl IntoIterator<Item = (impl Into<String>, Align)>) -> Self {
        let (head, align) = columns.into_iter().map(|(name, align)| (one_line(&name.into()), align)).unzip();
        Self { head, align, rows: Vec::new() }
    }

    /// Adds a row; missing cells are empty, those beyond the head are left out.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        let mut cells: Vec<String> = cells.into_iter().map(|c| one_line(&c.into())).collect();
        cells.resize(self.head.len(), String::new());
        self.rows.push(Some(cells));
    }

    /// Adds an empty line; Markdown tables have none.
    pub fn gap(&mut self) {
        self.rows.push(None);
    }

    /// As plain text for a terminal, without trailing spaces, each line ended.
    pub fn to_text(&self) -> String {
        let widths: Vec<usize> = (0..self.head.len())
            .map(|column| {
                let cells = self.rows.iter().flatten().map(|row| &row[column]);
                let cells = cells.chain([&self.head[column]]);
                cells.map(|cell| cell.width()).max().unwrap_or(0)
            })
            .collect();
        let line = |cells: &[String]| {
            let padded = cells.iter().zip(&widths).zip(&self.align);
            let padded: Vec<String> = padded.map(|((cell, width), align)| pad(cell, *width, *align)).collect();
            padded.join("  ").trim_end().to_owned()
        };
        let rule: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
        let mut text = format!("{}\n{}\n", line(&self.head), rule.join("  ").trim_end());
        for row in &self.rows {
            text += &row.as_deref().map(line).unwrap_or_default();
            text.push('\n');
        }
        text
    }

    /// As a Markdown table.
    pub fn to_markdown(&self) -> String {
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let rule: Vec<String> = self
            .align
            .iter()
            .map(|align| match align {
                Align::Left => "---".to_owned(),
                Align::Right => "---:".to_owned(),
            })
            .collect();
        let mut text = line(&self.head) + &line(&rule);
        for row in self.rows.iter().flatten() {
            text += &line(row);
        }
        text
    }
}

/// Text without line breaks and other control characters, which would break a table, or a terminal.
fn one_line(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

/// Pads to a width in terminal columns.
fn pad(text: &str, width: usize, align: Align) -> String {
    let space = " ".repeat(width.saturating_sub(text.width()));
    match align {
        Align::Left => format!("{text}{space}"),
        Align::Right => format!("{space}{text}"),
    }
}

/// Cuts text to a width in terminal columns, with an ellipsis where something was cut.
pub(crate) fn shorten(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut short = String::new();
    for c in text.chars() {
        let mut longer = short.clone();
        longer.push(c);
        if longer.width() >= width {
            break;
        }
        short = longer;
    }
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Table {
        let mut table = Table::new([("class", Align::Left), ("rows", Align::Right)]);
        table.row(["猫和狗", "7"]);
        table.row(["cat", "1234"]);
        table.gap();
        table.row(["a|b\nc"]);
        table
    }

    #[test]
    fn wide_characters_are_aligned() {
        let expected = "\
class   rows
──────  ────
猫和狗     7
cat     1234

a|b c
";
        assert_eq!(example().to_text(), expected);
    }

    #[test]
    fn markdown_escapes_bars() {
        let expected = "\
| class | rows |
| --- | ---: |
| 猫和狗 | 7 |
| cat | 1234 |
| a\\|b c |  |
";
        assert_eq!(example().to_markdown(), expected);
    }

    #[test]
    fn text_is_cut_by_columns_not_by_characters() {
        assert_eq!(shorten("多模态学习", 10), "多模态学习");
        assert_eq!(shorten("多模态学习", 6), "多模…");
        assert_eq!(shorten("abcdef", 4), "abc…");
    }
}
