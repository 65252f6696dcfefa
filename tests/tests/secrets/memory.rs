//! The writable memory of another process, and a search in it.

use std::collections::BTreeMap;
use std::fs::{File, read_to_string};
use std::os::unix::fs::FileExt;

use super::needles::Needle;

/// Where a needle was found: its address, and what is mapped there.
pub(crate) struct Found<'n> {
    pub(crate) needle: &'n Needle,
    pub(crate) address: u64,
    pub(crate) region: String,
}

/// Bytes that are read at once. Pieces overlap, so that a needle on a border is found.
const PIECE: usize = 1 << 20;

/// Finds each place of each needle in the writable memory of the process. It also says how many
/// bytes were looked at.
pub(crate) fn search(process: u32, needles: &[Needle]) -> (Vec<Found<'_>>, u64) {
    let mut by_start: BTreeMap<[u8; 8], Vec<&Needle>> = BTreeMap::new();
    // Most places are passed over by their first two bytes.
    let mut begins = vec![false; 1 << 16];
    for needle in needles {
        let start = *needle.bytes.first_chunk().expect("16 bytes");
        by_start.entry(start).or_default().push(needle);
        begins[usize::from(u16::from_ne_bytes([start[0], start[1]]))] = true;
    }
    let maps = read_to_string(format!("/proc/{process}/maps")).expect("the process lives");
    let memory = File::open(format!("/proc/{process}/mem")).expect("the memory of a child can be read");
    let (mut found, mut looked) = (Vec::new(), 0);
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ').expect("a range");
        if !rest.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-').expect("two ends");
        let parse = |text| u64::from_str_radix(text, 16).expect("hexadecimal");
        let (mut at, to) = (parse(from), parse(to));
        while at < to {
            let length = usize::try_from(to - at).expect("it fits").min(PIECE);
            let mut piece = vec![0; length];
            let read = memory.read_at(&mut piece, at).unwrap_or(0);
            if read < 16 {
                break;
            }
            for (offset, window) in piece[..read].windows(16).enumerate() {
                let begin = u16::from_ne_bytes([window[0], window[1]]);
                if !begins[usize::from(begin)] {
                    continue;
                }
                let start: &[u8; 8] = window.first_chunk().expect("16 bytes");
                for needle in by_start.get(start).into_iter().flatten() {
                    if needle.bytes == window {
                        found.push(Found {
                            needle,
                            address: at + u64::try_from(offset).expect("it fits"),
                            region: line.to_owned(),
                        });
                    }
                }
            }
            looked += u64::try_from(read - 15).expect("it fits");
            at += u64::try_from(read - 15).expect("it fits");
            if read < length || at + 15 >= to {
                break;
            }
        }
    }
    (found, looked)
}
