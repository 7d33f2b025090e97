//! What was measured, as one document and as a table.
//!
//! **Every figure stands beside what it was measured on**, so that two documents can be compared.
//! Ratios are of two lines in one run: between runs, and on a machine that others use, seconds are
//! worth less.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use procfs::Current;
use serde::Serialize;

use super::latency::{Latency, Waits};
use super::memory::ManyDies;
use super::throughput::{StageCost, Throughput};
use crate::cli::{BenchLine, On};

const MIB: f64 = (1 << 20) as f64;

/// One run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The version that was measured.
    pub castwatch: &'static str,
    /// The model bundle and its digest.
    pub bundle: String,
    /// The machine.
    pub machine: Machine,
    /// What was asked for.
    pub asked: Asked,
    /// What was measured on what.
    pub lines: Vec<LineReport>,
    /// The figures of the second line over those of the first, by name; empty unless there are two.
    pub ratios: BTreeMap<String, f64>,
}

/// A machine, as far as its figures depend on it.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// The model of its CPU.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Memory.
    pub memory_gib: f64,
    /// Processes that wanted to run before the measurement began, over one minute.
    pub load: f64,
}

/// What was asked for.
#[derive(Debug, Serialize)]
pub struct Asked {
    shots: u64,
    rate: f64,
    seconds: f64,
    machines: u16,
    dies: u64,
    shots_a_die: u64,
}

impl From<&BenchLine> for Asked {
    fn from(args: &BenchLine) -> Self {
        Self {
            shots: args.shots,
            rate: args.rate,
            seconds: args.duration.as_secs_f64(),
            machines: args.machines,
            dies: args.dies,
            shots_a_die: args.shots_a_die,
        }
    }
}

/// What was measured of one line.
#[derive(Debug, Serialize)]
pub struct LineReport {
    /// What it stands on.
    pub on: On,
    /// The settings that matter.
    pub stands_on: BTreeMap<&'static str, String>,
    /// Shots a second, and what they cost.
    pub throughput: Option<Throughput>,
    /// From shot to verdict and alert.
    pub latency: Option<Latency>,
    /// Many dies.
    pub memory: Option<ManyDies>,
}

impl LineReport {
    /// Nothing yet.
    pub fn new(on: On) -> Self {
        Self { on, stands_on: BTreeMap::new(), throughput: None, latency: None, memory: None }
    }
}

impl Machine {
    fn here() -> Self {
        let cpu = procfs::CpuInfo::current().ok();
        Self {
            cpu: cpu.and_then(|cpu| cpu.model_name(0).map(str::to_owned)).unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: procfs::Meminfo::current().map_or(0.0, |m| m.mem_total as f64 / (1u64 << 30) as f64),
            load: procfs::LoadAverage::current().map_or(0.0, |load| load.one.into()),
        }
    }
}

impl Report {
    /// Nothing yet, on this machine.
    pub fn new(asked: Asked, bundle: String) -> Self {
        let (machine, castwatch) = (Machine::here(), env!("CARGO_PKG_VERSION"));
        Self { castwatch, bundle, machine, asked, lines: Vec::new(), ratios: BTreeMap::new() }
    }

    /// Sets two lines in relation.
    pub fn compare(&mut self) {
        if let [first, second] = self.lines.as_slice() {
            let first: BTreeMap<String, f64> =
                figures(first).into_iter().map(|f| (f.name, f.value)).collect();
            let ratio = |f: Figure| {
                let under = first.get(&f.name).filter(|under| **under > 0.0)?;
                let ratio = f.value / under;
                Some((f.name, ratio))
            };
            self.ratios = figures(second).into_iter().filter_map(ratio).collect();
        }
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).unwrap_or_default();
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let m = &self.machine;
        writeln!(
            text,
            "castwatch {} with bundle {} on {} x {}, {:.0} GiB of memory, load {:.1} before",
            self.castwatch, self.bundle, m.cores, m.cpu, m.memory_gib, m.load
        )?;
        for line in &self.lines {
            let facts: Vec<String> =
                line.stands_on.iter().map(|(name, value)| format!("{name} {value}")).collect();
            writeln!(text, "{}: {}", line.on.as_str(), facts.join(", "))?;
        }
        let columns: Vec<Vec<Figure>> = self.lines.iter().map(figures).collect();
        // Each name once, in the order in which lines have them.
        let mut names: Vec<&Figure> = Vec::new();
        for figure in columns.iter().flatten() {
            if !names.iter().any(|known| known.name == figure.name) {
                names.push(figure);
            }
        }
        let width = names.iter().map(|f| f.name.chars().count()).max().unwrap_or_default();
        write!(text, "\n{:width$}", "")?;
        for line in &self.lines {
            write!(text, "  {:>10}", line.on.as_str())?;
        }
        writeln!(text, "{}", if self.ratios.is_empty() { "" } else { "   ratio" })?;
        for Figure { name, .. } in names {
            let gap = width - name.chars().count();
            write!(text, "{name}{:gap$}", "")?;
            for column in &columns {
                match column.iter().find(|f| f.name == *name) {
                    Some(figure) => write!(text, "  {:>10.*}", figure.digits, figure.value)?,
                    None => write!(text, "  {:>10}", "-")?,
                }
            }
            match self.ratios.get(name) {
                Some(ratio) => writeln!(text, "  {ratio:>6.2}")?,
                None => writeln!(text)?,
            }
        }
        for line in &self.lines {
            self.notes(line, text)?;
        }
        Ok(())
    }

    /// What a number alone does not say.
    fn notes(&self, line: &LineReport, text: &mut String) -> std::fmt::Result {
        let on = line.on.as_str();
        for stage in line.throughput.iter().flat_map(|t| &t.stages) {
            let all: f64 = stage.cpu_by_thread.values().sum();
            let mut threads: Vec<(&String, &f64)> = stage.cpu_by_thread.iter().collect();
            threads.sort_by(|a, b| b.1.total_cmp(a.1));
            let shares: Vec<String> = threads
                .iter()
                .filter(|(_, cpu)| **cpu >= all * 0.01)
                .map(|(name, cpu)| format!("{name} {:.0} %", *cpu / all * 100.0))
                .collect();
            writeln!(text, "{on}: CPU of the {} by thread: {}", stage.stage, shares.join(", "))?;
        }
        if let Some(l) = &line.latency {
            if !l.rate_kept {
                writeln!(
                    text,
                    "{on}: the generator kept {:.0} of {} shots a second: the latencies are at that rate",
                    l.rate, l.rate_asked
                )?;
            }
            if !l.drained {
                writeln!(
                    text,
                    "{on}: the line had not finished what was in the log: the slowest are missing; \
                     {} of {} shots have a verdict",
                    l.verdict.count, l.shots
                )?;
            }
        }
        Ok(())
    }
}

