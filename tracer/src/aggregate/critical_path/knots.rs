//! Knots of a wait-for graph: sets of nodes that wait for each other and for nobody else. Whatever makes the whole faster must make a
//! knot faster, so each holds a bottleneck (wPerf, OSDI 2018). Pure graph work; where the graph comes from is in `sweep`.

/// An edge: who waits, for whom, how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Edge {
    /// Who waits.
    pub from: usize,
    /// For whom.
    pub to: usize,
    /// How long.
    pub weight: f64,
}

/// The knots of a graph with this many nodes, by their nodes. Edges lighter than `noise` do not count. Where all nodes hang together in
/// one knot the lightest edges are taken away until they do not, but none of `most` or more.
pub fn knots(nodes: usize, edges: &[Edge], noise: f64, most: f64) -> Vec<Vec<usize>> {
    let own = edges.iter();
    let mut kept: Vec<Edge> =
        edges.iter().copied().filter(|edge| edge.weight >= noise && edge.from != edge.to).collect();
    kept.sort_by(|a, b| b.weight.total_cmp(&a.weight).then((a.from, a.to).cmp(&(b.from, b.to))));
    let used = used(nodes, &kept);
    let removable = kept.iter().filter(|edge| edge.weight < most).count();
    // The more edges are gone, the less hangs together: so the least number can be found by halving.
    let (mut few, mut many) = (0, removable);
    let is_one = |removed: usize| {
        let edges = kept.get(..kept.len() - removed).unwrap_or_default();
        used.len() > 1 && components(nodes, edges).iter().any(|component| component.len() == used.len())
    };
    while few < many {
        let middle = few.midpoint(many);
        if is_one(middle) { few = middle + 1 } else { many = middle }
    }
    let edges = kept.get(..kept.len() - few).unwrap_or_default();
    let all = components(nodes, edges);
    let mut of = vec![usize::MAX; nodes];
    for (number, component) in all.iter().enumerate() {
        for node in component {
            of[*node] = number;
        }
    }
    let mut sink = vec![true; all.len()];
    let mut waited_for = vec![false; all.len()];
    for edge in edges {
        if of[edge.from] != of[edge.to] {
            sink[of[edge.from]] = false;
        }
        waited_for[of[edge.to]] = true;
    }
    // Threads of one group that wait for each other.
    for edge in own.filter(|edge| edge.weight >= noise && edge.from == edge.to) {
        waited_for[of[edge.to]] = true;
    }
    let numbered = all.into_iter().enumerate();
    let mut found: Vec<Vec<usize>> =
        numbered.filter(|(number, _)| sink[*number] && waited_for[*number]).map(|(_, component)| component).collect();
    for component in &mut found {
        component.sort_unstable();
    }
    found.sort();
    found
}

fn used(nodes: usize, edges: &[Edge]) -> Vec<usize> {
    let mut seen = vec![false; nodes];
    for edge in edges {
        (seen[edge.from], seen[edge.to]) = (true, true);
    }
    (0..nodes).filter(|node| seen[*node]).collect()
}

/// Tarjan's strongly connected components, without recursion.
fn components(nodes: usize, edges: &[Edge]) -> Vec<Vec<usize>> {
    let mut next: Vec<Vec<usize>> = vec![Vec::new(); nodes];
    for edge in edges {
        next[edge.from].push(edge.to);
    }
    const NONE: usize = usize::MAX;
    let (mut order, mut low, mut on_stack) = (vec![NONE; nodes], vec![NONE; nodes], vec![false; nodes]);
    let (mut stack, mut counter, mut found) = (Vec::new(), 0, Vec::new());
    for root in 0..nodes {
        if order[root] != NONE {
            continue;
        }
        let mut calls = vec![(root, 0)];
        while let Some((node, at)) = calls.pop() {
            if at == 0 {
                (order[node], low[node], on_stack[node]) = (counter, counter, true);
                counter += 1;
                stack.push(node);
            } else {
                // Back from the call for the edge before.
                low[node] = low[node].min(low[next[node][at - 1]]);
            }
            let mut at = at;
            let mut called = false;
            while let Some(to) = next[node].get(at).copied() {
                at += 1;
                if order[to] == NONE {
                    calls.push((node, at));
                    calls.push((to, 0));
                    called = true;
                    break;
                }
                if on_stack[to] {
                    low[node] = low[node].min(order[to]);
                }
            }
            if called || low[node] != order[node] {
                continue;
            }
            let mut component = Vec::new();
            while let Some(top) = stack.pop() {
                on_stack[top] = false;
                component.push(top);
                if top == node {
                    break;
                }
            }
            found.push(component);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn edges(list: &[(usize, usize, f64)]) -> Vec<Edge> {
        list.iter().map(|(from, to, weight)| Edge { from: *from, to: *to, weight: *weight }).collect()
    }

    #[test]
    fn what_all_wait_for_and_what_waits_for_nobody_is_a_knot() {
        // 0 waits for 1, 1 for 2; 2 waits for nobody.
        assert_eq!(knots(3, &edges(&[(0, 1, 5.0), (1, 2, 3.0)]), 1.0, 2.0), [vec![2]]);
        // 1 and 2 wait for each other, 0 for both.
        let list = edges(&[(0, 1, 5.0), (1, 2, 3.0), (2, 1, 3.0), (0, 2, 9.0)]);
        assert_eq!(knots(3, &list, 1.0, 2.0), [vec![1, 2]]);
        assert!(knots(3, &[], 1.0, 2.0).is_empty(), "nobody waits for anybody");
    }

    #[test]
    fn light_edges_do_not_hide_a_knot() {
        // 1 waits for 0 for a moment.
        let list = edges(&[(0, 1, 50.0), (1, 0, 0.5)]);
        assert_eq!(knots(2, &list, 1.0, 10.0), [vec![1]], "noise");
        let list = edges(&[(0, 1, 50.0), (1, 0, 5.0)]);
        assert_eq!(knots(2, &list, 1.0, 10.0), [vec![1]], "the lightest edge of a graph that is one knot");
        assert_eq!(knots(2, &list, 1.0, 2.0), [vec![0, 1]], "but not one that counts");
    }

    proptest! {
        #[test]
        fn components_are_those_that_reach_each_other(list in prop::collection::vec((0usize..9, 0usize..9), 0..30)) {
            let edges: Vec<Edge> = list.iter().map(|(from, to)| Edge { from: *from, to: *to, weight: 1.0 }).collect();
            let mut reach = vec![vec![false; 9]; 9];
            for (node, row) in reach.iter_mut().enumerate() { row[node] = true; }
            for (from, to) in &list { reach[*from][*to] = true; }
            for via in 0..9 { for a in 0..9 { for b in 0..9 {
                if reach[a][via] && reach[via][b] { reach[a][b] = true; }
            } } }
            let found = components(9, &edges);
            let mut of = [usize::MAX; 9];
            for (number, component) in found.iter().enumerate() { for node in component { of[*node] = number; } }
            for a in 0..9 { for b in 0..9 {
                prop_assert_eq!(of[a] == of[b], reach[a][b] && reach[b][a], "{} and {}", a, b);
            } }
        }
    }
}
