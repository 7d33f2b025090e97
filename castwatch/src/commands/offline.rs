//! `castwatch score`, `explain` and `features`: the line's own judge over a file.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use castwatch_core::Verdict;
use castwatch_core::payload::Explanation;
use castwatch_core::runner::chain;
use castwatch_explainer::{Lang, chart};
use castwatch_ingest::{Plant, Row, RowError, Table};
use castwatch_models::Bundle;
use castwatch_scorer::{Case, Judge};
use serde::Serialize;

use crate::cli;
use crate::commands::{bundle_dir, out, progress, say};

/// Rows judged at once: what the line takes in one batch.
const BATCH: usize = 512;

/// What a command over a file did.
#[derive(Debug, Default, Serialize)]
pub struct Summary {
    /// Data rows of the file.
    pub rows: u64,
    /// Rows that could not be read; each is named on standard error.
    pub refused: u64,
    /// Rows that repeat an earlier shot.
    pub duplicates: u64,
    /// Shots by verdict.
    pub ok: u64,
    /// Shots by verdict.
    pub suspect: u64,
    /// Shots by verdict.
    pub defect: u64,
    /// Shots by verdict.
    pub unscorable: u64,
    /// Digest of the bundle.
    pub bundle: String,
}

/// What `features` did.
#[derive(Debug, Default, Serialize)]
pub struct FeatureSummary {
    /// Data rows of the file.
    pub rows: u64,
    /// Features of a row.
    pub features: usize,
    /// Rows that could not be read; each is named on standard error.
    pub refused: u64,
    /// Rows that repeat an earlier shot.
    pub duplicates: u64,
}

/// One row of the file after judging.
enum Judged {
    Case(u64, Box<Case>),
    Duplicate(Row),
    Refused(RowError),
}

