//! The container that a cgroup's path names.

/// Length of the ids that container engines give.
const ID_CHARS: usize = 64;

/// The id in a path such as `/system.slice/docker-<id>.scope` or `/kubepods/.../cri-containerd-<id>.scope`: 64 hexadecimal
/// digits in the last component that has them.
pub fn id_in(path: &str) -> Option<&str> {
    path.rsplit('/').find_map(|component| {
        let stem = component.strip_suffix(".scope").unwrap_or(component);
        let id = stem.rsplit(['-', ':']).next()?;
        (id.len() == ID_CHARS && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_engines_paths_name_their_container() {
        let id = "0123456789abcdef".repeat(4);
        for path in [
            format!("/docker/{id}"),
            format!("/system.slice/docker-{id}.scope"),
            format!("/kubepods/burstable/pod1-2/{id}/init"),
            format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope"),
            format!("/kubepods.slice/pod1.slice:cri-containerd:{id}"),
        ] {
            assert_eq!(id_in(&path), Some(id.as_str()), "{path}");
        }
        assert_eq!(id_in("/user.slice/user-0.slice/session-1.scope"), None);
    }
}
