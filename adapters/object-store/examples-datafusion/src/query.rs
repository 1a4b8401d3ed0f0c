//! SQL over a Parquet and an Arrow IPC file with this store and with `LocalFileSystem`: equal results, and the times.
//!
//! `cargo run --release --features query --bin query [-- ROWS [cold]]`; `cold` drops the page cache before each run, which
//! only root can.

mod table;

use arrow::ipc::MetadataVersion;
use arrow::ipc::writer::{FileWriter, IpcWriteOptions};
use arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::file_format::options::ArrowReadOptions;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use parquet::basic::Compression;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stillmap_object_store::object_store_0_13::StillmapFileSystem;
use table::{COLUMNS, batches, write_parquet};
use url::Url;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Runs of each store, in turns.
const RUNS: usize = 11;

async fn context(store: Arc<dyn ObjectStore>, directory: &Path) -> Result<SessionContext, Error> {
    let context = SessionContext::new();
    // In the place of the LocalFileSystem that is registered for `file`.
    context.register_object_store(&Url::parse("file:///")?, store);
    let path = |name: &str| directory.join(name).display().to_string();
    for name in ["plain", "snappy"] {
        let options = ParquetReadOptions::default();
        let file = path(&format!("{name}.parquet"));
        context.register_parquet(name, file, options).await?;
    }
    let options = ArrowReadOptions::default();
    context
        .register_arrow("ipc", path("ipc.arrow"), options)
        .await?;
    Ok(context)
}

async fn run(context: &SessionContext, sql: &str) -> Result<(Duration, String), Error> {
    let start = Instant::now();
    let batches = context.sql(sql).await?.collect().await?;
    let elapsed = start.elapsed();
    Ok((elapsed, pretty_format_batches(&batches)?.to_string()))
}

fn write_tables(directory: &Path, rows: i64) -> Result<(), Error> {
    let all = || batches(0, rows, 0);
    write_parquet(
        &directory.join("plain.parquet"),
        all(),
        Compression::UNCOMPRESSED,
    )?;
    write_parquet(
        &directory.join("snappy.parquet"),
        all(),
        Compression::SNAPPY,
    )?;
    let schema = all().next().ok_or("no rows")?.schema();
    // DataFusion reads the schema from a stream only if the file's header is padded to 8 bytes, not to 64.
    let options = IpcWriteOptions::try_new(8, false, MetadataVersion::V5)?;
    let file = File::create(directory.join("ipc.arrow"))?;
    let mut writer = FileWriter::try_new_with_options(file, &schema, options)?;
    for batch in all() {
        writer.write(&batch)?;
    }
    writer.finish()?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let rows = std::env::args()
        .nth(1)
        .map_or(Ok(1_000_000), |text| text.parse())?;
    let is_cold = std::env::args().nth(2).is_some_and(|text| text == "cold");
    let directory = tempfile::tempdir()?;
    write_tables(directory.path(), rows)?;
    let store = Arc::new(StillmapFileSystem::new());
    let before_run = || -> std::io::Result<()> {
        if is_cold {
            // Pages that are mapped or not yet written back stay in RAM.
            store.clear_cache();
            for entry in std::fs::read_dir(directory.path())? {
                File::open(entry?.path())?.sync_all()?;
            }
            std::fs::write("/proc/sys/vm/drop_caches", "1")?;
        }
        Ok(())
    };
    let ours = context(store.clone(), directory.path()).await?;
    let theirs = context(Arc::new(LocalFileSystem::new()), directory.path()).await?;

    let sums: Vec<_> = (1..COLUMNS)
        .map(|number| format!("sum(c{number})"))
        .collect();
    let all = sums.join(", ");
    println!("{rows} rows of {COLUMNS} columns; medians of {RUNS} runs");
    println!(
        "{:24} {:>12} {:>16} {:>7}",
        "", "stillmap", "LocalFileSystem", "times"
    );
    for table in ["plain", "snappy", "ipc"] {
        for (columns, what) in [(all.as_str(), "all columns"), ("sum(c3)", "one column")] {
            let sql = format!("SELECT count(*), {columns} FROM {table}");
            let mut times = [Vec::new(), Vec::new()];
            for _ in 0..RUNS {
                before_run()?;
                let (time, found) = run(&ours, &sql).await?;
                times[0].push(time);
                before_run()?;
                let (time, expected) = run(&theirs, &sql).await?;
                times[1].push(time);
                assert_eq!(found, expected, "{sql}");
            }
            let [ours, theirs] = times.map(|mut times| {
                times.sort();
                times[RUNS / 2].as_secs_f64() * 1e3
            });
            let name = format!("{table}, {what}");
            println!(
                "{name:24} {ours:>9.1} ms {theirs:>13.1} ms {:>6.1}x",
                theirs / ours
            );
        }
    }
    println!("results are equal");
    Ok(())
}
