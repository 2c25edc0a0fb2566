//! Every table of the program: no borders, headers in capitals, nothing cut off, no trailing spaces.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table as Comfy};

/// Columns between two columns of a table.
const GAP: u16 = 2;

/// A last column that would be narrower than this is not wrapped: a terminal's own wrapping reads better.
const NARROWEST: u16 = 16;

/// A table being filled.
pub struct Table {
    table: Comfy,
}

impl Table {
    /// A table with these headers.
    pub fn new<'a>(headers: impl IntoIterator<Item = &'a str>) -> Self {
        let headers: Vec<&str> = headers.into_iter().collect();
        let last = headers.len().saturating_sub(1);
        let mut table = Comfy::new();
        table
            .load_style(NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(headers);
        for column in table.column_iter_mut().take(last) {
            column.set_padding((0, GAP));
        }
        if let Some(last) = table.column_mut(last) {
            last.set_padding((0, 0));
        }
        Self { table }
    }

    /// Aligns column `index` to the right: for numbers.
    #[must_use]
    pub fn right(mut self, index: usize) -> Self {
        if let Some(column) = self.table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        self
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.table.add_row(cells.into_iter().collect::<Vec<_>>());
    }

    /// The table as text. With a terminal of `width` columns the last column is wrapped within it; names, numbers and
    /// states are never broken, so that what is shown can be copied.
    pub fn render(&self, width: Option<u16>) -> String {
        let mut table = self.table.clone();
        let widths = table.column_max_content_widths();
        let before: u16 = widths
            .iter()
            .rev()
            .skip(1)
            .map(|w| w.saturating_add(GAP))
            .fold(0, u16::saturating_add);
        if let Some(width) = width.filter(|w| w.saturating_sub(before) >= NARROWEST) {
            table
                .set_content_arrangement(ContentArrangement::Dynamic)
                .set_width(width);
            for column in table.column_iter_mut().take(widths.len().saturating_sub(1)) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        table
            .lines()
            .map(|line| line.trim_end().to_owned())
            .collect::<Vec<_>>()
            .join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_with_their_last_word() {
        let mut table = Table::new(["HOST", "INSTANCES", "STATE"]).right(1);
        table.row(["kvm1".into(), "2".into(), "ok".into()]);
        table.row(["kvm-long".into(), "11".into(), "not seen".into()]);
        assert_eq!(
            table.render(None),
            "HOST      INSTANCES  STATE\nkvm1              2  ok\nkvm-long         11  not seen"
        );
    }
}
