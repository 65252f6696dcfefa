//! The published crate on threads, as a server or as a client, told by its command line what to do.
//! See `orders.rs`.

#[path = "../../bodies.rs"]
mod bodies;
#[path = "../../orders.rs"]
mod orders;

use core::time::Duration;
use std::io::Error;
use std::process::ExitCode;
use std::thread;

use falcotcp::{Client, Server};
use orders::{Order, Step};

/// The server looks at one connection after the other and spins where there are none: more workers
/// only burn more.
const WORKERS: usize = 1;

fn main() -> ExitCode {
    match orders::order() {
        Ok(Order::Serve { address, key }) => orders::outcome(Server::new(address, key, Box::new(handle), WORKERS)),
        Ok(Order::Call { address, key, steps }) => match Client::new(&address, key) {
            Ok(client) => orders::outcome(call(client, steps)),
            Err(error) => orders::refused(&error),
        },
        Err(error) => orders::outcome(Err(error)),
    }
}

// The crate's handler takes its body by value.
#[expect(clippy::needless_pass_by_value)]
fn handle(body: Vec<u8>) -> Vec<u8> {
    println!("{}", bodies::report("handled", &body));
    bodies::transform(&body)
}

fn call(mut client: Client, steps: Vec<Step>) -> Result<(), Error> {
    for step in steps {
        match step {
            Step::Message(size) => println!("{}", bodies::report("answer", &client.message(bodies::body(size))?)),
            Step::Ping => {
                client.ping()?;
                println!("pinged");
            }
            Step::Wait(milliseconds) => thread::sleep(Duration::from_millis(milliseconds)),
        }
    }
    Ok(())
}
