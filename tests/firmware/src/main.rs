//! FalcoTCP in firmware: a super-loop that does not block, in the role that the factory's page
//! selects.
#![no_std]
#![no_main]

#[cfg(all(feature = "classic", feature = "noise"))]
compile_error!("an image speaks one wire: choose the feature classic or the feature noise");

#[cfg(not(any(feature = "classic", feature = "noise")))]
compile_error!("an image speaks a wire: choose the feature classic or the feature noise");

use lm3s6965 as _;

mod board;
mod client;
#[cfg(feature = "meter")]
mod meter;
mod server;
mod wire;

use board::{Clock, Entropy, Factory, Uart};
use cortex_m::singleton;

/// Input cannot cause a panic: `panic_sites` lists every place that could call this, with the
/// reason. A product resets here.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    board::exit(101)
}

/// When a role wants to be polled again. Each poll does a bounded piece of work.
pub(crate) enum Wake {
    /// At once.
    Now,
    /// When a byte has come, at this time, or, if something is to be written, when there is room
    /// for it.
    At {
        time: Option<falco_core::Instant>,
        writes: bool,
    },
    /// Never. The image ends with this exit code.
    Over(i32),
}

/// A part of the super-loop.
pub(crate) trait Task {
    fn poll(&mut self, now: falco_core::Instant, uart: &Uart) -> Wake;
}

/// How often the port is polled before the core sleeps: a byte that comes soon then needs no
/// interrupt.
const LOOKS: u32 = 200;

/// Polls a task only when it asked for it, so that a wrong time has an effect: the task is late, or
/// does not run again.
fn run(task: &mut impl Task, clock: &Clock, uart: &Uart) -> i32 {
    loop {
        match task.poll(clock.now(), uart) {
            Wake::Now => {}
            Wake::At { time, writes } => wait(clock, uart, time, writes),
            Wake::Over(code) => return code,
        }
    }
}

#[inline(never)]
fn wait(clock: &Clock, uart: &Uart, time: Option<falco_core::Instant>, writes: bool) {
    let mut looks = 0;
    while !(uart.has_byte() || (writes && uart.has_room()) || time.is_some_and(|time| clock.now() >= time)) {
        if looks < LOOKS {
            looks += 1;
        } else {
            // The timer's interrupt ends the sleep after a millisecond at most.
            clock.rest();
        }
    }
}

#[allow(
    unsafe_code,
    reason = "the macro exports the function under the name that the start-up code calls"
)]
mod entry {
    #[cortex_m_rt::entry]
    fn main() -> ! {
        super::board::exit(super::work())
    }
}

fn work() -> i32 {
    let factory = Factory::read();
    let (clock, uart) = (Clock::start(), Uart::start());
    let Some(entropy) = singleton!(: Entropy = factory.entropy()) else {
        return 10;
    };
    board::say("connection", wire::CONNECTION);
    board::say("buffered", wire::BUFFERED);
    board::say("limit", wire::MAX_MESSAGE);
    let code = match factory.role() {
        1 => client(&factory, entropy, &clock, &uart),
        2 => server(&factory, entropy, &clock, &uart),
        #[cfg(feature = "meter")]
        3 => meter::measure(&factory, entropy),
        _ => Some(11),
    };
    board::say("stack", board::stack_used());
    code.unwrap_or(12)
}

fn client(factory: &Factory, entropy: &'static Entropy, clock: &Clock, uart: &Uart) -> Option<i32> {
    Some(run(new_client(factory, entropy)?, clock, uart))
}

fn server(factory: &Factory, entropy: &'static Entropy, clock: &Clock, uart: &Uart) -> Option<i32> {
    let key = new_server_key(factory, entropy)?;
    board::say("listening", 1);
    Some(run(&mut server::Server::new(key, entropy), clock, uart))
}

// Long-lived values are static. Each is created in a function of its own, so that the stack that
// this needs is free again.

#[inline(never)]
#[allow(clippy::mut_from_ref, reason = "the reference is to a static, and returned once")]
fn new_client(factory: &Factory, entropy: &'static Entropy) -> Option<&'static mut client::Client<'static>> {
    // One cache serves both keys: it only compares nonces.
    let cache = new_cache(entropy)?;
    let wrong = new_client_key(factory, 1, cache)?;
    let right = new_client_key(factory, 0, cache)?;
    singleton!(: client::Client<'static> = client::Client::new(wrong, right, entropy)?)
}

#[inline(never)]
fn new_client_key(factory: &Factory, difference: u8, cache: &'static wire::Cache) -> Option<&'static wire::ClientKey> {
    let key = if difference == 0 {
        singleton!(: wire::ClientKey = wire::client_key(factory, 0, cache)?)
    } else {
        singleton!(: wire::ClientKey = wire::client_key(factory, difference, cache)?)
    };
    key.map(|key| &*key)
}

#[inline(never)]
fn new_server_key(factory: &Factory, entropy: &Entropy) -> Option<&'static wire::ServerKey> {
    let cache = new_cache(entropy)?;
    let key = singleton!(: wire::ServerKey = wire::server_key(factory, cache, entropy)?)?;
    Some(key)
}

#[inline(never)]
fn new_cache(entropy: &Entropy) -> Option<&'static wire::Cache> {
    singleton!(: wire::Cache = wire::cache(entropy)?).map(|cache| &*cache)
}
