//! One query on a Ballista cluster of this machine: a scheduler and two executors, each a process, which read through
//! this store while another process rewrites a partition by rename. It starts and ends them all.
//!
//! `cargo run --features ballista --bin ballista`

mod table;

use arrow::util::pretty::pretty_format_batches;
use ballista::prelude::SessionContextExt;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::scheduler_process::start_server;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use parquet::basic::Compression;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};
use stillmap_object_store::object_store_0_13::StillmapFileSystem;
use table::{batches, write_parquet};
use tokio::time::{sleep, timeout};
use url::Url;

type Error = Box<dyn std::error::Error + Send + Sync>;

const PARTS: i64 = 4;
const ROWS: i64 = 200_000;
/// Queries continue until both numbers are reached: queries and rewrites.
const QUERIES: usize = 5;
const REWRITES: i64 = 3;
const SQL: &str =
    "SELECT part, count(*), sum(c1), sum(c2), sum(c7) FROM t GROUP BY part ORDER BY part";

/// The example fails after this time, whatever happens.
const TIME_LIMIT: Duration = Duration::from_secs(110);

/// A process of the cluster, ended when it is dropped.
struct Process(Child);

impl Process {
    /// Starts this program in another role.
    fn start(role: &[&str]) -> Result<Self, Error> {
        let mut command = Command::new(std::env::current_exe()?);
        Ok(Process(command.args(role).spawn()?))
    }

    fn is_alive(&mut self) -> Result<bool, Error> {
        Ok(self.0.try_wait()?.is_none())
    }

    /// How many files of the table it has mapped.
    fn mapped_parts(&self, table: &Path) -> Result<usize, Error> {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.0.id()))?;
        let table = table.display().to_string();
        Ok(maps.lines().filter(|line| line.contains(&table)).count())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn scheduler(port: u16) -> Result<(), Error> {
    let config = SchedulerConfig {
        bind_port: port,
        external_host: "127.0.0.1".into(),
        ..SchedulerConfig::default()
    };
    let cluster = BallistaCluster::new_from_config(&config).await?;
    let address = format!("127.0.0.1:{port}").parse()?;
    Ok(start_server(cluster, address, Arc::new(config)).await?)
}

async fn executor(scheduler_port: u16, port: u16, grpc_port: u16, work: &str) -> Result<(), Error> {
    let store = Arc::new(StillmapFileSystem::new());
    let files = Url::parse("file:///")?;
    let temporary = work.to_string();
    let config = ExecutorProcessConfig {
        scheduler_host: "127.0.0.1".into(),
        scheduler_port,
        port,
        grpc_port,
        external_host: Some("127.0.0.1".into()),
        work_dir: Some(work.into()),
        vcores: 1,
        // Each session gets a runtime whose `file` URLs are read through this store.
        override_runtime_producer: Some(Arc::new(move |_| {
            let builder = RuntimeEnvBuilder::new().with_temp_file_path(&temporary);
            let runtime = builder.build_arc()?;
            runtime.register_object_store(&files, store.clone());
            Ok(runtime)
        })),
        ..ExecutorProcessConfig::default()
    };
    Ok(start_executor_process(Arc::new(config)).await?)
}

/// Replaces partition 0 by the same rows in another order, until it is killed.
fn rewriter(table: &Path) -> Result<(), Error> {
    for rotation in 1.. {
        let new = table.with_extension("new");
        write_parquet(
            &new,
            batches(0, ROWS, rotation % ROWS),
            Compression::UNCOMPRESSED,
        )?;
        std::fs::rename(&new, table.join("part-0.parquet"))?;
        std::fs::write(table.with_extension("count"), rotation.to_string())?;
    }
    Ok(())
}

