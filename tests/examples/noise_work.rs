//! The work of the benchmarks without a clock, for a profiler that counts instructions: `noise_work
//! machine|raw SIZE ROUNDS`. In each round one message goes to the server and one comes back, or
//! one text is sealed and opened. The script `benches/instructions` counts the methods one by one.
//! `noise_work sizes 0 0` says which sizes the benchmarks have.

#[path = "../benches/work/mod.rs"]
mod work;

use work::{Machines, Raw};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [what, size, rounds] = words.as_slice() else {
        panic!("machine|raw|sizes SIZE ROUNDS");
    };
    let (size, rounds) = (size.parse().expect("a size"), rounds.parse().expect("a number"));
    match what.as_str() {
        "machine" => {
            let mut machines = Machines::new(size, 1);
            for _ in 0..rounds {
                machines.seal_requests();
                machines.open_requests();
                machines.seal_answers();
                machines.open_answers();
            }
        }
        "raw" => {
            let mut raw = Raw::new(size, 1);
            for _ in 0..rounds {
                raw.seal_texts();
                raw.open_texts();
            }
        }
        "sizes" => println!("{:?} and {} more in a record", work::SIZES, work::HEAD),
        _ => panic!("machine, raw or sizes, not {what}"),
    }
}
