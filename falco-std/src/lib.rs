//! FalcoTCP on blocking sockets: encrypted requests and answers between threads, under one shared 32-byte key.
//!
//! [`Server`] runs a handler for each request, [`Client`] sends requests and waits for their answers. Both are short loops over
//! [`falco_core`], which makes every decision of the protocol; here are the sockets, the clock, the threads and the memory.
//!
//! ```
//! use falco_std::{Client, Key, Request, Server};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let text = "a315c8024ab172f90691f92ac072d57d3aac129b4d1024d536f0ac6b9236b554";
//! let key: Key = text.parse()?;
//! let server = Server::classic(key).bind("127.0.0.1:0")?;
//! let (address, handle) = (server.local_addr()?, server.handle());
//! let serving = std::thread::spawn(move || server.serve(|request: Request| Ok(request.into_body())));
//!
//! let client = Client::classic(text.parse()?).connect(address)?;
//! assert_eq!(client.request("hello")?, b"hello");
//! client.close();
//!
//! handle.stop();
//! assert_eq!(serving.join().expect("serve does not panic").cut, 0);
//! # Ok(())
//! # }
//! ```
//!
//! # The wire
//!
//! The wire is asked for by name. [`Server::classic`] and [`Client::classic`] speak the wire of the published falcotcp 0.1.x peers; what
//! that wire cannot give is told in [`falco_core::classic`].
//!
//! # Time
//!
//! A connection ends when for a lifetime (60 s by default) it has seen no message and no ping. A client whose connection has ended
//! makes a new one before it sends; nothing was sent on the old one, so nothing is sent twice.

mod client;
mod clock;
mod error;
mod pipe;
mod server;
mod stream;
mod wire_key;

pub use client::{Client, ClientBuilder};
pub use error::{Error, Fate};
pub use falco_core::{
    ConnectionError, EntropyError, Key, KeyError, Misuse, Refusal, RequestError, Settings, SettingsError,
};
pub use server::{Handle, HandlerError, Report, Request, Server, ServerBuilder};
pub use stream::{Blocking, Stream};

/// Draws a fresh key from the operating system.
///
/// ```
/// let key = falco_std::generate_key()?;
/// let mut text = [0; 64];
/// assert_eq!(key.write_hex(&mut text).len(), 64); // what to carry to the other side
/// # Ok::<(), falco_std::KeyError>(())
/// ```
///
/// # Errors
/// [`KeyError::Entropy`] where the operating system gives no random numbers.
pub fn generate_key() -> Result<Key, KeyError> {
    Key::generate(&mut getrandom::SysRng)
}