fn rewrites(table: &Path) -> i64 {
    let count = std::fs::read_to_string(table.with_extension("count"));
    count.ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

async fn answer(context: &SessionContext) -> Result<String, Error> {
    let batches = context.sql(SQL).await?.collect().await?;
    Ok(pretty_format_batches(&batches)?.to_string())
}

async fn register(context: SessionContext, table: &Path) -> Result<SessionContext, Error> {
    let options = ParquetReadOptions::default();
    context
        .register_parquet("t", format!("{}/", table.display()), options)
        .await?;
    Ok(context)
}

/// Ports that are free now.
fn free_ports<const N: usize>() -> Result<[u16; N], Error> {
    let mut listeners = Vec::new();
    for _ in 0..N {
        listeners.push(TcpListener::bind("127.0.0.1:0")?);
    }
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

async fn wait_for(port: u16) {
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        sleep(Duration::from_millis(50)).await;
    }
}

async fn run() -> Result<(), Error> {
    let directory = tempfile::tempdir()?;
    let table = directory.path().join("table");
    std::fs::create_dir(&table)?;
    for part in 0..PARTS {
        let path = table.join(format!("part-{part}.parquet"));
        write_parquet(&path, batches(part, ROWS, 0), Compression::UNCOMPRESSED)?;
    }
    let alone = register(SessionContext::new(), &table).await?;
    let expected = answer(&alone).await?;
    println!("{SQL}\n{expected}");

    let [scheduler_port, a, a_grpc, b, b_grpc] = free_ports()?;
    let _scheduler = Process::start(&["scheduler", &scheduler_port.to_string()])?;
    wait_for(scheduler_port).await;
    let mut executors = Vec::new();
    for (name, port, grpc_port) in [("a", a, a_grpc), ("b", b, b_grpc)] {
        let work = directory.path().join(name);
        std::fs::create_dir(&work)?;
        let [scheduler, port_text, grpc] = [scheduler_port, port, grpc_port].map(|n| n.to_string());
        let role = [
            "executor",
            &scheduler,
            &port_text,
            &grpc,
            &work.display().to_string(),
        ];
        executors.push(Process::start(&role)?);
        wait_for(port).await;
    }
    let _rewriter = Process::start(&["rewriter", &table.display().to_string()])?;

    let cluster = SessionContext::remote(&format!("df://127.0.0.1:{scheduler_port}")).await?;
    let cluster = register(cluster, &table).await?;
    let mut queries = 0;
    while queries < QUERIES || rewrites(&table) < REWRITES {
        queries += 1;
        let start = Instant::now();
        let found = answer(&cluster).await?;
        assert_eq!(found, expected, "query {queries}");
        let seconds = start.elapsed().as_secs_f64();
        println!("query {queries} on the cluster: equal, {seconds:.2} s");
    }
    println!(
        "partition 0 was rewritten {} times meanwhile",
        rewrites(&table)
    );
    let mut mapped = 0;
    for (number, executor) in executors.iter_mut().enumerate() {
        assert!(executor.is_alive()?, "executor {number} died");
        let parts = executor.mapped_parts(&table)?;
        println!("executor {number} is alive, with {parts} files of the table mapped");
        mapped += parts;
    }
    assert!(mapped > 0, "no executor read through the store");
    Ok(())
}

/// DataFusion recurses deeply, and its frames are large without optimization.
const STACK: usize = 32 << 20;

fn main() -> Result<(), Error> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_all().thread_stack_size(STACK).build()?;
    let role: Vec<String> = std::env::args().skip(1).collect();
    // On a thread of the runtime, for its stack.
    runtime.block_on(async { tokio::spawn(play(role)).await? })
}

async fn play(role: Vec<String>) -> Result<(), Error> {
    let role: Vec<&str> = role.iter().map(String::as_str).collect();
    match role[..] {
        ["scheduler", port] => scheduler(port.parse()?).await,
        ["executor", scheduler, port, grpc, work] => {
            executor(scheduler.parse()?, port.parse()?, grpc.parse()?, work).await
        }
        ["rewriter", table] => rewriter(Path::new(table)),
        _ => timeout(TIME_LIMIT, run()).await?,
    }
}
