//! The distribution of latencies as an SVG: how many requests took how long, on a logarithmic axis,
//! with the percentiles marked.

use core::fmt::Write as _;
use core::time::Duration;

use super::load::Counts;
use super::report::{Measured, QUANTILES, grouped, requests};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 480.0;
/// The edges of the plot. On its right is room for the name of a percentile.
const LEFT: f64 = 76.0;
const RIGHT: f64 = 836.0;
const TOP: f64 = 178.0;
const BOTTOM: f64 = 410.0;
/// The vertical position of the first percentile's name, and the distance to the next.
const LABELS: f64 = 92.0;
const LABEL_STEP: f64 = 19.0;
const BARS: u32 = 96;

/// The style sheet.
const STYLE: &str = "\
text { font-family: system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif; font-size: 13px; fill: #333; }
.title { font-size: 19px; font-weight: 600; fill: #111; }
.quiet { fill: #666; }
.value { font-weight: 600; fill: #111; }
.grid { stroke: #e4e4e4; }
.axis { stroke: #888; }
.bar { fill: #4c7fb0; }
.mark { stroke: #c2562d; stroke-width: 1.5; stroke-dasharray: 4 3; }
";

/// A latency axis, logarithmic, in nanoseconds.
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    /// From the minimum to the maximum, and at least a factor of four.
    fn of(counts: &Counts) -> Self {
        let (low, high) = (nanos(counts.quantile(0.0)), nanos(counts.quantile(1.0)));
        let (low, high) = (low.max(1.0) * 0.9, high.max(2.0) * 1.1);
        let short = (4.0 * low / high).max(1.0).sqrt();
        Self {
            low: low / short,
            high: high * short,
        }
    }

    fn x(&self, nanos: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * (nanos / self.low).ln() / (self.high / self.low).ln()
    }

    /// The left edge of a bar.
    fn edge(&self, bar: u32) -> f64 {
        self.low * (self.high / self.low).powf(f64::from(bar) / f64::from(BARS))
    }

    /// 1, 2 and 5 of each decade; only 1 on a long axis, and more on a short one.
    fn ticks(&self) -> Vec<f64> {
        let steps: &[f64] = match self.high / self.low {
            range if range > 1e5 => &[1.0],
            range if range > 20.0 => &[1.0, 2.0, 5.0],
            _ => &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0],
        };
        let mut ticks = Vec::new();
        let mut decade = 1.0;
        while decade < self.high {
            ticks.extend(steps.iter().map(|step| step * decade));
            decade *= 10.0;
        }
        ticks.retain(|tick| (self.low..=self.high).contains(tick));
        ticks
    }
}

/// Draws the picture.
pub(super) fn draw(measured: &Measured) -> String {
    let counts = &measured.counts;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\">\n\
         <title>Latency of requests to {address}</title>\n<style>\n{STYLE}</style>\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n",
        address = escaped(&measured.address),
    );
    let rate = grouped(measured.per_second(counts.answered));
    let title = format!("{}, {rate} per second", requests(counts.answered));
    text(&mut svg, 24.0, 36.0, "title", &title);
    let about = format!(
        "{}, {:.1} s, {}",
        measured.title(),
        measured.elapsed.as_secs_f64(),
        measured.address
    );
    text(&mut svg, 24.0, 60.0, "quiet", &about);
    if counts.answered == 0 {
        text(&mut svg, LEFT, 240.0, "quiet", "No request was answered.");
    } else {
        let axis = Axis::of(counts);
        bars(&mut svg, counts, &axis);
        scale(&mut svg, &axis);
        marks(&mut svg, counts, &axis);
    }
    svg.push_str("</svg>\n");
    svg
}

/// The bars and the vertical axis.
fn bars(svg: &mut String, counts: &Counts, axis: &Axis) {
    let share = |bar: u32| {
        // The right edge belongs to the next bar.
        let (from, to) = (whole(axis.edge(bar)), whole(axis.edge(bar + 1)).saturating_sub(1));
        100.0 * super::real(counts.latencies.count_between(from, to)) / super::real(counts.answered)
    };
    let shares: Vec<f64> = (0..BARS).map(share).collect();
    let most = shares.iter().copied().fold(0.0, f64::max).max(1e-9);
    let step = step_of(most);
    let top = step * (most / step).ceil();
    let y = |share: f64| BOTTOM - (BOTTOM - TOP) * share / top;
    let mut tick = 0.0;
    while tick <= top + step / 2.0 {
        line(svg, "grid", [LEFT, y(tick), RIGHT, y(tick)]);
        anchored(svg, LEFT - 8.0, y(tick) + 4.5, "end", "", &format!("{}%", short(tick)));
        tick += step;
    }
    for (bar, share) in (0..BARS).zip(shares).filter(|(_, share)| *share > 0.0) {
        let (left, right) = (axis.x(axis.edge(bar)), axis.x(axis.edge(bar + 1)));
        // A bar that is not empty is visible.
        let height = (BOTTOM - y(share)).max(1.5);
        let _ = writeln!(
            svg,
            "<rect class=\"bar\" x=\"{left:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"/>",
            BOTTOM - height,
            right - left - 0.8,
        );
    }
    let _ = writeln!(
        svg,
        "<text class=\"quiet\" text-anchor=\"middle\" transform=\"translate(20 {:.1}) rotate(-90)\">share of requests</text>",
        f64::midpoint(TOP, BOTTOM),
    );
}

/// The horizontal axis.
fn scale(svg: &mut String, axis: &Axis) {
    line(svg, "axis", [LEFT, BOTTOM, RIGHT, BOTTOM]);
    for tick in axis.ticks() {
        let x = axis.x(tick);
        line(svg, "axis", [x, BOTTOM, x, BOTTOM + 5.0]);
        anchored(svg, x, BOTTOM + 21.0, "middle", "", &latency(tick));
    }
    let middle = f64::midpoint(LEFT, RIGHT);
    anchored(svg, middle, BOTTOM + 48.0, "middle", "quiet", "latency, logarithmic");
}

/// A line for each percentile. Its name and value are on the right of the line, each in a row of
/// its own, so that they do not overlap.
fn marks(svg: &mut String, counts: &Counts, axis: &Axis) {
    let mut row = LABELS;
    for (name, quantile) in QUANTILES.into_iter().chain([("max", 1.0)]) {
        let value = nanos(counts.quantile(quantile));
        let x = axis.x(value);
        line(svg, "mark", [x, row - 9.0, x, BOTTOM]);
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{row:.1}\">{name} <tspan class=\"value\">{}</tspan></text>",
            x + 6.0,
            latency(value),
        );
        row += LABEL_STEP;
    }
}

fn text(svg: &mut String, x: f64, y: f64, class: &str, words: &str) {
    anchored(svg, x, y, "start", class, words);
}

fn anchored(svg: &mut String, x: f64, y: f64, anchor: &str, class: &str, words: &str) {
    let words = escaped(words);
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"
    );
}

fn line(svg: &mut String, class: &str, [x1, y1, x2, y2]: [f64; 4]) {
    let _ = writeln!(
        svg,
        "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
    );
}

/// A step of 1, 2 or 5 times a power of ten. At most five steps reach `most`.
fn step_of(most: f64) -> f64 {
    let decade = 10.0_f64.powf((most / 4.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    steps
        .map(|step| step * decade)
        .into_iter()
        .find(|step| most / step <= 5.0)
        .unwrap_or(decade)
}

/// A latency with three digits, in a unit of suitable size.
fn latency(nanos: f64) -> String {
    let (value, unit) = match nanos {
        nanos if nanos < 1e3 => (nanos, "ns"),
        nanos if nanos < 1e6 => (nanos / 1e3, "µs"),
        nanos if nanos < 1e9 => (nanos / 1e6, "ms"),
        nanos => (nanos / 1e9, "s"),
    };
    format!("{} {unit}", short(value))
}

/// A number to three digits, without zeros at its end.
fn short(value: f64) -> String {
    let text = match value {
        value if value >= 100.0 => return format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn nanos(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

/// A number of nanoseconds without its fraction.
fn whole(nanos: f64) -> u64 {
    let time = Duration::try_from_secs_f64(nanos / 1e9).unwrap_or_default();
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn escaped(words: &str) -> String {
    words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
