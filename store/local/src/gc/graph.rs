//! What keeps what: a picture of the database, and marks on it.

use std::collections::HashMap;

use store_types::StorePath;

use crate::{LocalError, LocalStore};

/// A valid path.
struct Node {
    path: StorePath,
    nar_size: u64,
    registration_time: i64,
    is_alive: bool,
    /// What it keeps: references, and what the settings say.
    keeps: Vec<usize>,
    /// What keeps it.
    kept_by: Vec<usize>,
    /// What of that refers to it.
    referrers: Vec<usize>,
}

/// All valid paths, and which of them are alive.
pub(super) struct Graph {
    nodes: Vec<Node>,
    by_path: HashMap<StorePath, usize>,
}

impl LocalStore {
    /// All valid paths, none of them alive yet.
    pub(super) fn graph(
        &self,
        keep_outputs: bool,
        keep_derivations: bool,
    ) -> Result<Graph, LocalError> {
        self.db().read("read what refers to what", |connection| {
            let mut graph = Graph {
                nodes: Vec::new(),
                by_path: HashMap::new(),
            };
            let mut by_id = HashMap::new();
            let mut derivers = Vec::new();
            let mut statement = connection
                .prepare("select id, path, registrationTime, narSize, deriver from ValidPaths")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let path = self.parse(row.get_ref(1)?.as_str().unwrap_or_default())?;
                let size: Option<i64> = row.get(3)?;
                let number = graph.add(path, size.unwrap_or(0), row.get(2)?);
                by_id.insert(row.get::<_, i64>(0)?, number);
                if let Some(deriver) = row.get::<_, Option<String>>(4)? {
                    derivers.push((number, deriver));
                }
            }
            let mut statement = connection.prepare("select referrer, reference from Refs")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let ids: (i64, i64) = (row.get(0)?, row.get(1)?);
                if let (Some(from), Some(to)) = (by_id.get(&ids.0), by_id.get(&ids.1)) {
                    graph.connect(*from, *to);
                    if from != to {
                        graph.nodes[*to].referrers.push(*from);
                    }
                }
            }
            // The deriver stands for the outputs whose paths no derivation names, too.
            for (output, deriver) in derivers {
                let Ok(deriver) = self.dir.parse(&deriver) else {
                    continue;
                };
                if let Some(deriver) = graph.by_path.get(&deriver).copied() {
                    if keep_derivations {
                        graph.connect(output, deriver);
                    }
                    if keep_outputs {
                        graph.connect(deriver, output);
                    }
                }
            }
            if keep_outputs {
                let mut statement =
                    connection.prepare("select drv, path from DerivationOutputs")?;
                let mut rows = statement.query([])?;
                while let Some(row) = rows.next()? {
                    let (drv, path): (i64, String) = (row.get(0)?, row.get(1)?);
                    let output = self.dir.parse(&path).ok();
                    let output = output.and_then(|path| graph.by_path.get(&path).copied());
                    if let (Some(drv), Some(output)) = (by_id.get(&drv), output) {
                        graph.connect(*drv, output);
                    }
                }
            }
            Ok(graph)
        })
    }

    /// Makes a path invalid, unless a valid path other than itself refers to it; whether it did.
    pub(super) fn forget_unreferenced(&self, path: &StorePath) -> Result<bool, LocalError> {
        let text = self.dir.display(path);
        self.db().write("invalidate a path", |tx| {
            let referrers: i64 = tx
                .prepare_cached(
                    "select count(*) from Refs join ValidPaths v on v.id = reference
                     where v.path = +?1 and referrer != reference",
                )?
                .query_row([&text], |row| row.get(0))?;
            if referrers == 0 {
                tx.prepare_cached("delete from ValidPaths where path = ?1")?
                    .execute([&text])?;
            }
            Ok(referrers == 0)
        })
    }
}

impl Graph {
    fn add(&mut self, path: StorePath, nar_size: i64, registration_time: i64) -> usize {
        let number = self.nodes.len();
        self.by_path.insert(path.clone(), number);
        self.nodes.push(Node {
            path,
            nar_size: u64::try_from(nar_size).unwrap_or(0),
            registration_time,
            is_alive: false,
            keeps: Vec::new(),
            kept_by: Vec::new(),
            referrers: Vec::new(),
        });
        number
    }

