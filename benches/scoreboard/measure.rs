//! Runs the contenders of a workload in turn and records their times.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::machine;

const MIB: usize = 1 << 20;

/// The kind of a contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// This crate.
    Stillmap,
    /// An alternative to stillmap.
    Peer,
    /// The least work that the kernel or the memory allows, measured in the same run.
    Limit,
}

/// How a workload's figures are shown.
#[derive(Clone, Copy, Debug)]
pub enum Unit {
    /// Time for one item.
    Time,
    /// Bytes per second, from the bytes of one item.
    Rate(u64),
}

/// One run of a contender.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    nanos: f64,
    check: Option<u64>,
}

impl Sample {
    /// `time` was for `items` items.
    pub fn new(time: Duration, items: usize) -> Self {
        Self {
            nanos: time.as_nanos() as f64 / items as f64,
            check: None,
        }
    }

    /// A number that must be the same for all contenders of a workload: proof that all did the work.
    pub fn check(self, check: u64) -> Self {
        Self {
            check: Some(check),
            ..self
        }
    }

    /// Runs and times the whole of `work`, which gives its check.
    pub fn of(items: usize, work: impl FnOnce() -> u64) -> Self {
        let start = Instant::now();
        let check = black_box(work());
        Self::new(start.elapsed(), items).check(check)
    }
}

struct Contender<'a> {
    name: &'static str,
    role: Role,
    run: Box<dyn FnMut() -> Sample + 'a>,
}

/// One workload and its contenders.
pub struct Workload<'a> {
    room: &'static str,
    name: String,
    unit: Unit,
    contenders: Vec<Contender<'a>>,
    claims: Vec<(f64, &'static str)>,
    /// Bytes of page cache that each turn fills anew.
    page_cache: usize,
}

impl<'a> Workload<'a> {
    pub fn new(room: &'static str, name: impl Into<String>, unit: Unit) -> Self {
        Self {
            room,
            name: name.into(),
            unit,
            contenders: Vec::new(),
            claims: Vec::new(),
            page_cache: 0,
        }
    }

    /// Each turn writes this many bytes to a new file.
    pub fn writes(self, bytes: usize) -> Self {
        Self {
            page_cache: bytes,
            ..self
        }
    }

    pub fn stillmap(self, name: &'static str, run: impl FnMut() -> Sample + 'a) -> Self {
        self.with(Role::Stillmap, name, run)
    }

    pub fn peer(self, name: &'static str, run: impl FnMut() -> Sample + 'a) -> Self {
        self.with(Role::Peer, name, run)
    }

    pub fn limit(self, name: &'static str, run: impl FnMut() -> Sample + 'a) -> Self {
        self.with(Role::Limit, name, run)
    }

    /// stillmap should be at least `times` as fast as the contender `name`; the table reports it if not.
    pub fn claim(mut self, times: f64, name: &'static str) -> Self {
        assert!(
            self.contenders
                .iter()
                .any(|contender| contender.name == name),
            "no contender {name}"
        );
        self.claims.push((times, name));
        self
    }

    fn with(mut self, role: Role, name: &'static str, run: impl FnMut() -> Sample + 'a) -> Self {
        self.contenders.push(Contender {
            name,
            role,
            run: Box::new(run),
        });
        self
    }
}

/// The measurements of one contender.
#[derive(Debug)]
pub struct Standing {
    pub name: &'static str,
    pub role: Role,
    /// Nanoseconds per item, sorted.
    nanos: Vec<f64>,
    /// Most memory that the process had beyond what it had before.
    pub peak_rss: Option<u64>,
}

impl Standing {
    pub fn median(&self) -> f64 {
        median(&self.nanos)
    }

    pub fn fastest(&self) -> f64 {
        self.nanos[0]
    }

    pub fn slowest(&self) -> f64 {
        self.nanos[self.nanos.len() - 1]
    }

    pub fn rounds(&self) -> usize {
        self.nanos.len()
    }

    /// The median distance from the median: half of the rounds were this near.
    pub fn deviation(&self) -> f64 {
        let middle = self.median();
        let mut distances = self
            .nanos
            .iter()
            .map(|nanos| (nanos - middle).abs())
            .collect::<Vec<_>>();
        distances.sort_by(f64::total_cmp);
        median(&distances)
    }
}

fn median(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[half]
    } else {
        (sorted[half - 1] + sorted[half]) / 2.0
    }
}

/// One line of the table.
#[derive(Debug)]
pub struct Outcome {
    pub room: &'static str,
    pub workload: String,
    pub unit: Unit,
    pub standings: Vec<Standing>,
    /// How much of one processor others had meanwhile: noise.
    pub others: Option<f64>,
    claims: Vec<(f64, &'static str)>,
}

impl Outcome {
    /// The fastest of those with this role.
    pub fn best(&self, role: Role) -> Option<&Standing> {
        self.standings
            .iter()
            .filter(|standing| standing.role == role)
            .min_by(|one, other| one.median().total_cmp(&other.median()))
    }

