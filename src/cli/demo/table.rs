//! The demonstration's table.

use std::time::Duration;

use droste_executor::{ChildCounts, UnitOutcome};

use super::Built;

/// One run.
#[derive(Debug)]
pub struct Row {
    /// What was special about it.
    pub name: &'static str,
    /// How long it took.
    pub wall: Duration,
    /// What became of its compiler calls.
    pub children: ChildCounts,
    /// Whether its outputs are the same bytes as without memoization; `None` for the
    /// run without.
    pub is_same: Option<bool>,
}

impl Row {
    /// The run that others are compared with.
    pub fn reference(name: &'static str, built: &Built) -> Self {
        Self {
            is_same: None,
            ..Self::new(name, &built.outcome, true)
        }
    }

    /// A run with memoization.
    pub fn new(name: &'static str, outcome: &UnitOutcome, is_same: bool) -> Self {
        Self {
            name,
            wall: outcome.wall,
            children: outcome.children.clone(),
            is_same: Some(is_same),
        }
    }

    fn cells(&self) -> [String; 7] {
        let children = &self.children;
        // Without memoization nobody counts.
        let count = |count: u64| match self.is_same {
            None => "-".to_owned(),
            Some(_) => count.to_string(),
        };
        let reasons: Vec<String> = children
            .in_place_reasons
            .iter()
            .map(|(reason, count)| format!("{reason} {count}"))
            .collect();
        [
            self.name.to_owned(),
            format!("{:.2} s", self.wall.as_secs_f64()),
            count(children.built),
            count(children.reused),
            count(children.in_place),
            match self.is_same {
                None => "-".to_owned(),
                Some(true) => "yes".to_owned(),
                Some(false) => "NO".to_owned(),
            },
            reasons.join(", "),
        ]
    }
}

const HEAD: [&str; 7] = [
    "run",
    "wall time",
    "built",
    "reused",
    "in place",
    "same bytes",
    "why in place",
];

/// Columns of numbers.
const RIGHT: [bool; 7] = [false, true, true, true, true, false, false];

/// The table as text.
pub fn print(rows: &[Row]) -> String {
    let mut table = vec![HEAD.map(str::to_owned)];
    table.extend(rows.iter().map(Row::cells));
    let mut widths = [0; HEAD.len()];
    for row in &table {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in &table {
        let mut line = String::new();
        for ((cell, width), right) in row.iter().zip(widths).zip(RIGHT) {
            let padded = match right {
                true => format!("{cell:>width$}  "),
                false => format!("{cell:<width$}  "),
            };
            line.push_str(&padded);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_stand_in_columns() {
        let rows = [
            Row {
                name: "memo off",
                wall: Duration::from_millis(20_123),
                children: ChildCounts::default(),
                is_same: None,
            },
            Row {
                name: "cold",
                wall: Duration::from_millis(9_500),
                children: ChildCounts {
                    built: 33,
                    reused: 0,
                    substituted: 0,
                    failed: 0,
                    in_place: 2,
                    in_place_reasons: [("link".to_owned(), 1), ("query".to_owned(), 1)].into(),
                    ..ChildCounts::default()
                },
                is_same: Some(true),
            },
        ];
        assert_eq!(
            print(&rows),
            "run       wall time  built  reused  in place  same bytes  why in place\n\
             memo off    20.12 s      -       -         -  -\n\
             cold         9.50 s     33       0         2  yes         link 1, query 1\n"
        );
    }
}
