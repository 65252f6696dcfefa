//! Sealing and opening one MESSAGE by the machines of an established noise connection, beside the
//! raw AEAD of the same crate over as many bytes, in one run: `cargo bench -p falco-tests --bench
//! noise`. Ratios are printed last, from rounds in which both take turns.
//!
//! Times vary with the machine, so the limits that CI checks are on instruction counts: see the
//! script `instructions`.

mod work;

use core::time::Duration;
use std::time::Instant;

use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, measurement::WallTime};
use work::{HEAD, Machines, Raw, SIZES};

/// As many messages at once as fit the second level of a cache, up to 64.
fn places(size: usize) -> usize {
    ((1 << 19) / size).clamp(4, 64)
}

/// The time of one pass of each: requests sealed and opened, answers sealed and opened.
fn machine_pass(machines: &mut Machines) -> [Duration; 4] {
    let start = Instant::now();
    machines.seal_requests();
    let sealed = Instant::now();
    machines.open_requests();
    let opened = Instant::now();
    machines.seal_answers();
    let answered = Instant::now();
    machines.open_answers();
    [sealed - start, opened - sealed, answered - opened, answered.elapsed()]
}

/// The time of one pass of each: texts sealed and opened.
fn raw_pass(raw: &mut Raw) -> [Duration; 2] {
    let start = Instant::now();
    raw.seal_texts();
    let sealed = Instant::now();
    raw.open_texts();
    [sealed - start, sealed.elapsed()]
}

/// Has criterion time one step of a pass, per message.
fn bench(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, size: usize, mut pass: impl FnMut() -> Duration) {
    group.throughput(Throughput::Bytes(u64::try_from(size).expect("a size")));
    let places = u64::try_from(places(size)).expect("a number");
    group.bench_function(BenchmarkId::new(name, size), |bencher| {
        bencher.iter_custom(|count| {
            // Whole passes, cut to the number asked for.
            let passes = count.div_ceil(places);
            let time: Duration = (0..passes).map(|_| pass()).sum();
            time.mul_f64(ratio(count, passes * places))
        });
    });
}

fn ratio(of: u64, to: u64) -> f64 {
    Duration::from_nanos(of).div_duration_f64(Duration::from_nanos(to))
}

/// The median of the ratios of rounds in which both work, one after the other: a message of `size`
/// bytes over a text of `text` bytes.
fn overheads(size: usize, text: usize) -> [f64; 4] {
    const ROUNDS: usize = 401;
    let mut machines = Machines::new(size, places(size));
    let mut raw = Raw::new(text, places(size));
    let passes = 1 + 4_096 / size;
    let mut ratios = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        let mut times = [Duration::ZERO; 6];
        for _ in 0..passes {
            let now = machine_pass(&mut machines).into_iter().chain(raw_pass(&mut raw));
            times.iter_mut().zip(now).for_each(|(sum, time)| *sum += time);
        }
        let [a, b, c, d, seal, open] = times;
        for (ratios, (machine, raw)) in ratios.iter_mut().zip([(a, seal), (b, open), (c, seal), (d, open)]) {
            ratios.push(machine.div_duration_f64(raw));
        }
    }
    ratios.map(|mut ratios| {
        ratios.sort_by(f64::total_cmp);
        ratios.get(ROUNDS / 2).copied().unwrap_or(f64::NAN)
    })
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    for (name, step) in [("seal", 0), ("open", 1)] {
        let mut group = criterion.benchmark_group(name);
        for size in SIZES {
            let mut machines = Machines::new(size, places(size));
            let mut raw = Raw::new(size, places(size));
            let at = |times: &[Duration]| times.get(step).copied().unwrap_or_default();
            bench(&mut group, "machine", size, || at(&machine_pass(&mut machines)));
            bench(&mut group, "raw AEAD", size, || at(&raw_pass(&mut raw)));
        }
        group.finish();
    }
    criterion.final_summary();
    println!(
        "machine / raw AEAD by time, over a text of so many bytes: the body, and the body with the {HEAD} bytes of its frame's head"
    );
    println!("   bytes      over   seal request   open request   seal answer   open answer");
    for size in SIZES {
        for text in [size, size + HEAD] {
            let ratios = overheads(size, text);
            let [a, b, c, d] = ratios;
            let verdict = limit(size).map_or(String::new(), |limit| {
                let within = ratios.iter().all(|ratio| *ratio <= limit);
                format!("   {} {limit}", if within { "within" } else { "OVER" })
            });
            println!("{size:8}  {text:8}   {a:12.3}   {b:12.3}   {c:11.3}   {d:11.3}{verdict}");
        }
    }
}

/// What a message may cost over the raw AEAD for the text that its record has.
fn limit(size: usize) -> Option<f64> {
    match size {
        64 => Some(1.15),
        16_384 => Some(1.03),
        _ => None,
    }
}
