//! The recipes of docs/analysts.md do what they say, and none of them scans.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "common/dynamodb.rs"]
mod common;

use std::collections::BTreeSet;

use aws_sdk_dynamodb::Client;
use castwatch_core::Records;
use castwatch_core::ports::Claim;
use castwatch_platform::{Embedded, embedded};
use common::{alert, client, drop_table, endpoint, record, settings, table};

const DOCUMENT: &str = include_str!("../../docs/analysts.md");
/// The shot that recipes name.
const SHOT: &str = "DCM-03~8722~20260115T074506Z~258";
/// Defects in the store; a recipe's key covers a small part of them.
const DEFECTS: u64 = 200;
const FEW: usize = 40;

/// The blocks of a language, each with the line above it.
fn recipes(language: &str) -> Vec<(&'static str, &'static str)> {
    let fence = format!("\n```{language}\n");
    let mut recipes = Vec::new();
    for (at, _) in DOCUMENT.match_indices(&fence) {
        let above = DOCUMENT[..at].trim_end().rsplit('\n').next().unwrap();
        let code = DOCUMENT[at + fence.len()..].split("\n```").next().unwrap();
        recipes.push((above, code));
    }
    recipes
}

/// Defects of 20 machines and 20 dies over 10 days; every fifth is pending. Recipes ask for 10 to 20 of them.
async fn fill(records: &impl Records) {
    for n in 0..DEFECTS {
        let (machine, die) =
            (format!("DCM-{:02}", n % 20), if n % 20 == 3 { "8722".into() } else { format!("D{}", n % 19) });
        let cause = ["cast_pressure", "sleeve_temperature"][(n / 20 % 2) as usize];
        let at = format!("2026-01-{:02}T{:02}:45:06Z", 11 + n % 7, n / 20);
        let mut one = record(&machine, &die, &at, n, cause);
        if n == 63 {
            one = record("DCM-03", "8722", "2026-01-15T07:45:06Z", 258, "cast_pressure");
            one.score.shot = castwatch_core::ShotId::from_text(SHOT);
        }
        one.attributions = vec![serde_json::from_value(serde_json::json!({
            "reading": cause, "name": {"ko": "이름", "en": "name"}, "unit": "bar", "value": 1.0, "usual": null,
            "contribution": 0.5,
        }))
        .unwrap()];
        records.put(&one).await.unwrap();
        if n % 5 > 0 {
            records.told(&alert(&one)).await.unwrap();
        }
    }
    let claim = format!("alert:{SHOT}#mes");
    assert_eq!(records.claim(&claim).await.unwrap(), Claim::Fresh);
    records.settle(&claim).await.unwrap();
}

/// What a statement gives, and how many items were looked at for it: with a limit of 1 an answer
/// comes for every item that is looked at, whether it fits or not.
async fn run(client: &Client, statement: &str) -> (Vec<String>, usize) {
    let (mut items, mut looked, mut from) = (Vec::new(), 0, None);
    loop {
        let answer = client.execute_statement().statement(statement).limit(1).set_next_token(from);
        let answer = answer.send().await.unwrap_or_else(|e| panic!("{statement}\n{e:?}"));
        let sorted = |item: &std::collections::HashMap<_, _>| {
            let mut item: Vec<String> =
                item.iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
            item.sort();
            item.join(", ")
        };
        items.extend(answer.items().iter().map(sorted));
        looked += 1;
        from = answer.next_token;
        if from.is_none() {
            return (items, looked);
        }
    }
}

#[tokio::test]
async fn partiql_recipes_read_what_they_give() {
    let Some(endpoint) = endpoint() else { return };
    let settings = settings(&endpoint);
    fill(&table(&settings).await).await;
    let client = client(&endpoint).await;
    let all = run(&client, &format!("SELECT sk FROM \"{}\"", settings.table)).await;
    assert!(all.1 > 200, "a scan looks at everything, {} items, and this counts it", all.1);
    let recipes = recipes("partiql");
    assert!(recipes.len() >= 10, "{recipes:?}");
    for (title, recipe) in recipes {
        let statement = recipe.replace("\"castwatch\"", &format!("\"{}\"", settings.table));
        let Some((before, rest)) = statement.split_once(" IN [") else {
            let (items, looked) = run(&client, &statement).await;
            assert!(!items.is_empty(), "{title} gives nothing");
            assert!(looked <= FEW, "{title} looks at {looked} items for {}", items.len());
            continue;
        };
        // DynamoDB reads the values of IN one by one, as keys; DynamoDB Local reads everything. So
        // each value is asked for by itself.
        let (values, after) = rest.split_once(']').unwrap();
        let mut each = BTreeSet::new();
        for value in values.split(',') {
            let (items, looked) = run(&client, &format!("{before} = {}{after}", value.trim())).await;
            assert!(looked <= FEW, "{title} looks at {looked} items for {}", items.len());
            each.extend(items);
        }
        let (together, _) = run(&client, &statement).await;
        assert!(!each.is_empty(), "{title} gives nothing");
        assert_eq!(together.into_iter().collect::<BTreeSet<_>>(), each, "{title}");
    }
    drop_table(&settings).await;
}

#[tokio::test]
async fn sqlite_recipes_are_served_by_indexes() {
    let folder = tempfile::tempdir().unwrap();
    let log = Embedded::open(folder.path()).unwrap();
    fill(&*log).await;
    let db = rusqlite::Connection::open(folder.path().join(embedded::FILE)).unwrap();
    let recipes = recipes("sqlite");
    assert!(recipes.len() >= 4, "{recipes:?}");
    for (title, recipe) in recipes {
        let mut plan = db.prepare(&format!("EXPLAIN QUERY PLAN {recipe}")).unwrap();
        let plan = plan.query_map([], |row| row.get::<_, String>(3)).unwrap();
        let plan: Vec<String> = plan.map(Result::unwrap).filter(|step| step.contains("records")).collect();
        assert!(plan.iter().all(|step| step.contains("INDEX")), "{title}: {plan:?}");
        let mut select = db.prepare(recipe).unwrap_or_else(|e| panic!("{title}: {e}"));
        let rows = select.query_map([], |_| Ok(())).unwrap().count();
        assert!((1..=DEFECTS as usize / 2).contains(&rows), "{title} gives {rows} rows");
    }
}
