//! Bar charts of what `run --json` wrote, as SVG.

use core::fmt::{self, Write as _};

use crate::Failure;
use crate::args::ChartArgs;
use crate::contender::Contender;
use crate::report::number;
use crate::results::{Results, Summary, headline};
use crate::workload::Workload;

/// Writes one chart for each workload that was measured.
pub(crate) fn chart(order: &ChartArgs) -> Result<(), Failure> {
    let results: Results = serde_json::from_str(&std::fs::read_to_string(&order.json)?)?;
    std::fs::create_dir_all(&order.out)?;
    for workload in Workload::ALL {
        let (unit, value) = headline(workload);
        let measured = |contender| {
            Some(Bar {
                contender,
                value: results.summary(workload, contender, value)?,
            })
        };
        let bars: Vec<_> = Contender::ALL.into_iter().filter_map(measured).collect();
        if bars.is_empty() {
            continue;
        }
        let path = order.out.join(format!("{}.svg", workload.name()));
        std::fs::write(&path, draw(workload, unit, &results, &bars)?)?;
        println!("{}", path.display());
    }
    Ok(())
}

struct Bar {
    contender: Contender,
    value: Summary,
}

// All lengths are in pixels.
const WIDTH: f64 = 760.0;
const LEFT: f64 = 110.0;
const RIGHT: f64 = 90.0;
const TOP: f64 = 62.0;
const ROW: f64 = 28.0;
const THICK: f64 = 18.0;
const BOTTOM: f64 = 34.0;

fn draw(workload: Workload, unit: &str, results: &Results, bars: &[Bar]) -> Result<String, fmt::Error> {
    let most = bars.iter().map(|bar| bar.value.max).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - LEFT - RIGHT) / most;
    let bottom = bars.iter().fold(TOP, |height, _| height + ROW);
    let height = bottom + BOTTOM;
    let mut svg = String::new();
    writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}">"#
    )?;
    writeln!(
        svg,
        "<style>text {{ font: 13px sans-serif; fill: #24292f }} .small {{ font-size: 11px; fill: #57606a }} .title {{ font-weight: bold }}</style>"
    )?;
    writeln!(svg, r##"<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>"##)?;
    writeln!(svg, r#"<text x="12" y="24" class="title">{}</text>"#, workload.title())?;
    writeln!(
        svg,
        r#"<text x="12" y="44" class="small">{unit}; the line is the range of all rounds</text>"#
    )?;
    let mut y = TOP;
    for bar in bars {
        let Summary { median, min, max } = bar.value;
        let middle = y + THICK / 2.0;
        let (from, to) = (LEFT + min.max(0.0) * scale, LEFT + max.max(0.0) * scale);
        writeln!(
            svg,
            r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
            LEFT - 8.0,
            middle + 4.5,
            bar.contender
        )?;
        writeln!(
            svg,
            r#"<rect x="{LEFT}" y="{y:.1}" width="{:.1}" height="{THICK}" fill="{}"/>"#,
            median.max(0.0) * scale,
            colour(bar.contender)
        )?;
        writeln!(
            svg,
            r##"<path d="M{from:.1} {middle:.1}H{to:.1}" stroke="#24292f" stroke-width="1.5"/>"##
        )?;
        writeln!(
            svg,
            r#"<text x="{:.1}" y="{:.1}">{}</text>"#,
            to + 8.0,
            middle + 4.5,
            number(median)
        )?;
        y += ROW;
    }
    let cores = if results.cores == 1 {
        "one core for both ends"
    } else {
        "one core for each end"
    };
    let note = format!(
        "{}, {cores}, FalcoTCP with {}",
        results.machine.processor, results.provider
    );
    writeln!(
        svg,
        r#"<text x="12" y="{:.1}" class="small">{}</text>"#,
        bottom + 18.0,
        escape(&note)
    )?;
    writeln!(svg, "</svg>")?;
    Ok(svg)
}

const fn colour(contender: Contender) -> &'static str {
    match contender {
        Contender::Plain | Contender::PlainStd => "#8c959f",
        Contender::FalcoTokio | Contender::FalcoCore | Contender::FalcoStd => "#0969da",
        Contender::Rustls
        | Contender::RustlsFirst
        | Contender::Snow
        | Contender::Tarpc
        | Contender::Tonic
        | Contender::Falcotcp => "#bf8700",
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
