//! What many names or paths have in common: how they begin and end, with a star between. Not a language of patterns: one star at most.

/// Names, told as one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pattern {
    /// The first of them; empty: there is none.
    first: String,
    /// How many bytes of its start and of its end all have.
    start: usize,
    end: usize,
    several: bool,
    /// Length of the shortest.
    least: usize,
}

impl Pattern {
    /// Takes another name.
    pub fn add(&mut self, name: &str) {
        if self.first.is_empty() {
            name.clone_into(&mut self.first);
            (self.start, self.end, self.least) = (name.len(), name.len(), name.len());
        } else if name != self.first || self.several {
            (self.several, self.least) = (true, self.least.min(name.len()));
            let own = self.first.chars().zip(name.chars());
            let same = own.take_while(|(own, other)| own == other).map(|(own, _)| own.len_utf8()).sum();
            self.start = self.start.min(same);
            let own = self.first.chars().rev().zip(name.chars().rev());
            let same = own.take_while(|(own, other)| own == other).map(|(own, _)| own.len_utf8()).sum();
            self.end = self.end.min(same);
        }
    }

    /// The first name.
    pub fn first(&self) -> &str {
        &self.first
    }

    /// What all begin with.
    pub fn start(&self) -> &str {
        self.first.get(..self.start).unwrap_or_default()
    }

    /// The name, or a pattern that fits all; empty without any.
    pub fn shown(&self) -> String {
        if !self.several {
            return self.first.clone();
        }
        // In the shortest, start and end may lie on each other.
        let end = self.first.len().checked_sub(self.end).and_then(|at| self.first.get(at..));
        let end = end.filter(|_| self.start + self.end <= self.least).unwrap_or_default();
        format!("{}*{end}", self.start())
    }
}

impl<'a> FromIterator<&'a str> for Pattern {
    fn from_iter<T: IntoIterator<Item = &'a str>>(names: T) -> Self {
        let mut pattern = Pattern::default();
        names.into_iter().for_each(|name| pattern.add(name));
        pattern
    }
}

/// Whether a path fits a pattern of paths: a star is any part of a name, two for a name are one directory or several.
pub fn fits(pattern: &str, path: &str) -> bool {
    let (pattern, path): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), path.split('/').collect());
    let name_fits = |(pattern, name): (&&str, &&str)| match pattern.split_once('*') {
        Some((start, end)) => name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end),
        None => pattern == name,
    };
    let all_fit =
        |pattern: &[&str], path: &[&str]| pattern.len() == path.len() && pattern.iter().zip(path).all(name_fits);
    let Some(many) = pattern.iter().position(|name| *name == "**") else { return all_fit(&pattern, &path) };
    let (before, after) = (&pattern[..many], &pattern[many + 1..]);
    path.len() > before.len() + after.len()
        && all_fit(before, &path[..before.len()])
        && all_fit(after, &path[path.len() - after.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_have_in_common_is_kept_and_what_they_have_not_is_a_star() {
        let of = |names: &[&str]| names.iter().copied().collect::<Pattern>().shown();
        assert_eq!(of(&[]), "");
        assert_eq!(of(&["/a/one.bin", "/a/one.bin"]), "/a/one.bin");
        assert_eq!(of(&["/a/shard-17.bin", "/a/shard-2.bin", "/a/shard-1.bin"]), "/a/shard-*.bin");
        assert_eq!(of(&["/a/x11", "/a/x1"]), "/a/x1*", "start and end do not lie on each other");
        assert_eq!(of(&["/a/x1", "/a/x11", "/a/x1"]), "/a/x1*");
        assert_eq!(of(&["/a/\u{e9}1", "/a/\u{e8}1"]), "/a/*1", "letters stay whole");
        assert_eq!(of(&["one", "two"]), "*");
    }

    #[test]
    fn paths_fit_their_pattern_and_no_other() {
        let all = ["/d/class-*/img-*.jpg", "/d/**/img-*.jpg"];
        assert!(all.iter().all(|pattern| fits(pattern, "/d/class-7/img-1.jpg")));
        assert!(fits(all[1], "/d/a/b/img-.jpg") && !fits(all[0], "/d/a/b/img-.jpg"));
        for other in ["/d/img-1.jpg", "/d/class-7/img.jpg", "/d/class-7/img-1.jpg/x", "/e/class-7/img-1.jpg", ""] {
            assert!(!all.iter().any(|pattern| fits(pattern, other)), "{other}");
        }
        assert!(fits("/a/x", "/a/x") && !fits("/a/xa*ax", "/a/xax"), "start and end do not lie on each other");
    }
}
