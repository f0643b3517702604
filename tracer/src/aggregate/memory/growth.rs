//! What a process's resident memory consisted of by mapping: at the first reading, when it was largest, and at the last one. From the three
//! follows what grew. Bounded: three readings of each process.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::aggregate::Aggregate;
use crate::model::memory::{Growth as Section, GrowthRow, Sizes};
use crate::model::meta::ProcessMappings;
use crate::model::report::seconds;
use crate::model::text::printable;

/// From this size on a mapped file is told in any case.
const LARGE_FILE_BYTES: u64 = 32 << 20;
/// Rows told; what is in others is summed up by kind.
const MAX_ROWS: usize = 16;

/// See the file's head.
#[derive(Clone, Debug, Default)]
pub(super) struct Growth {
    readings: u64,
    took_ns: u64,
    kept: Option<Box<[ProcessMappings; 3]>>,
}

fn resident(reading: &ProcessMappings) -> u64 {
    reading.anonymous.saturating_add(reading.file).saturating_add(reading.shared)
}

impl Growth {
    #[cfg(test)]
    pub(super) fn readings(&self) -> u64 {
        self.readings
    }

    pub(super) fn reading(&mut self, reading: &ProcessMappings) {
        self.readings += 1;
        self.took_ns = self.took_ns.saturating_add(reading.took_ns);
        match &mut self.kept {
            None => self.kept = Some(Box::new([reading.clone(), reading.clone(), reading.clone()])),
            Some(kept) => {
                let [_, most, last] = &mut **kept;
                if resident(reading) > resident(most) {
                    *most = reading.clone();
                }
                *last = reading.clone();
            }
        }
    }
}

/// What is compared: class, path, kind.
type Key<'a> = (&'a str, &'a str, &'static str);

fn parts(reading: &ProcessMappings) -> impl Iterator<Item = (Key<'_>, u64)> {
    reading.sums.iter().flat_map(|sum| {
        let of = |kind, bytes| ((sum.class.as_str(), sum.path.as_str(), kind), bytes);
        [of("anonymous", sum.anonymous), of("file", sum.file), of("shared", sum.shared)]
    })
}

/// What is not told by its name.
fn others(kind: &str) -> GrowthRow {
    GrowthRow { class: "others".to_owned(), kind: kind.to_owned(), ..GrowthRow::default() }
}

fn changed(row: &GrowthRow) -> u64 {
    row.first_bytes.abs_diff(row.most_bytes).max(row.first_bytes.abs_diff(row.last_bytes))
}

/// Each row.
fn all_rows(kept: &[ProcessMappings; 3]) -> Vec<GrowthRow> {
    let mut all: BTreeMap<Key<'_>, [u64; 3]> = BTreeMap::new();
    for (position, reading) in kept.iter().enumerate() {
        for (key, bytes) in parts(reading) {
            let place = all.entry(key).or_default().get_mut(position);
            place.into_iter().for_each(|sum| *sum = sum.saturating_add(bytes));
        }
    }
    let row = |((class, path, kind), [first_bytes, most_bytes, last_bytes]): (Key<'_>, [u64; 3])| GrowthRow {
        class: class.to_owned(),
        path: (!path.is_empty()).then(|| printable(path.as_bytes())),
        kind: kind.to_owned(),
        first_bytes,
        most_bytes,
        last_bytes,
    };
    all.into_iter().map(row).collect()
}

/// Large mapped files, most first.
fn files(kept: &[ProcessMappings; 3]) -> Vec<GrowthRow> {
    let is_large = |row: &GrowthRow| row.kind == "file" && row.path.is_some() && row.most_bytes >= LARGE_FILE_BYTES;
    let mut files: Vec<GrowthRow> = all_rows(kept).into_iter().filter(is_large).collect();
    files.sort_by_key(|row| Reverse(row.most_bytes));
    files.truncate(MAX_ROWS);
    files
}

