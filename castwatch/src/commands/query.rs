//! `castwatch query`: defects and alerts by machine, die, time, shift and cause.
//!
//! **What is listed streams**: a page is printed before the next one is asked for, and pages have
//! neither holes nor repeats while the line goes on.

mod range;
mod sheet;

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use castwatch_core::ports::{Kept, RecordQuery, Told};
use castwatch_core::{Objects, Records};
use castwatch_ingest::Plant;
use jiff::tz::TimeZone;

use crate::cli::{Query, QueryArgs};
use crate::commands::{runtime, say, settings};
use crate::stores::Stores;

use range::Range;
use sheet::{Form, Row, Sheet};

/// How many are asked for at once.
const PAGE: u64 = 100;
/// How long a link to a chart is good for.
const LINK: Duration = Duration::from_secs(3600);

/// What is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Defects,
    Alerts,
}

/// A question, as it was understood.
#[derive(Debug)]
struct Plan {
    what: What,
    query: RecordQuery,
    /// At most so many.
    most: u64,
    links: bool,
    zone: TimeZone,
}

/// Lists what is asked for.
///
/// # Errors
/// When the question makes no sense, or the store can't be read.
pub fn run(query: &Query) -> Result<()> {
    let (what, args) = match query {
        Query::Defects(args) => (What::Defects, args),
        Query::Alerts(args) => (What::Alerts, args),
    };
    let plan = plan(what, args)?;
    let form = match (args.common.json, args.csv) {
        (true, _) => Form::Json,
        (_, true) => Form::Csv,
        _ => Form::Table(args.lang),
    };
    let settings = settings(&args.common)?;
    runtime()?.block_on(async {
        let stores = Stores::open_existing(&settings).await?;
        let screen = std::io::stdout().lock();
        let listed = list(&stores.records, &stores.objects, &plan, form, screen).await?;
        if let (Form::Table(_), Some(next)) = (form, &listed.next) {
            say(format_args!("older ones follow: --all, a higher --limit, or --before '{next}'"));
        }
        if args.links && listed.linkless > 0 {
            let folder = settings.data.join("objects");
            say(format_args!("this store has no addresses; charts are files under {}", folder.display()));
        }
        Ok(())
    })
}

fn plan(what: What, args: &QueryArgs) -> Result<Plan> {
    let plant = args.plant.as_ref().map(Plant::load).transpose()?;
    let zone = plant.as_ref().map_or_else(TimeZone::system, range::zone);
    let Range { from, to } = range::range(args, plant.as_ref(), &zone)?;
    let cause = args.cause.as_ref().map(|name| match &plant {
        Some(plant) => range::reading(plant, name),
        None => name.clone(),
    });
    let told = match what {
        _ if args.pending => Some(Told::Pending),
        _ if args.told => Some(Told::Told),
        What::Alerts => Some(Told::Told),
        What::Defects => None,
    };
    let query = RecordQuery {
        machine: args.machine.clone(),
        die: args.die.clone(),
        cause,
        from,
        to,
        told,
        before: args.before.clone(),
        limit: 0,
    };
    let most = if args.all { u64::MAX } else { args.limit };
    Ok(Plan { what, query, most, links: args.links, zone })
}

/// How a list ended.
#[derive(Debug, Default, PartialEq, Eq)]
struct Listed {
    /// Where it goes on.
    next: Option<String>,
    /// Charts that have no address.
    linkless: u64,
}

/// Prints what the plan asks for, page by page.
async fn list<R: Records, O: Objects>(
    records: &R,
    objects: &O,
    plan: &Plan,
    form: Form,
    screen: impl Write,
) -> Result<Listed> {
    let mut sheet = Sheet::new(plan.what, form, plan.links, plan.zone.clone(), screen)?;
    let mut query = plan.query.clone();
    let (mut left, mut listed) = (plan.most, Listed::default());
    loop {
        query.limit = left.min(PAGE) as usize;
        let page = records.list(&query).await.context("reading the records")?;
        left -= page.defects.len() as u64;
        let mut rows = Vec::with_capacity(page.defects.len());
        for kept in page.defects {
            let link = if plan.links { link(objects, &kept).await? } else { None };
            listed.linkless += u64::from(plan.links && kept.record.chart.is_some() && link.is_none());
            rows.push(Row { kept, link });
        }
        sheet.rows(&rows)?;
        query.before = page.next;
        if query.before.is_none() || left == 0 {
            break;
        }
    }
    listed.next = query.before;
    sheet.end(listed.next.as_deref())?;
    Ok(listed)
}

/// The address of a defect's chart.
async fn link<O: Objects>(objects: &O, kept: &Kept) -> Result<Option<String>> {
    match &kept.record.chart {
        Some(key) => objects.link(key, LINK).await.with_context(|| format!("making a link to {key}")),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests;
