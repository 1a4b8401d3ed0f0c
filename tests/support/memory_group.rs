//! A control group with little memory: cgroups(7), version 1 or 2.

use super::{is_root, skip};
use std::fs;
use std::path::{Path, PathBuf};

/// A new group below that of this process; removed on drop, when its processes have ended.
pub struct MemoryGroup(PathBuf);

impl MemoryGroup {
    /// `None`, after saying why, where there can be none.
    pub fn new(bytes: u64) -> Option<Self> {
        if !is_root() {
            skip("a memory group takes root");
            return None;
        }
        let groups = fs::read_to_string("/proc/self/cgroup").expect("read /proc/self/cgroup");
        let found = groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let root = match controllers {
                "memory" => "/sys/fs/cgroup/memory",
                "" => "/sys/fs/cgroup",
                _ => return None,
            };
            MemoryGroup::below(&Path::new(root).join(path.trim_start_matches('/')), bytes)
        });
        if found.is_none() {
            skip("no memory group can be made");
        }
        found
    }

    fn below(parent: &Path, bytes: u64) -> Option<Self> {
        let dir = parent.join(format!("stillmap-test-{}", std::process::id()));
        fs::create_dir(&dir).ok()?;
        let group = MemoryGroup(dir);
        let limits = ["memory.max", "memory.limit_in_bytes"];
        let set = |name| fs::write(group.path().join(name), bytes.to_string()).is_ok();
        limits.into_iter().any(set).then_some(group)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// In a child: moves this process into the group of that path.
pub fn join(group: impl AsRef<Path>) {
    let procs = group.as_ref().join("cgroup.procs");
    fs::write(procs, std::process::id().to_string()).expect("join the group");
}
