//! A control group with little memory, or with few processes and threads: cgroups(7), version 1 or 2.

use super::{is_root, skip};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

static GROUPS: AtomicU32 = AtomicU32::new(0);

/// A new group below that of this process; removed on drop, when its processes have ended.
pub struct ControlGroup(PathBuf);

impl ControlGroup {
    /// A group that may have this many bytes; `None`, after saying why, where there can be none.
    pub fn with_memory(bytes: u64) -> Option<Self> {
        ControlGroup::new("memory", |dir| {
            let limits = ["memory.max", "memory.limit_in_bytes"];
            let set = |name| fs::write(dir.join(name), bytes.to_string()).is_ok();
            limits.into_iter().any(set)
        })
    }

    /// A group whose processes and threads are limited by [`ControlGroup::take`]; `None` as above.
    pub fn with_pids() -> Option<Self> {
        ControlGroup::new("pids", |dir| dir.join("pids.max").exists())
    }

    fn new(controller: &str, is_limited: impl Fn(&Path) -> bool) -> Option<Self> {
        if !is_root() {
            skip("a control group takes root");
            return None;
        }
        let groups = fs::read_to_string("/proc/self/cgroup").expect("read /proc/self/cgroup");
        let found = groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let root = Path::new("/sys/fs/cgroup");
            let root = match controllers {
                "" => root.to_path_buf(),
                _ if controllers == controller => root.join(controller),
                _ => return None,
            };
            let number = GROUPS.fetch_add(1, Ordering::Relaxed);
            let name = format!("stillmap-test-{}-{number}", std::process::id());
            let dir = root.join(path.trim_start_matches('/')).join(name);
            fs::create_dir(&dir).ok()?;
            let group = ControlGroup(dir);
            // Where there is no group a directory can be made as well: version 1 is below a tmpfs.
            let is_group = group.path().join("cgroup.procs").exists();
            (is_group && is_limited(group.path())).then_some(group)
        });
        if found.is_none() {
            skip(format_args!("no control group can limit {controller}"));
        }
        found
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Moves this process, which has one thread, into the group, where it may start so many.
    pub fn join_with(&self, threads: u32) {
        self.take(std::process::id(), 1 + threads)
            .expect("join the group");
    }

    /// Moves a process into the group, where it may have this many threads.
    pub fn take(&self, process: u32, threads: u32) -> io::Result<()> {
        fs::write(self.0.join("pids.max"), threads.to_string())?;
        fs::write(self.0.join("cgroup.procs"), process.to_string())
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// In a child: moves this process into the group of that path.
pub fn join(group: impl AsRef<Path>) {
    let procs = group.as_ref().join("cgroup.procs");
    fs::write(procs, std::process::id().to_string()).expect("join the group");
}
