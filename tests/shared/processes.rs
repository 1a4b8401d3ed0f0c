//! Counters of several processes lose nothing.

use super::*;

#[test]
fn children_lose_no_count_wherever_it_is() {
    scenario!(|| {
        if !kernel::may_open(200) || !kernel::may_start(200) {
            return;
        }
        let dir = temp_dir();
        let counters = [
            Shared::<AtomicU64>::new().unwrap(),
            Shared::<AtomicU64>::memfd("test").unwrap(),
            Shared::<AtomicU64>::create(dir.path().join("file")).unwrap(),
        ];
        fork::scope(|s| {
            for _ in 0..64 {
                s.spawn(|| {
                    for _ in 0..100_000 {
                        for counter in &counters {
                            counter.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                })
                .unwrap();
            }
        })
        .unwrap();
        for counter in &counters {
            assert_eq!(counter.load(Ordering::Relaxed), 6_400_000);
        }
    })
    .succeed();
}

/// A process that shares only a path with this one.
fn stranger(test: &str, path: &Path, task: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("STILLMAP_TEST_STRANGER", task)
        .env("STILLMAP_TEST_PATH", path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn unrelated_processes_lose_no_count_and_survive_one_another() {
    if let Some(task) = std::env::var_os("STILLMAP_TEST_STRANGER") {
        let path = support::child::argument("PATH");
        let counters = Shared::<[AtomicU64; 2]>::create(path).unwrap();
        if task == "count" {
            for _ in 0..100_000 {
                counters[0].fetch_add(1, Ordering::Relaxed);
            }
            return;
        }
        loop {
            counters[1].fetch_add(1, Ordering::Relaxed);
        }
    }
    let dir = temp_dir();
    let path = dir.path().join("counters");
    let test = "processes::unrelated_processes_lose_no_count_and_survive_one_another";
    let mut counting: Vec<_> = (0..8).map(|_| stranger(test, &path, "count")).collect();
    let mut killed = stranger(test, &path, "be killed");
    let counters = Shared::<[AtomicU64; 2]>::create(&path).unwrap();
    // In the middle of it.
    while counters[1].load(Ordering::Relaxed) < 1000 {
        std::thread::yield_now();
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    for child in &mut counting {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(counters[0].load(Ordering::Relaxed), 800_000);
    let left = counters[1].load(Ordering::Relaxed);
    counters[1].fetch_add(1, Ordering::Relaxed);
    assert_eq!(counters[1].load(Ordering::Relaxed), left + 1);
}
