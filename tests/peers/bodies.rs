//! What the messages of the interop tests hold, how the handlers change them, and how each side
//! reports them. Shared by the Rust peers and the tests; `peer.py` says the same in Python. Nothing
//! of the protocol is here.

/// A request body of `size` bytes, another for each size.
pub(crate) fn body(size: usize) -> Vec<u8> {
    (0..size)
        .map(|at| {
            let [low, ..] = (at * 167 + (at >> 8) * 13 + size).to_le_bytes();
            low
        })
        .collect()
}

/// What every handler answers: the body from back to front, each byte changed, and one byte more.
/// So no echo and no answer of the request's length can pass. An empty body stays empty.
pub(crate) fn transform(body: &[u8]) -> Vec<u8> {
    let end = if body.is_empty() { None } else { Some(b'!') };
    body.iter().rev().map(|byte| byte ^ 0x5A).chain(end).collect()
}

/// A line that says which body was seen: `word`, its length, its FNV-1a checksum.
pub(crate) fn report(word: &str, body: &[u8]) -> String {
    let checksum = body.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{word} {} {checksum:016x}", body.len())
}
