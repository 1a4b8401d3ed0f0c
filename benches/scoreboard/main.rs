//! Every workload against its peers and its limit, in one run: `cargo bench --bench scoreboard`.
#![allow(clippy::disallowed_methods)]

#[path = "../inputs/files.rs"]
mod files;
#[path = "../inputs/noise.rs"]
mod noise;
#[path = "../inputs/pipe.rs"]
mod pipe;
#[path = "../inputs/scan.rs"]
mod scan;
#[path = "../inputs/size.rs"]
mod size;
#[path = "../inputs/touch.rs"]
mod touch;

mod bare;
mod machine;
mod measure;
mod run;
mod table;

mod anonymous;
mod control;
mod draft;
mod exclusive;
mod lease;
mod live;
mod open;
mod open_all;
mod private;
mod shared;
mod stream;

use clap::Parser;

fn main() -> std::io::Result<()> {
    pipe::write_if_asked();
    run::run(run::Args::parse(), |board| {
        open::measure(board, |workload, _| workload)?;
        lease::measure(board)?;
        stream::measure(board)?;
        anonymous::measure(board, |workload, _, _| workload)?;
        draft::measure(board)?;
        exclusive::measure(board)?;
        private::measure(board)?;
        shared::measure(board)?;
        live::measure(board)?;
        control::measure(board)?;
        // Last: rayon's threads stay, and `fork::scope` forks no process that has other threads.
        open_all::measure(board)
    })
}