/// One number with its name.
struct Figure {
    name: String,
    value: f64,
    digits: usize,
}

/// Every figure of a line, in the order of the table.
fn figures(line: &LineReport) -> Vec<Figure> {
    let mut all = Vec::new();
    let mut add = |name: String, value: f64, digits| all.push(Figure { name, value, digits });
    if let Some(t) = &line.throughput {
        add("shots published a second".into(), t.published_per_second, 0);
        for stage in &t.stages {
            of_stage(stage, &mut add);
        }
    }
    if let Some(l) = &line.latency {
        add("shots a second, latency".into(), l.rate, 0);
        of_waits("shot to verdict", &l.verdict, &mut add);
        of_waits("shot to alert", &l.alert, &mut add);
        for (stage, cores) in &l.cores {
            add(format!("{stage}: cores busy at that rate"), *cores, 2);
        }
    }
    if let Some(m) = &line.memory {
        let dies = format!("{} dies", m.dies);
        add(format!("{dies}: peak memory, MiB"), m.peak_memory_mib, 0);
        add(format!("{dies}: snapshots, MiB"), m.snapshot_bytes as f64 / MIB, 1);
        if let Some(r) = m.median() {
            add(format!("{dies}: ready after a restart, s"), r.ready_seconds, 2);
            add(format!("{dies}:   model loaded after, s"), r.model_seconds, 2);
            add(format!("{dies}:   first partition open after, s"), r.first_partition_seconds, 2);
            add(format!("{dies}: memory after a restart, MiB"), r.memory_mib, 0);
            add(format!("{dies}: peak memory at a restart, MiB"), r.peak_memory_mib, 0);
        }
    }
    all
}

fn of_stage(s: &StageCost, add: &mut impl FnMut(String, f64, usize)) {
    let (stage, taken) = (s.stage, s.taken as f64);
    add(format!("{stage}: messages"), taken, 0);
    let each = |seconds: f64| seconds / taken * 1e6;
    if let (Some(per_second), Some(per_core)) = (s.per_second, s.per_second_per_core) {
        add(format!("{stage}: messages a second"), per_second, 0);
        add(format!("{stage}: messages a second per core of its CPU"), per_core, 0);
        add(format!("{stage}: CPU, us each"), each(s.cpu_seconds), 2);
    }
    if s.taken == 0 {
        return;
    }
    add(format!("{stage}: time, us each"), each(s.seconds), 2);
    add(format!("{stage}:   handling"), each(s.time.handle), 2);
    add(format!("{stage}:   publishing"), each(s.time.publish), 2);
    add(format!("{stage}:   saving"), each(s.time.save), 2);
    add(format!("{stage}:   fetching and waiting"), each(s.time.fetch_and_wait), 2);
    add(format!("{stage}: CPU of starting, s"), s.start_up_cpu_seconds, 2);
    add(format!("{stage}: peak memory, MiB"), s.peak_memory_mib, 0);
}

fn of_waits(what: &str, waits: &Waits, add: &mut impl FnMut(String, f64, usize)) {
    add(format!("{what}: how many"), waits.count as f64, 0);
    let named = [("p50", waits.p50), ("p99", waits.p99), ("p99.9", waits.p999), ("longest", waits.max)];
    for (name, value) in named {
        if let Some(ms) = value {
            add(format!("{what}: {name}, ms"), ms as f64, 0);
        }
    }
}