    fn connect(&mut self, from: usize, to: usize) {
        if from != to {
            self.nodes[from].keeps.push(to);
            self.nodes[to].kept_by.push(from);
        }
    }

    /// Whether the path is valid.
    pub(super) fn contains(&self, path: &StorePath) -> bool {
        self.by_path.contains_key(path)
    }

    /// Whether a mark has reached the path.
    pub(super) fn is_alive(&self, path: &StorePath) -> bool {
        self.by_path
            .get(path)
            .is_some_and(|number| self.nodes[*number].is_alive)
    }

    /// Those that are alive, or are not.
    pub(super) fn paths(&self, alive: bool) -> impl Iterator<Item = &StorePath> {
        let wanted = move |node: &&Node| node.is_alive == alive;
        self.nodes.iter().filter(wanted).map(|node| &node.path)
    }

    /// Marks these paths, those of them that are valid, and all that they keep.
    pub(super) fn mark<'a>(&mut self, paths: impl IntoIterator<Item = &'a StorePath>) {
        let mut todo: Vec<usize> = paths
            .into_iter()
            .filter_map(|path| self.by_path.get(path).copied())
            .collect();
        while let Some(number) = todo.pop() {
            let node = &mut self.nodes[number];
            if !std::mem::replace(&mut node.is_alive, true) {
                todo.extend(&node.keeps);
            }
        }
    }

    /// Marks paths in their order, until the next one would let what is newly alive be larger
    /// than that; how many were marked, and how large that is.
    pub(super) fn mark_within(&mut self, paths: &[StorePath], bytes_max: u64) -> (usize, u64) {
        let (mut count, mut sum) = (0, 0u64);
        for path in paths {
            let Some(number) = self.by_path.get(path).copied() else {
                continue;
            };
            let (mut seen, mut todo, mut size) = (Vec::new(), vec![number], 0u64);
            while let Some(number) = todo.pop() {
                let node = &mut self.nodes[number];
                if !std::mem::replace(&mut node.is_alive, true) {
                    seen.push(number);
                    size = size.saturating_add(node.nar_size);
                    todo.extend(&node.keeps);
                }
            }
            if sum.saturating_add(size) > bytes_max {
                for number in seen {
                    self.nodes[number].is_alive = false;
                }
                break;
            }
            count += 1;
            sum += size;
        }
        (count, sum)
    }

    /// The dead, each after all that refers to it; of the others, the oldest first.
    pub(super) fn dead_in_order(&self) -> Vec<StorePath> {
        let dead = (0..self.nodes.len()).filter(|number| !self.nodes[*number].is_alive);
        self.in_order(dead.collect())
    }

    /// A path and all that keeps it, each after all that refers to it.
    pub(super) fn dependents_in_order(&self, path: &StorePath) -> Vec<StorePath> {
        let Some(number) = self.by_path.get(path).copied() else {
            return vec![path.clone()];
        };
        let mut seen = vec![false; self.nodes.len()];
        let (mut found, mut todo) = (Vec::new(), vec![number]);
        while let Some(number) = todo.pop() {
            if !std::mem::replace(&mut seen[number], true) {
                found.push(number);
                todo.extend(&self.nodes[number].kept_by);
            }
        }
        self.in_order(found)
    }

    /// These, the oldest first, but each after what refers to it. Whatever refers to one is among
    /// them; references are never circular.
    fn in_order(&self, mut numbers: Vec<usize>) -> Vec<StorePath> {
        numbers.sort_by_key(|number| (self.nodes[*number].registration_time, *number));
        let mut seen = vec![false; self.nodes.len()];
        let mut order = Vec::with_capacity(numbers.len());
        for start in numbers {
            let mut todo = vec![(start, false)];
            while let Some((number, is_complete)) = todo.pop() {
                if is_complete {
                    order.push(self.nodes[number].path.clone());
                } else if !std::mem::replace(&mut seen[number], true) {
                    todo.push((number, true));
                    let referrers = self.nodes[number].referrers.iter();
                    todo.extend(referrers.map(|number| (*number, false)));
                }
            }
        }
        order
    }
}
