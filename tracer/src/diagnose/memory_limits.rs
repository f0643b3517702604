//! Which limit binds a cgroup: of its own and those of all above it the lowest, as far as they were read.

use super::evidence;
use crate::model::memory::CgroupSizes;
use crate::model::report::{Evidence, Report};
use crate::model::units::bytes;

/// The cgroup with the lowest limit among this one and those above it, and where the report holds it.
fn binding<'a>(report: &'a Report, cgroup: &str) -> Option<(usize, &'a CgroupSizes, u64)> {
    let above = |path: &str| {
        let rest = cgroup.strip_prefix(path.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let all = report.memory.as_ref()?.cgroups.iter().enumerate();
    let limits = all.filter(|(_, sizes)| above(&sizes.path));
    let limits = limits.filter_map(|(index, sizes)| Some((index, sizes, sizes.limit_bytes?)));
    limits.min_by_key(|(index, _, limit)| (*limit, *index))
}

/// How much memory there is for it: up to the limit that binds it, at most what the host has.
pub(super) fn room(report: &Report, cgroup: Option<&str>) -> Option<u64> {
    let limit = cgroup.and_then(|cgroup| binding(report, cgroup)).map(|(.., limit)| limit);
    let host = report.memory.as_ref().and_then(|memory| memory.host.as_ref()).map(|host| host.total_bytes);
    limit.into_iter().chain(host.or(report.host.memory_bytes)).min()
}

/// The cgroup and its limit in words, for a summary.
pub(super) fn words(report: &Report, cgroup: Option<&str>) -> Option<String> {
    let cgroup = cgroup?;
    Some(match binding(report, cgroup) {
        Some((_, sizes, limit)) => format!("the cgroup {}, whose limit is {}", sizes.path, bytes(limit)),
        None if cgroup == "/" => return None,
        None => format!("the cgroup {cgroup}"),
    })
}

/// The limit and how often it was reached, as evidence.
pub(super) fn evidences(report: &Report, cgroup: Option<&str>) -> Vec<Evidence> {
    let Some((index, sizes, limit)) = cgroup.and_then(|cgroup| binding(report, cgroup)) else { return Vec::new() };
    let at = |field: &str| format!("/memory/cgroups/{index}/{field}");
    vec![
        evidence(
            "limit of the cgroup",
            limit as f64,
            "B",
            at("limit_bytes"),
            Some(("used at the end", sizes.usage_bytes as f64)),
        ),
        evidence("times that the limit was reached", sizes.limit_hits as f64, "1", at("limit_hits"), None),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::memory::Memory;

    #[test]
    fn the_lowest_limit_on_the_way_to_the_root_binds() {
        let cgroup =
            |path: &str, limit_bytes| CgroupSizes { path: path.to_owned(), limit_bytes, ..CgroupSizes::default() };
        let cgroups = vec![
            cgroup("/", None),
            cgroup("/pod", Some(100)),
            cgroup("/pod/a", Some(300)),
            cgroup("/podium", Some(1)),
            cgroup("/pod/a/b", None),
        ];
        let mut report = crate::testing::contended_report();
        report.memory = Some(Memory { cgroups, ..Memory::default() });
        assert_eq!(
            binding(&report, "/pod/a/b").map(|(index, ..)| index),
            Some(1),
            "a parent's counts, a namesake's does not"
        );
        assert_eq!(binding(&report, "/other").map(|(index, ..)| index), None);
        assert_eq!(words(&report, Some("/pod/a")).as_deref(), Some("the cgroup /pod, whose limit is 100 B"));
        assert_eq!((words(&report, Some("/")), words(&report, None)), (None, None));
        report.host.memory_bytes = Some(200);
        assert_eq!((room(&report, Some("/pod/a/b")), room(&report, Some("/other"))), (Some(100), Some(200)));
        report.host.memory_bytes = Some(50);
        assert_eq!(room(&report, Some("/pod/a")), Some(50), "no limit gives more than the host has");
    }
}
