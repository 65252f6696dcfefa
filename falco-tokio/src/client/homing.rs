//! Connections of a client with several servers return to their home server once it can be
//! reached again.

use core::time::Duration;
use std::sync::{Arc, Weak};

use super::attempt::Attempt;
use super::connection::Connection;
use super::env::Env;
use super::shared::{Order, Shared};

/// How often connections that are not at their home server try to return to it. Each time is random
/// between half of this and all of it.
const INTERVAL: Duration = Duration::from_secs(5);

/// Runs until the client is dropped or closed.
pub(super) async fn run(slots: Vec<Weak<Shared>>, env: Weak<Env>) {
    loop {
        let Some(pause) = env.upgrade().map(|env| pause(&env)) else {
            return;
        };
        tokio::time::sleep(pause).await;
        for (home, slot) in slots.iter().enumerate() {
            let (Some(slot), Some(env)) = (slot.upgrade(), env.upgrade()) else {
                return;
            };
            let home = home % env.servers.len();
            let now = env.clock.now();
            if slot.is_closed() {
                return;
            }
            if slot.is_connected() && slot.server() != home && !env.servers.is_in_backoff(home, now) {
                go_home(&slot, &env, home).await;
            }
        }
    }
}

fn pause(env: &Env) -> Duration {
    let half = INTERVAL / 2;
    let random = env.entropy.below(u64::try_from(half.as_millis()).unwrap_or(u64::MAX));
    half + Duration::from_millis(random)
}

/// Connects to a server, and then lets the connection replace that of the slot, whose requests
/// complete where they are.
async fn go_home(slot: &Shared, env: &Arc<Env>, home: usize) {
    if let Some(connection) = connect(env, home).await {
        slot.order(Order::Adopt(connection));
    } else {
        let now = env.clock.now();
        env.servers.failed(home, now, |bound| env.entropy.below(bound));
    }
}

/// A connection to a server, whose handshake has completed.
async fn connect(env: &Arc<Env>, server: usize) -> Option<Box<Connection>> {
    let mut attempt = Attempt::begin(env, env.key(), server);
    let connected = core::future::poll_fn(|cx| attempt.poll(env, cx)).await;
    let connection = connected.ok()?;
    env.servers.established(server);
    Some(connection)
}
