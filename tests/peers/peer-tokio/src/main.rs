//! The published crate on Tokio, as a server or as a client, told by its command line what to do.
//! See `orders.rs`.

#[path = "../../bodies.rs"]
mod bodies;
#[path = "../../orders.rs"]
mod orders;

use core::time::Duration;
use std::io::Error;
use std::process::ExitCode;
use std::sync::Arc;

use falcotcp::{Client, MessageHandler, Server};
use orders::{Order, Step};

/// The server looks at one connection after the other and spins where there are none: more workers
/// only burn more.
const WORKERS: usize = 1;

#[tokio::main]
async fn main() -> ExitCode {
    match orders::order() {
        Ok(Order::Serve { address, key }) => {
            let handler: MessageHandler = Arc::new(|body| Box::pin(async move { handle(&body) }));
            orders::outcome(Server::new(address, key, handler, WORKERS).await)
        }
        Ok(Order::Call { address, key, steps }) => match Client::new(&address, key).await {
            Ok(client) => orders::outcome(call(client, steps).await),
            Err(error) => orders::refused(&error),
        },
        Err(error) => orders::outcome(Err(error)),
    }
}

fn handle(body: &[u8]) -> Vec<u8> {
    println!("{}", bodies::report("handled", body));
    bodies::transform(body)
}

async fn call(mut client: Client, steps: Vec<Step>) -> Result<(), Error> {
    for step in steps {
        match step {
            Step::Message(size) => println!(
                "{}",
                bodies::report("answer", &client.message(bodies::body(size)).await?)
            ),
            Step::Ping => {
                client.ping().await?;
                println!("pinged");
            }
            Step::Wait(milliseconds) => tokio::time::sleep(Duration::from_millis(milliseconds)).await,
        }
    }
    Ok(())
}