/// Judges every row of a table in order and hands each on.
fn walk(
    table: &cli::Table,
    bundle: &Arc<Bundle>,
    mut each: impl FnMut(Judged) -> Result<bool>,
) -> Result<()> {
    let plant = Plant::load(&table.plant)?;
    let mut judge = Judge::fresh(Arc::clone(bundle));
    let bar = progress(table.file.display());
    let mut rows = Table::open(&table.file, &plant)?.peekable();
    while rows.peek().is_some() {
        let batch: Vec<Result<Row, RowError>> = rows.by_ref().take(BATCH).collect();
        bar.inc(batch.len() as u64);
        let shots = batch.iter().flatten().map(|row| row.shot.clone());
        let mut cases = judge.judge(shots).into_iter();
        for row in batch {
            let judged = match row {
                Err(error @ RowError::Broken { .. }) => return Err(error.into()),
                Err(error) => Judged::Refused(error),
                Ok(row) => match cases.next().flatten() {
                    Some(case) => Judged::Case(row.number, Box::new(case)),
                    None => Judged::Duplicate(row),
                },
            };
            if !each(judged)? {
                bar.finish_and_clear();
                return Ok(());
            }
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// `castwatch score`.
pub fn score(args: &cli::Score) -> Result<()> {
    let bundle = crate::line::bundle(&bundle_dir(args.bundle.as_deref())?)?;
    // Beside the old file until it is whole: scores of before are not lost to a wrong input.
    let beside = beside(&args.out);
    let mut csv = create(&beside)?;
    writeln!(csv, "row,machine,die,cycle,ended_at,try_shot,probability,anomaly,verdict,bundle")?;
    let mut summary = Summary { bundle: bundle.digest().into(), ..Summary::default() };
    let walked = walk(&args.table, &bundle, |judged| {
        summary.rows += 1;
        let (number, shot, score) = match &judged {
            Judged::Case(number, case) => (*number, &case.shot, Some(case.score(&bundle))),
            Judged::Duplicate(row) => (row.number, &row.shot, None),
            Judged::Refused(error) => {
                summary.refused += 1;
                say(chain(error));
                writeln!(csv, "{},,,,,,,,refused,{}", error.number(), bundle.digest())?;
                return Ok(true);
            }
        };
        let verdict = score.as_ref().map_or("duplicate", |s| s.verdict.as_str());
        match score.as_ref().map(|s| s.verdict) {
            None => summary.duplicates += 1,
            Some(Verdict::Ok) => summary.ok += 1,
            Some(Verdict::Suspect) => summary.suspect += 1,
            Some(Verdict::Defect) => summary.defect += 1,
            Some(Verdict::Unscorable) => summary.unscorable += 1,
        }
        let number_or_blank = |value: Option<f64>| value.map_or_else(String::new, |v| v.to_string());
        writeln!(
            csv,
            "{number},{},{},{},{},{},{},{},{verdict},{}",
            cell(&shot.machine),
            cell(&shot.die),
            shot.cycle,
            shot.ended_at,
            shot.try_shot,
            number_or_blank(score.as_ref().and_then(|s| s.probability)),
            number_or_blank(score.as_ref().and_then(|s| s.anomaly)),
            bundle.digest()
        )?;
        Ok(true)
    });
    if walked.is_err() && beside != args.out {
        // What is left of it would look whole.
        let _ = std::fs::remove_file(&beside);
    }
    walked?;
    csv.flush().with_context(|| format!("writing {}", args.out.display()))?;
    put_in_place(&beside, &args.out)?;
    if args.json {
        return out(&summary);
    }
    say(format_args!(
        "{} rows: {} ok, {} suspect, {} defect, {} unscorable, {} duplicates, {} refused → {}",
        summary.rows,
        summary.ok,
        summary.suspect,
        summary.defect,
        summary.unscorable,
        summary.duplicates,
        summary.refused,
        args.out.display()
    ));
    Ok(())
}

/// `castwatch explain`.
pub fn explain(args: &cli::Explain) -> Result<()> {
    let bundle = crate::line::bundle(&bundle_dir(args.bundle.as_deref())?)?;
    let mut found = None;
    walk(&args.table, &bundle, |judged| {
        match judged {
            Judged::Case(number, case) if number == args.row => found = Some(*case),
            Judged::Duplicate(row) if row.number == args.row => {
                bail!("row {} repeats an earlier shot of its machine; explain that one", args.row)
            }
            Judged::Refused(error) if error.number() == args.row => return Err(error.into()),
            _ => return Ok(true),
        }
        Ok(false)
    })?;
    let Some(case) = found else {
        bail!("{} has no row {}; rows are numbered from 1", args.table.file.display(), args.row)
    };
    let score = case.score(&bundle);
    if let Some(reason) = &score.reason {
        bail!("row {} is unscorable: {reason}", args.row)
    }
    let explanation = castwatch_explainer::explain(&bundle, &case.defect(score))?;
    let lang = match args.lang {
        cli::Language::Ko => Lang::Ko,
        cli::Language::En => Lang::En,
    };
    if let Some(file) = &args.chart {
        let bytes = match file.extension().and_then(|e| e.to_str()) {
            Some("svg") => chart::svg(&explanation, lang).into_bytes(),
            Some("png") => chart::png(&explanation, lang),
            _ => bail!("{} is neither .png nor .svg", file.display()),
        };
        std::fs::write(file, bytes).with_context(|| format!("writing {}", file.display()))?;
    }
    if args.json { out(&explanation) } else { tell(&explanation, lang) }
}

fn tell(explanation: &Explanation, lang: Lang) -> Result<()> {
    let mut screen = std::io::stdout().lock();
    let score = &explanation.score;
    let verdict = match lang {
        Lang::Ko => score.verdict.korean(),
        Lang::En => score.verdict.as_str(),
    };
    writeln!(screen, "{verdict}  {}", lang.of(&explanation.summary))?;
    writeln!(screen, "{}  {}\n", lang.of(&explanation.equipment), lang.of(&explanation.advice))?;
    for a in explanation.attributions.iter().take(12) {
        let value = a.value.map_or_else(|| "-".into(), |v| format!("{v:.1}"));
        let usual = a.usual.map_or_else(String::new, |u| format!("{:.1} ± {:.1}", u.centre, u.spread));
        writeln!(
            screen,
            "{:+8.3}  {:>9} {:<6} {usual:<18} {}",
            a.contribution,
            value,
            a.unit,
            lang.of(&a.name)
        )?;
    }
    let margin = score.margin.unwrap_or_default();
    writeln!(
        screen,
        "{:+8.3}  base\n{margin:+8.3}  log-odds, probability {:.3}",
        explanation.base,
        score.probability.unwrap_or_default()
    )?;
    Ok(())
}

/// `castwatch features`.
pub fn features(args: &cli::Features) -> Result<()> {
    let dir = bundle_dir(args.bundle.as_deref())?;
    let bundle = if args.attributions {
        crate::line::bundle(&dir)?
    } else {
        Arc::new(Bundle::draft(&dir).with_context(|| format!("loading the bundle {}", dir.display()))?)
    };
    let model = args.attributions.then_some(&*bundle);
    let plant = Plant::load(&args.table.plant)?;
    let mut writer = super::table::Writer::create(&args.out, &bundle, model)?;
    let mut judge = Judge::fresh(Arc::clone(&bundle));
    let mut summary = FeatureSummary { features: bundle.features().len(), ..FeatureSummary::default() };
    let bar = progress(args.table.file.display());
    for row in Table::open(&args.table.file, &plant)? {
        bar.inc(1);
        summary.rows += 1;
        let row = match row {
            Ok(row) => row,
            Err(error @ RowError::Broken { .. }) => return Err(error.into()),
            Err(error) => {
                summary.refused += 1;
                say(chain(&error));
                continue;
            }
        };
        match judge.features(&row.shot) {
            None => summary.duplicates += 1,
            Some(features) => {
                let attributions = model.map(|b| b.attribute(&features.values)).transpose()?;
                writer.row(&row, &features, attributions.as_ref())?;
            }
        }
    }
    bar.finish_and_clear();
    writer.finish().with_context(|| format!("writing {}", args.out.display()))?;
    if args.json {
        return out(&summary);
    }
    say(format_args!(
        "{} rows, {} features, {} duplicates, {} refused → {}",
        summary.rows,
        bundle.features().len(),
        summary.duplicates,
        summary.refused,
        args.out.display()
    ));
    Ok(())
}

/// Where a file is written until it is whole. What is no file, such as `/dev/null`, is written itself.
fn beside(path: &Path) -> PathBuf {
    if path.exists() && !path.is_file() {
        return path.to_owned();
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

fn put_in_place(from: &Path, to: &Path) -> Result<()> {
    if from == to {
        return Ok(());
    }
    std::fs::rename(from, to).with_context(|| format!("moving {} to {}", from.display(), to.display()))
}

/// A file for writing, with its name in the error.
pub fn create(path: &Path) -> Result<BufWriter<File>> {
    Ok(BufWriter::new(File::create(path).with_context(|| format!("creating {}", path.display()))?))
}

/// A text as a CSV cell.
pub fn cell(text: &str) -> String {
    if text.contains([',', '"', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}
