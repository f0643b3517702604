//! Who calls a database's client: the function of a stack that a person can change, whatever lies between it and the client.

use std::collections::BTreeMap;

use super::blame::{Function, Site};
use super::report::{BySite, Named, sum};
use crate::model::meta::FrameKind;
use crate::model::profile::Profile;
use crate::model::stacks::FunctionTime;
use crate::symbol::clients::is_client;

impl Named<'_> {
    /// Functions of stacks that stand for a number each and share `ns`, put down to who called a database's client: the innermost Python function that is not of a package or of Python's own
    /// library, else the innermost native one outside of the client.
    pub fn callers(&self, counts: &BTreeMap<u64, u64>, ns: u64) -> Vec<FunctionTime> {
        let all = sum(counts.values()).max(1);
        let mut by_site = BySite::default();
        for (stack, count) in counts {
            let stack = self.by_id.get(stack).copied();
            if let Some(site) = stack.and_then(|stack| self.caller(stack)) {
                by_site.add(site, (u128::from(ns) * u128::from(*count) / u128::from(all)) as u64);
            }
        }
        self.times(&by_site)
    }

    fn caller(&self, stack: usize) -> Option<&Site> {
        let functions = || {
            let sites = self.sites.in_stack(stack).map(|(_, site)| site);
            sites.filter_map(|site| Some((site, self.sites.functions.get(site.function)?)))
        };
        let of_python = |function: &Function| function.kind == FrameKind::Python && function.named;
        let own = functions().find(|(_, function)| {
            of_python(function) && function.file.as_deref().is_none_or(|file| !is_of_package(file))
        });
        let native = || {
            let after = functions().skip_while(|(_, function)| !is_of_client(function, self.profile));
            let mut callers = after.filter(|(_, function)| !is_of_client(function, self.profile));
            callers.find(|(site, _)| self.sites.is_user_code(site.function))
        };
        let python = || functions().find(|(_, function)| of_python(function));
        own.or_else(python).or_else(native).map(|(site, _)| site).or_else(|| self.blamed(stack))
    }
}

/// Whether a Python file is one of an installed package or of Python's own library.
fn is_of_package(file: &str) -> bool {
    let in_library = || {
        let mut parts = file.split('/');
        parts.any(|part| part == "lib") && parts.next().is_some_and(|part| part.starts_with("python3"))
    };
    ["/site-packages/", "/dist-packages/"].iter().any(|folder| file.contains(folder))
        || file.starts_with("<frozen")
        || in_library()
}

/// Whether a function is one of a database's client.
pub(super) fn is_of_client(function: &Function, profile: &Profile) -> bool {
    if function.kind != FrameKind::Native {
        return false;
    }
    let module = function.module.and_then(|module| profile.modules.get(module));
    let file_name = module.and_then(|module| module.path.rsplit('/').next());
    // Linked into a program it is known by its names.
    file_name.is_some_and(is_client) || function.named && function.label.starts_with("sqlite3_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_and_pythons_own_library_are_told_from_a_programs_files() {
        for file in [
            "/usr/lib/python3/dist-packages/psycopg/waiting.py",
            "/opt/venv/lib/python3.12/site-packages/sqlalchemy/engine.py",
            "/usr/lib/python3.11/sqlite3/dbapi2.py",
            "<frozen importlib._bootstrap>",
        ] {
            assert!(is_of_package(file), "{file}");
        }
        for file in ["/app/train.py", "/srv/lib/loader.py", "train.py", "/srv/python3/run.py"] {
            assert!(!is_of_package(file), "{file}");
        }
    }
}
