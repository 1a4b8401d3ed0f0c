//! The examples that write: `publish`, `edit`, `scratch`.
#![allow(clippy::disallowed_methods)] // tests look at the kernel directly, past the crate

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use support::bytes::pattern;
use support::child::report;
use support::exclusive::any_system;
use support::random::seed;
use support::{example, file_with, temp_dir};

fn output(command: &mut Command) -> (String, String, bool) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("run an example");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (text(stdout), text(stderr), status.success())
}

/// Each word with the lines it stands in, found in the simplest way.
fn index(text: &str) -> String {
    let mut index = BTreeMap::<&str, Vec<usize>>::new();
    for (number, line) in text.lines().enumerate() {
        for word in line.split(' ').filter(|word| !word.is_empty()) {
            let lines = index.entry(word).or_default();
            lines.push(number + 1);
            lines.dedup();
        }
    }
    let line = |(word, lines): (&&str, &Vec<usize>)| {
        let numbers: String = lines.iter().map(|n| format!(" {n}")).collect();
        format!("{word}{numbers}\n")
    };
    index.iter().map(line).collect()
}

fn words(count: usize) -> String {
    let words = pattern(5, count);
    let line = |bytes: &[u8]| bytes.iter().map(|b| format!("w{b} ")).collect::<String>();
    words.chunks(7).map(|bytes| line(bytes) + "\n").collect()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("list a directory");
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let names = entries.map(|entry| name(entry).to_string_lossy().into_owned());
    names.collect()
}

#[test]
fn publish_writes_the_index_of_a_text() {
    let dir = temp_dir();
    let text = words(30_000);
    let (from, to) = (
        file_with(dir.path(), "text", text.as_bytes()),
        dir.path().join("index"),
    );
    fs::write(&to, "an old index").unwrap();
    let (_, said, good) = output(example("publish").args([&from, &to]));
    assert!(good, "{said}");
    assert_eq!(fs::read_to_string(&to).unwrap(), index(&text));
    // To standard output, a pipe, as well.
    let (index_there, _, good) = output(example("publish").arg(&from).arg("/dev/stdout"));
    assert!(good && index_there == index(&text));
    let (_, said, good) = output(example("publish").arg("--new").args([&from, &to]));
    assert!(!good && said.contains("File exists"), "{said}");
    let nowhere = dir.path().join("none/index");
    let (_, said, good) = output(example("publish").args([&from, &nowhere]));
    assert!(!good && said.contains("No such file"), "{said}");
}

#[test]
fn publish_leaves_the_old_index_or_the_new_one_when_it_is_killed() {
    let dir = temp_dir();
    let text = words(500);
    let texts = temp_dir();
    let from = file_with(texts.path(), "text", text.as_bytes());
    let to = dir.path().join("index");
    let (old, new) = ("an old index".to_string(), index(&text));
    // How long it takes, to kill it within that time.
    let start = Instant::now();
    assert!(output(example("publish").args([&from, &to])).2);
    let took = start.elapsed();
    let (mut random, mut killed, mut published) = (seed(), 0, 0);
    for round in 0..150 {
        fs::write(&to, &old).unwrap();
        let mut child = example("publish")
            .args([&from, &to])
            .stderr(Stdio::null())
            .spawn()
            .expect("start publish");
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let until = Instant::now() + took.mul_f64((random >> 40) as f64 / (1 << 24) as f64);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        child.kill().expect("kill publish");
        killed += u32::from(child.wait().unwrap().signal() == Some(libc::SIGKILL));
        // Its helper may be at work for some microseconds more.
        let settled = Instant::now() + Duration::from_secs(10);
        while names(dir.path()) != ["index"] {
            assert!(
                Instant::now() < settled,
                "round {round}: {:?}",
                names(dir.path())
            );
        }
        let bytes = fs::read_to_string(&to).unwrap();
        assert!(bytes == old || bytes == new, "round {round}");
        published += u32::from(bytes == new);
    }
    report(format_args!("killed {killed}, published {published}"));
    assert!(killed > 15, "{killed}");
}

#[test]
fn edit_writes_few_bytes_and_says_how_few() {
    let Some(system) = any_system() else { return };
    let mut model = vec![b'-'; 8 << 20];
    model[5_000_000..5_000_005].copy_from_slice(b"lower");
    let path = file_with(system.path(), "file", &model);
    File::open(&path).unwrap().sync_all().unwrap();
    let path = path.as_path();
    let (said, error, good) = output(example("edit").arg("upper").arg(path));
    assert!(good, "{error}");
    model[5_000_000..5_000_005].copy_from_slice(b"LOWER");
    assert!(fs::read(path).unwrap() == model);
    let expected = "5 of 8388608 bytes changed, 4096 bytes written";
    assert!(said.contains(expected), "{said}");
    let patch = |offset: &str, text: &str| {
        output(example("edit").arg("patch").arg(path).args([offset, text]))
    };
    assert!(patch("8388606", "end of it").2);
    model.truncate(8_388_606);
    model.extend_from_slice(b"end of it");
    assert!(fs::read(path).unwrap() == model);
    let reader = File::open(path).unwrap();
    let (_, error, good) = patch("0", "x");
    assert!(
        !good && error.contains("is open or mapped elsewhere"),
        "{error}"
    );
    drop(reader);
}

#[test]
fn scratch_leaves_the_file_as_it_is() {
    let dir = temp_dir();
    // Each byte is one more than that before it: all distances but the first are 1.
    let bytes: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    let path = file_with(dir.path(), "file", &bytes);
    let (said, error, good) = output(example("scratch").arg(&path));
    assert!(good, "{error}");
    assert!(
        said.contains("1048576 bytes, 8.00 bits each, as distances 0.00"),
        "{said}"
    );
    assert!(fs::read(&path).unwrap() == bytes);
}
