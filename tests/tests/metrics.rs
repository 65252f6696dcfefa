//! The metrics of falco-tokio: the names in its code, those in the table of its documentation, and
//! those that the dashboard `docs/grafana.json` asks for are the same, and so are their labels. The
//! alerts of `docs/operating.md` ask for no others.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::Value;

type Names = BTreeSet<String>;

/// The names of metrics in a text.
fn names(text: &str) -> Names {
    let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    let ours = |word: &&str| word.starts_with("falco_server_") || word.starts_with("falco_client_");
    words.filter(ours).map(str::to_owned).collect()
}

/// The names in literals of a source file. Its comments do not count.
fn reported(code: &str) -> Names {
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let literals = lines.flat_map(|line| line.split('"').skip(1).step_by(2));
    literals.flat_map(names).collect()
}

/// The rows of the table: each metric with its labels.
fn documented(page: &str) -> BTreeMap<String, Names> {
    let mut found = BTreeMap::new();
    for row in page.lines().filter(|line| line.starts_with("//! | `falco_")) {
        let cells: Vec<_> = row.split('|').collect();
        let labels: Names = cells[3].split('`').skip(1).step_by(2).map(str::to_owned).collect();
        for name in names(cells[1]) {
            assert!(
                found.insert(name.clone(), labels.clone()).is_none(),
                "{name} has two rows"
            );
        }
    }
    found
}

/// The name of the metric that a series belongs to: a histogram has several.
fn metric<'n>(series: &'n str, known: &BTreeMap<String, Names>) -> &'n str {
    let suffixes = ["_bucket", "_sum", "_count"].into_iter();
    let mut histograms = suffixes.filter_map(|suffix| series.strip_suffix(suffix));
    let histogram = histograms.find(|name| known.contains_key(*name));
    histogram.unwrap_or(series)
}

/// The queries of a dashboard with their legends.
fn queries(dashboard: &Value) -> Vec<(&str, &str)> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    let texts = targets.map(|target| (target["expr"].as_str(), target["legendFormat"].as_str()));
    texts.map(|(query, legend)| (query.unwrap(), legend.unwrap())).collect()
}

/// The labels that a query groups by, and those in its legend.
fn labels(query: &str, legend: &str) -> Names {
    let groups = query
        .split("by (")
        .skip(1)
        .flat_map(|rest| rest.split(')').next().unwrap().split(", "));
    let shown = legend
        .split("{{")
        .skip(1)
        .map(|rest| rest.split("}}").next().unwrap().trim());
    let all = groups.chain(shown);
    // The buckets of a histogram.
    all.filter(|label| *label != "le").map(str::to_owned).collect()
}

fn sources(directory: &Path, found: &mut Names) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else {
            found.extend(reported(&fs::read_to_string(path).unwrap()));
        }
    }
}

#[test]
fn each_metric_is_documented_and_on_the_dashboard() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut reported = Names::new();
    sources(&root.join("falco-tokio/src"), &mut reported);
    assert!(reported.len() > 20, "{reported:?}");
    let documented = documented(&fs::read_to_string(root.join("falco-tokio/src/lib.rs")).unwrap());
    let rows: Names = documented.keys().cloned().collect();
    let differs: Vec<_> = reported.symmetric_difference(&rows).collect();
    assert!(differs.is_empty(), "only in the code or only documented: {differs:#?}");

    let dashboard: Value = serde_json::from_str(&fs::read_to_string(root.join("docs/grafana.json")).unwrap()).unwrap();
    let mut asked = Names::new();
    for (query, legend) in queries(&dashboard) {
        for series in names(query) {
            let name = metric(&series, &documented);
            let known = documented.get(name);
            let known = known.unwrap_or_else(|| panic!("the dashboard asks for {name}"));
            for label in labels(query, legend) {
                assert!(known.contains(&label), "{name} has no label {label}: {query}");
            }
            asked.insert(name.to_owned());
        }
    }
    let missing: Vec<_> = reported.difference(&asked).collect();
    assert!(missing.is_empty(), "not on the dashboard: {missing:#?}");
}

/// The values of `expr` in the alerts of a page, one line each.
fn alerts(page: &str) -> Vec<String> {
    let (_, rules) = page.split_once("groups:\n").unwrap();
    let (rules, _) = rules.split_once("\nEND\n").unwrap();
    let expressions = rules.split("expr:").skip(1);
    let ends = |rest: &str| {
        rest.lines()
            .take_while(|line| !line.contains("for:") && !line.contains("- alert:"))
            .count()
    };
    expressions
        .map(|rest| rest.lines().take(ends(rest)).collect())
        .collect()
}

#[test]
fn alerts_ask_for_metrics_and_labels_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let documented = documented(&fs::read_to_string(root.join("falco-tokio/src/lib.rs")).unwrap());
    let alerts = alerts(&fs::read_to_string(root.join("docs/operating.md")).unwrap());
    assert!(alerts.len() > 4, "{alerts:?}");
    for query in alerts {
        let asked = names(&query);
        assert!(!asked.is_empty(), "{query}");
        let mut known = Names::new();
        for series in &asked {
            let name = metric(series, &documented);
            let labels = documented.get(name);
            known.extend(labels.unwrap_or_else(|| panic!("an alert asks for {name}")).clone());
        }
        let matched = query
            .split('{')
            .skip(1)
            .map(|rest| rest.split('=').next().unwrap().to_owned());
        for label in labels(&query, "").into_iter().chain(matched) {
            assert!(known.contains(&label), "no label {label}: {query}");
        }
    }
}

#[test]
fn names_and_labels_are_found() {
    let code = "// \"falco_server_no\"\ncounter(\"falco_server_a_total\", \"Of falco_client_b\")";
    assert_eq!(
        reported(code),
        ["falco_server_a_total", "falco_client_b"].map(str::to_owned).into()
    );
    let known = documented("//! | `falco_client_a`, `falco_client_b_count` | gauge | `x`, `y` |");
    let both = ["x", "y"].map(str::to_owned).into();
    assert_eq!(known["falco_client_a"], both);
    assert_eq!(metric("falco_client_a_bucket", &known), "falco_client_a");
    assert_eq!(metric("falco_client_b_count", &known), "falco_client_b_count");
    assert_eq!(labels("sum by (le, x) (rate(z[1m]))", "{{y}} of {{ x }}"), both);
}
