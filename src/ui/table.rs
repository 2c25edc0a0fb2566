//! Every table of the program: no borders, headers in capitals, nothing cut off, no trailing spaces.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table as Comfy};

/// A table being filled.
pub struct Table {
    table: Comfy,
    empty: bool,
}

impl Table {
    /// A table with these headers.
    pub fn new<const N: usize>(headers: [&str; N]) -> Self {
        let mut table = Comfy::new();
        table
            .load_style(NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(headers);
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        Self { table, empty: true }
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
        self.empty = false;
        self.table.add_row(cells.into_iter().collect::<Vec<_>>());
    }

    /// The table as text. With a terminal of `width` columns the last column is wrapped within it.
    pub fn render(&self, width: Option<u16>) -> String {
        let mut table = self.table.clone();
        if let Some(width) = width.filter(|w| *w >= 60) {
            table
                .set_content_arrangement(ContentArrangement::Dynamic)
                .set_width(width);
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