/// The rows that changed, most first.
fn rows(kept: &[ProcessMappings; 3]) -> Vec<GrowthRow> {
    let mut told: Vec<GrowthRow> = all_rows(kept).into_iter().filter(|row| changed(row) > 0).collect();
    told.sort_by_key(|row| Reverse(changed(row)));
    for rest in told.split_off(told.len().min(MAX_ROWS)) {
        let place = told.iter().position(|row| row.class == "others" && row.kind == rest.kind);
        let place = place.unwrap_or_else(|| {
            told.push(others(&rest.kind));
            told.len() - 1
        });
        if let Some(sum) = told.get_mut(place) {
            sum.first_bytes = sum.first_bytes.saturating_add(rest.first_bytes);
            sum.most_bytes = sum.most_bytes.saturating_add(rest.most_bytes);
            sum.last_bytes = sum.last_bytes.saturating_add(rest.last_bytes);
        }
    }
    told
}

impl Aggregate {
    /// Of a process that was read twice, or has a large file mapped.
    pub(super) fn growth_part(&self, growth: &Growth) -> Option<Section> {
        let kept = growth.kept.as_ref()?;
        let files = files(kept);
        if growth.readings < 2 && files.is_empty() {
            return None;
        }
        let sizes = |reading: &ProcessMappings| Sizes {
            t_s: self.t_s(reading.at_ns),
            anonymous_bytes: reading.anonymous,
            file_bytes: reading.file,
            shared_bytes: reading.shared,
            swapped_bytes: 0,
        };
        let [first, most, last] = &**kept;
        Some(Section {
            readings: growth.readings,
            read_s: seconds(growth.took_ns),
            first: sizes(first),
            most: sizes(most),
            last: sizes(last),
            proportional_first_bytes: first.proportional,
            proportional_most_bytes: most.proportional,
            proportional_last_bytes: last.proportional,
            by: rows(kept),
            files,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::meta::MappingSum;

    #[test]
    fn what_grew_is_told_by_mapping_and_the_rest_stays_in_the_sum() {
        let reading = |factor: u64| {
            let file = |number: u64| MappingSum {
                class: "file".to_owned(),
                path: format!("/data/{number}"),
                file: number * factor,
                ..MappingSum::default()
            };
            let heap = MappingSum { class: "heap".to_owned(), anonymous: 5_000 * factor, ..MappingSum::default() };
            let still = MappingSum { class: "stack".to_owned(), anonymous: 8, ..MappingSum::default() };
            let model = MappingSum {
                class: "file".to_owned(),
                path: "/model".to_owned(),
                file: LARGE_FILE_BYTES,
                ..MappingSum::default()
            };
            let sums: Vec<MappingSum> = (1..=24).map(file).chain([heap, still, model]).collect();
            ProcessMappings { anonymous: 5_000 * factor, file: 300 * factor, sums, ..ProcessMappings::default() }
        };
        let mut growth = Growth::default();
        [1, 4, 2].into_iter().for_each(|factor| growth.reading(&reading(factor)));
        let kept = growth.kept.as_deref().expect("three readings");
        let large = super::files(kept);
        assert_eq!((large.len(), large[0].path.as_deref()), (1, Some("/model")), "it is told, changed or not");
        let rows = rows(kept);
        let first = rows.first().expect("the heap");
        assert_eq!(
            (first.class.as_str(), first.first_bytes, first.most_bytes, first.last_bytes),
            ("heap", 5_000, 20_000, 10_000)
        );
        let files = |of: fn(&GrowthRow) -> u64| rows.iter().filter(|row| row.kind == "file").map(of).sum::<u64>();
        assert_eq!((files(|row| row.first_bytes), files(|row| row.most_bytes)), (300, 1_200), "all of them");
        assert_eq!(rows.len(), MAX_ROWS + 1);
        assert!(rows.iter().all(|row| row.class != "stack"), "it did not grow");
    }
}
