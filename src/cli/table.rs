//! Columns under each other, and names beside their values.

use std::io::{self, Write};

use console::{measure_text_width, style};

use super::terminal::printable;

const GAP: usize = 2;

/// A table that can be written in parts (pages), under one head; its columns never get narrower.
#[derive(Debug)]
pub(super) struct Table {
    heads: &'static [&'static str],
    widths: Vec<usize>,
    head_written: bool,
}

impl Table {
    pub(super) fn new(heads: &'static [&'static str]) -> Self {
        Self { heads, widths: heads.iter().map(|head| measure_text_width(head)).collect(), head_written: false }
    }

    /// Writes rows, each with as many cells as the head; an empty cell shows as a dash.
    pub(super) fn write(&mut self, out: &mut dyn Write, rows: Vec<Vec<String>>) -> io::Result<()> {
        let rows: Vec<Vec<String>> = rows.into_iter().map(|row| row.into_iter().map(cell).collect()).collect();
        for row in &rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(measure_text_width(cell));
            }
        }
        if !self.head_written {
            self.head_written = true;
            let heads: Vec<String> = self.heads.iter().map(|head| style(head).bold().to_string()).collect();
            self.line(out, &heads)?;
        }
        rows.iter().try_for_each(|row| self.line(out, row))
    }

    fn line(&self, out: &mut dyn Write, cells: &[String]) -> io::Result<()> {
        let mut line = String::new();
        for (width, cell) in self.widths.iter().zip(cells) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width + GAP - measure_text_width(cell)));
        }
        writeln!(out, "{}", line.trim_end())
    }
}

/// Writes names and values, a pair a line; pairs with an empty value are left out.
pub(super) fn pairs(out: &mut dyn Write, pairs: &[(&str, String)]) -> io::Result<()> {
    let width = pairs.iter().map(|(name, _)| measure_text_width(name)).max().unwrap_or(0) + GAP;
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        let space = " ".repeat(width - measure_text_width(name));
        writeln!(out, "{}{space}{}", style(name).bold(), printable(value))?;
    }
    Ok(())
}

fn cell(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { printable(&text).into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_each_other_also_with_wide_letters_and_later_pages() {
        console::set_colors_enabled(false);
        let mut table = Table::new(&["NAME", "KIND"]);
        let mut out = Vec::new();
        table.write(&mut out, vec![vec!["電話".into(), "CHOSEN".into()], vec!["Pad, rétro".into(), String::new()]]).unwrap();
        table.write(&mut out, vec![vec!["x\u{1b}[31m".into(), "y".into()]]).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "NAME        KIND\n電話        CHOSEN\nPad, rétro  -\nx\u{fffd}[31m      y\n");
    }
}
