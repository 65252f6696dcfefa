//! Expected results of arbitrary bytes, and a driver that checks them.

use falco_core::{
    ClientWait, Connection, ConnectionError, Instant, KeyRef, Received, Role, ServerWait, Settings, Unread,
};

use super::assert_ended;

pub(crate) const NOW: Instant = Instant::from_millis(1);
/// The largest message of these connections.
pub(crate) const LARGEST: u32 = 1_000;

pub(crate) fn settings() -> Settings {
    Settings::new().with_max_message(LARGEST).with_max_in_flight(2).unwrap()
}

pub(crate) const fn frame_length(length: u64) -> ConnectionError {
    ConnectionError::FrameLength {
        length,
        min: 28,
        max: 1_028,
    }
}

/// The expected result of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    NeedMore(usize),
    AnswerFirst,
    TransmitFirst,
    End(ConnectionError),
}

impl From<ClientWait> for Verdict {
    fn from(wait: ClientWait) -> Self {
        match wait {
            ClientWait::TransmitFirst => Self::TransmitFirst,
            other => panic!("{other:?}"),
        }
    }
}

impl From<ServerWait> for Verdict {
    fn from(wait: ServerWait) -> Self {
        match wait {
            ServerWait::TransmitFirst => Self::TransmitFirst,
            ServerWait::AnswerFirst => Self::AnswerFirst,
            other => panic!("{other:?}"),
        }
    }
}

/// Checks the length of a sealed text at `at`, and returns the length of the frame.
pub(crate) fn judge_length(bytes: &[u8], at: usize) -> Result<usize, Verdict> {
    let Some(length) = bytes.get(at..at + 8) else {
        return Err(Verdict::NeedMore(at + 8));
    };
    let length = u64::from_be_bytes(length.try_into().unwrap());
    match length {
        28..=1_028 => Ok(at + 8 + usize::try_from(length).unwrap()),
        _ => Err(Verdict::End(frame_length(length))),
    }
}

/// Passes bytes to a connection until it needs more or ends.
fn verdict<R: Role<Wait: Into<Verdict>>, H: KeyRef<R>>(machine: &mut Connection<R, H>, junk: &[u8]) -> Verdict {
    let mut bytes = junk.to_vec();
    let (mut start, whole) = (0, bytes.len());
    loop {
        let present = whole - start;
        match machine.recv(NOW, Unread::new(&mut bytes, &mut start)) {
            Ok(Received::NeedMore { total }) => {
                assert!(total > present && total <= 9 + 1_028, "{total} bytes wanted");
                return Verdict::NeedMore(total);
            }
            Ok(Received::Wait(wait)) => return wait.into(),
            Ok(Received::Skip | Received::Event(_)) => {}
            Ok(other) => panic!("{other:?}"),
            Err(end) => return Verdict::End(end),
        }
    }
}

/// Asserts the result of arbitrary bytes, and returns whether they ended the connection.
pub(crate) fn check<R: Role<Wait: Into<Verdict>>, H: KeyRef<R>>(
    state: &str,
    junk: &[u8],
    machine: &mut Connection<R, H>,
    expected: &Verdict,
) -> bool {
    assert_eq!(verdict(machine, junk), *expected, "{state}: {junk:02x?}");
    let Verdict::End(end) = *expected else { return false };
    assert_ended(machine, NOW, end);
    true
}
