//! Checks each row of the table in `docs/failures.md` against a scripted server, with the client of
//! each adapter. A row without a script fails, and so does a script without a row.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test that panics has failed"
)]

#[path = "failures/script.rs"]
mod script;

use core::time::Duration;
use std::collections::BTreeSet;

use script::{Event, Scripted};

/// The time limit of a request that is never answered.
const LIMIT: Duration = Duration::from_millis(2_500);

/// A line of the table.
#[derive(Debug)]
struct Line<'t> {
    place: &'t str,
    event: &'t str,
    before: &'t str,
    request: &'t str,
    fate: &'t str,
}

fn lines(page: &str) -> Vec<Line<'_>> {
    let rows = page.lines().filter(|line| line.starts_with("| ")).skip(1);
    rows.map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [place, event, before, request, fate] = cells[..] else {
            panic!("five cells: {row}")
        };
        Line {
            place,
            event,
            before,
            request,
            fate,
        }
    })
    .collect()
}

/// The outcome of a request, in the words of the table.
fn told(end: Result<Vec<u8>, (String, bool)>) -> (String, String) {
    match end {
        Ok(answer) if answer == script::SAME => ("goes again on the same connection".to_owned(), String::new()),
        Ok(_) => ("goes to the next connection".to_owned(), String::new()),
        Err((name, processed)) => {
            let fate = if processed {
                "may have been processed"
            } else {
                "not processed"
            };
            (format!("fails: `{name}`"), fate.to_owned())
        }
    }
}

/// The errors of both adapters say the same in the same words.
macro_rules! name {
    ($error:expr, $($adapter:tt)*) => {{
        let error = $error;
        let processed = error.fate() == $($adapter)*::Fate::MaybeProcessed;
        let name = match error {
            $($adapter)*::Error::Connection { end, .. } => format!("{end:?}"),
            $($adapter)*::Error::Request($($adapter)*::RequestError::Refused(refusal)) => format!("{refusal:?}"),
            $($adapter)*::Error::Io { .. } => "Io".to_owned(),
            $($adapter)*::Error::TimedOut { .. } => "TimedOut".to_owned(),
            other => format!("{other:?}"),
        };
        (name, processed)
    }};
}

/// A client, in as far as a line is concerned.
trait Client {
    fn connect(server: &Scripted) -> Result<Self, (String, bool)>
    where
        Self: Sized;
    fn request(&self, body: Vec<u8>) -> Result<Vec<u8>, (String, bool)>;
    /// Two requests, one after the other. Returns both outcomes.
    fn requests(&self, bodies: [Vec<u8>; 2]) -> [Result<Vec<u8>, (String, bool)>; 2];
}

struct OnTokio(falco_tokio::Client, tokio::runtime::Runtime);

impl Client for OnTokio {
    fn connect(server: &Scripted) -> Result<Self, (String, bool)> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let builder = falco_tokio::Client::builder(falco_tokio::Key::from_bytes([7; 32]).unwrap())
            .settings(server.settings())
            .request_timeout(Some(LIMIT))
            .backoff(Duration::from_millis(5), Duration::from_millis(20));
        let client = runtime
            .block_on(builder.connect(server.address))
            .map_err(|error| name!(error, falco_tokio))?;
        Ok(Self(client, runtime))
    }

    fn request(&self, body: Vec<u8>) -> Result<Vec<u8>, (String, bool)> {
        let answer = self.1.block_on(self.0.request(body));
        answer.map(Vec::from).map_err(|error| name!(error, falco_tokio))
    }

    fn requests(&self, bodies: [Vec<u8>; 2]) -> [Result<Vec<u8>, (String, bool)>; 2] {
        let asked = bodies.map(|body| {
            let client = self.0.clone();
            let asked = self.1.spawn(async move { client.request(body).await });
            // In this order.
            std::thread::sleep(Duration::from_millis(20));
            asked
        });
        asked.map(|asked| {
            let answer = self.1.block_on(asked).unwrap();
            answer.map(Vec::from).map_err(|error| name!(error, falco_tokio))
        })
    }
}

struct OnThreads(falco_std::Client);

impl Client for OnThreads {
    fn connect(server: &Scripted) -> Result<Self, (String, bool)> {
        let builder = falco_std::Client::builder(falco_std::Key::from_bytes([7; 32]).unwrap())
            .settings(server.settings())
            .request_timeout(Some(LIMIT))
            .backoff(Duration::from_millis(5), Duration::from_millis(20));
        let client = builder
            .connect(server.address.to_string())
            .map_err(|error| name!(error, falco_std))?;
        Ok(Self(client))
    }

    fn request(&self, body: Vec<u8>) -> Result<Vec<u8>, (String, bool)> {
        self.0.request(body).map_err(|error| name!(error, falco_std))
    }

    fn requests(&self, bodies: [Vec<u8>; 2]) -> [Result<Vec<u8>, (String, bool)>; 2] {
        std::thread::scope(|scope| {
            let asked = bodies.map(|body| {
                let asked = scope.spawn(move || self.request(body));
                std::thread::sleep(Duration::from_millis(20));
                asked
            });
            asked.map(|asked| asked.join().unwrap())
        })
    }
}

/// The outcome of a request in this row.
fn walk<C: Client>(line: &Line<'_>, event: Event) -> (String, String) {
    let admitted = match line.before {
        "admitted" => true,
        "never" => false,
        other => panic!("{other} is neither"),
    };
    let server = Scripted::start(event, admitted);
    let client = match C::connect(&server) {
        Ok(client) => client,
        Err(error) => return told(Err(error)),
    };
    assert!(admitted, "it was admitted at once: {line:?}");
    if !event.is_of_first_connection() {
        assert_eq!(client.request(b"admitted".to_vec()).unwrap(), b"admitted");
        server.end_first();
    }
    let began = std::time::Instant::now();
    let end = match event {
        Event::BusyOver => {
            let [_, second] = client.requests([b"first".repeat(200), b"second".repeat(200)]);
            second
        }
        Event::WritingReset => {
            let [first, _] = client.requests([b"asked".to_vec(), vec![7; 15 << 20]]);
            first
        }
        Event::PartThenEnd | Event::PartThenReset => client.request(vec![7; 15 << 20]),
        _ => client.request(b"asked".to_vec()),
    };
    // What goes again goes at once: nothing else wakes the client.
    let limit = Duration::from_secs(1);
    assert!(
        end.is_err() || began.elapsed() < limit,
        "{line:?}: {:?}",
        began.elapsed()
    );
    told(end)
}

#[test]
fn each_line_of_the_page_is_what_the_clients_do() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/failures.md")).unwrap();
    let mut known: BTreeSet<_> = script::EVENTS
        .iter()
        .map(|(place, event, _)| (*place, *event))
        .collect();
    let mut wrong = Vec::new();
    let lines = lines(&page);
    assert!(lines.len() > 30, "{} lines", lines.len());
    for line in &lines {
        let event = script::EVENTS
            .iter()
            .find(|(place, event, _)| (*place, *event) == (line.place, line.event));
        let (place, event, script) = *event.unwrap_or_else(|| panic!("no script knows {line:?}"));
        known.remove(&(place, event));
        let expected = (line.request.to_owned(), line.fate.to_owned());
        for (adapter, told) in [
            ("falco-tokio", walk::<OnTokio>(line, script)),
            ("falco-std", walk::<OnThreads>(line, script)),
        ] {
            if told != expected {
                wrong.push(format!("{adapter}: {line:?}: {told:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    assert!(known.is_empty(), "no line names {known:?}");
}
