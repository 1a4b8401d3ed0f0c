//! A control group with few processes and threads: cgroups(7), version 1 or 2.

use super::{is_root, skip};
use std::fs;
use std::path::{Path, PathBuf};

/// A new group below that of this process; removed on drop, when its processes have ended.
pub struct PidsGroup(PathBuf);

impl PidsGroup {
    /// `None`, after saying why, where there can be none.
    pub fn new() -> Option<Self> {
        if !is_root() {
            skip("a group of processes takes root");
            return None;
        }
        let groups = fs::read_to_string("/proc/self/cgroup").expect("read /proc/self/cgroup");
        let found = groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let root = match controllers {
                "pids" => "/sys/fs/cgroup/pids",
                "" => "/sys/fs/cgroup",
                _ => return None,
            };
            let name = format!("stillmap-test-{}", std::process::id());
            let parent = Path::new(root).join(path.trim_start_matches('/'));
            let group = PidsGroup(parent.join(name));
            fs::create_dir(&group.0).ok()?;
            group.0.join("pids.max").exists().then_some(group)
        });
        if found.is_none() {
            skip("no group with a limit on processes can be made");
        }
        found
    }

    /// Moves this process, which has one thread, into the group, where it may start so many.
    pub fn join_with(&self, threads: u32) {
        self.take(std::process::id(), 1 + threads)
            .expect("join the group");
    }

    /// Moves a process into the group, where it may have so many threads.
    pub fn take(&self, process: u32, threads: u32) -> std::io::Result<()> {
        fs::write(self.0.join("pids.max"), threads.to_string())?;
        fs::write(self.0.join("cgroup.procs"), process.to_string())
    }
}

impl Drop for PidsGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
