//! `falco ping`: prints round-trip times, one line each, and a summary.

use core::time::Duration;

use falco_tokio::{Client, Error};
use tokio::time::{Instant, MissedTickBehavior};

use crate::failure::{Code, Failure, code_of};
use crate::output;
use crate::signals::Signals;
use crate::target::{ClientWire, Target};
use crate::values::{self, Servers, millis, real};

/// Pings a server over an encrypted connection, and prints how long each answer took.
///
/// The server's handler is not involved. Ctrl-C ends the command with a summary. If the connection
/// is lost, the command reconnects. The classic wire has no answer to a ping: there the command
/// only prints that the ping was sent.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// Ends after this many pings; without this, Ctrl-C ends it
    #[arg(long, short, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// How long to wait between two pings
    #[arg(long, short, value_name = "TIME", default_value = "1s", value_parser = values::some_time)]
    interval: Duration,
    /// How long to wait for each answer, and for the connection before the first ping
    #[arg(long, short, value_name = "TIME", default_value = "2s", value_parser = values::some_time)]
    timeout: Duration,
}

pub(crate) const EXAMPLES: &str = "\
Examples:
  falco ping localhost --key-file falco.key
  falco ping db.internal:4287 --key-file falco.key -c 3 -i 200ms && echo up";

/// The longest pause between attempts to connect again.
const RETRY: Duration = Duration::from_secs(1);
const FIRST_RETRY: Duration = Duration::from_millis(50);

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let target = &args.target;
    let builder = target.builder(target.key()?, args.timeout)?;
    let mut signals = Signals::new(args.timeout)?;
    let began = Instant::now();
    // Without a connection, a ping fails with the reason instead of waiting.
    let client = tokio::select! {
        client = target.connect(builder.fail_fast(true).backoff(FIRST_RETRY, RETRY)) => client?,
        () = signals.next() => return Err(Failure::Reported(Code::Failed)),
    };
    let mut tally = Tally::default();
    let done = ping(&args, &client, &mut signals, &mut tally, began).await;
    let _ = tokio::time::timeout(Duration::from_millis(250), client.close()).await;
    done?;
    tally.sum_up(&target.address, target.wire, began.elapsed())?;
    tally.verdict()
}

async fn ping(
    args: &Args,
    client: &Client,
    signals: &mut Signals,
    tally: &mut Tally,
    began: Instant,
) -> Result<(), Failure> {
    let target = &args.target;
    let (address, wire) = (&target.address, target.wire.name());
    let connecting = millis(began.elapsed());
    output::line(&format_args!(
        "PING {address} over {wire}: connected in {connecting} ms"
    ))?;
    let mut ticks = tokio::time::interval(args.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while args.count.is_none_or(|count| tally.sent < count) {
        let pinged = async {
            ticks.tick().await;
            client.ping().await
        };
        let pinged = tokio::select! {
            pinged = pinged => pinged,
            () = signals.next() => break,
        };
        let number = tally.sent + 1;
        tally.count(&pinged);
        match pinged {
            Ok(Some(time)) => output::line(&format_args!("{address}: seq={number} time={} ms", millis(time)))?,
            Ok(None) => output::line(&format_args!(
                "{address}: seq={number} sent; this wire has no answer to a ping"
            ))?,
            Err(error) => output::line(&format_args!("{address}: seq={number} lost: {error}"))?,
        }
    }
    Ok(())
}

/// The results so far.
#[derive(Debug, Default)]
struct Tally {
    sent: u64,
    /// Sent on a wire without answers.
    unanswerable: u64,
    times: Times,
    trouble: Option<Code>,
}

impl Tally {
    fn count(&mut self, pinged: &Result<Option<Duration>, Error>) {
        self.sent += 1;
        match pinged {
            Ok(Some(time)) => self.times.add(*time),
            Ok(None) => self.unanswerable += 1,
            Err(error) => self.trouble = Some(code_of(error, Code::Failed)),
        }
    }

    fn good(&self) -> u64 {
        self.times.count + self.unanswerable
    }

    fn sum_up(&self, address: &Servers, wire: ClientWire, time: Duration) -> Result<(), Failure> {
        let (sent, good) = (self.sent, self.good());
        let loss = if sent == 0 {
            0.0
        } else {
            100.0 * real(sent - good) / real(sent)
        };
        let word = match wire {
            ClientWire::Noise => "answered",
            ClientWire::Classic => "sent without an error",
        };
        let mut text = format!(
            "\n--- {address} ping statistics ---\n{sent} sent, {good} {word}, {loss:.1}% lost, time {} ms",
            time.as_millis()
        );
        if let Some(times) = self.times.sum_up() {
            text = format!("{text}\nrtt min/avg/max/mdev = {times} ms");
        }
        output::line(&text)
    }

    /// Fails if pings were lost. If all were lost, the exit code is that of the last error.
    fn verdict(&self) -> Result<(), Failure> {
        match self.trouble {
            None => Ok(()),
            Some(code) if self.good() == 0 => Err(Failure::Reported(code)),
            Some(_) => Err(Failure::Reported(Code::Failed)),
        }
    }
}

/// Minimum, maximum, mean and standard deviation of times. The times themselves are not stored.
#[derive(Debug, Default)]
struct Times {
    count: u64,
    min: f64,
    max: f64,
    mean: f64,
    /// The sum of the squared deviations from the mean.
    squares: f64,
}

impl Times {
    fn add(&mut self, time: Duration) {
        let time = 1000.0 * time.as_secs_f64();
        self.count += 1;
        let first = self.count == 1;
        self.min = if first { time } else { self.min.min(time) };
        self.max = self.max.max(time);
        let distance = time - self.mean;
        self.mean += distance / real(self.count);
        self.squares += distance * (time - self.mean);
    }

    fn sum_up(&self) -> Option<String> {
        let Self { min, max, mean, .. } = self;
        let deviation = (self.squares / real(self.count)).sqrt();
        (self.count > 0).then(|| format!("{min:.3}/{mean:.3}/{max:.3}/{deviation:.3}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_summed_up_as_they_come() {
        let mut times = Times::default();
        assert_eq!(times.sum_up(), None);
        for time in [2, 4, 4, 4, 5, 5, 7, 9] {
            times.add(Duration::from_millis(time));
        }
        assert_eq!(times.sum_up().as_deref(), Some("2.000/5.000/9.000/2.000"));
    }
}