    /// How many times as fast stillmap is.
    pub fn ratio(&self, to: &Standing) -> Option<f64> {
        self.best(Role::Stillmap)
            .map(|stillmap| to.median() / stillmap.median())
    }

    /// The claims that did not hold: the ratio wanted, to whom, and the ratio measured.
    pub fn missed(&self) -> Vec<(f64, &'static str, f64)> {
        let ratio = |name| {
            self.standings
                .iter()
                .find(|standing| standing.name == name)
                .and_then(|it| self.ratio(it))
        };
        self.claims
            .iter()
            .filter_map(|&(wanted, name)| ratio(name).map(|measured| (wanted, name, measured)))
            .filter(|(wanted, _, measured)| measured < wanted)
            .collect()
    }
}

/// The time and the selection of workloads.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Time for one workload, all contenders together.
    pub budget: Duration,
    pub least_rounds: usize,
    pub most_rounds: usize,
    /// Workloads with more bytes to go through are left out.
    pub largest: u64,
    /// Only workloads with one of these in `room: name`.
    pub only: Vec<String>,
}

/// Runs workloads by a plan and collects their outcomes.
#[derive(Debug)]
pub struct Board {
    pub plan: Plan,
    pub outcomes: Vec<Outcome>,
}

impl Board {
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            outcomes: Vec::new(),
        }
    }

    /// Whether the plan has this workload: ask before making its inputs. It goes through `bytes` bytes.
    pub fn wants(&self, room: &str, name: &str, bytes: u64) -> bool {
        let full = format!("{room}: {name}");
        bytes <= self.plan.largest
            && (self.plan.only.is_empty()
                || self
                    .plan
                    .only
                    .iter()
                    .any(|part| full.contains(part.as_str())))
    }

    /// The times of each contender. Each takes up to `memory` bytes.
    fn run_rounds(&self, contenders: &mut [Contender<'_>], memory: usize) -> Vec<Vec<f64>> {
        let mut nanos = vec![Vec::new(); contenders.len()];
        let start = Instant::now();
        for round in 0..self.plan.most_rounds {
            if round >= self.plan.least_rounds && start.elapsed() >= self.plan.budget {
                break;
            }
            // Another one begins each time, and every second round goes backwards, so that no contender always runs
            // after the same one and inherits its warm caches and freed memory.
            for turn in 0..contenders.len() {
                let turn = if round % 2 == 0 {
                    turn
                } else {
                    contenders.len() - 1 - turn
                };
                let index = (turn + round / 2) % contenders.len();
                if memory > MIB {
                    machine::touch_free_memory(memory + 16 * MIB);
                }
                nanos[index].push((contenders[index].run)().nanos);
            }
        }
        nanos
    }

    pub fn measure(&mut self, workload: Workload<'_>) {
        let Workload {
            room,
            name,
            unit,
            mut contenders,
            claims,
            page_cache,
        } = workload;
        eprint!("{room}: {name} ...");
        let begin = Instant::now();
        // The first round warms up and shows the memory; its times do not count.
        let peaks = contenders
            .iter_mut()
            .map(|it| machine::peak_rss_of(|| (it.run)()))
            .collect::<Vec<_>>();
        let checks = peaks
            .iter()
            .zip(&contenders)
            .filter_map(|((sample, _), it)| Some((sample.check?, it.name)));
        assert_same(&name, &checks.collect::<Vec<_>>());
        let memory = peaks
            .iter()
            .filter_map(|(_, peak)| *peak)
            .max()
            .unwrap_or(0) as usize
            + page_cache;
        let ticks = machine::Ticks::now();
        let nanos = self.run_rounds(&mut contenders, memory);
        let others = ticks.zip(machine::Ticks::now());
        let others = others.map(|(then, now)| now.others_since(then));
        let standing = |((contender, mut nanos), (_, peak_rss)): ((Contender<'_>, Vec<f64>), _)| {
            nanos.sort_by(f64::total_cmp);
            Standing {
                name: contender.name,
                role: contender.role,
                nanos,
                peak_rss,
            }
        };
        let standings = contenders
            .into_iter()
            .zip(nanos)
            .zip(peaks)
            .map(standing)
            .collect();
        eprintln!(" {:.1} s", begin.elapsed().as_secs_f64());
        self.outcomes.push(Outcome {
            room,
            workload: name,
            unit,
            standings,
            others,
            claims,
        });
    }
}

/// All contenders of a workload have seen the same bytes.
fn assert_same(workload: &str, checks: &[(u64, &str)]) {
    for pair in checks.windows(2) {
        assert_eq!(
            pair[0].0, pair[1].0,
            "{workload}: {} and {} saw different bytes",
            pair[0].1, pair[1].1
        );
    }
}
