//! A host's client for the server that the firmware is: as many messages as the firmware's own
//! client sends, each answer compared, then the end. `tests/firmware/run` starts it.
//!
//! ```sh
//! cargo run -p falco-tests --example firmware_client -- noise 127.0.0.1:4287 KEY LIMIT
//! ```

use core::error::Error;

use falco_std::{Client, Key};

/// Messages that are sent.
const MESSAGES: usize = 200;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let [wire, address, key, limit] = words[..] else {
        return Err("noise or classic, an address, a key, and the bytes of the largest message".into());
    };
    let (key, limit) = (key.parse::<Key>()?, limit.parse::<usize>()?);
    let builder = match wire {
        "classic" => Client::classic(key),
        "noise" => Client::builder(key),
        _ => return Err(format!("noise or classic, not {wire}").into()),
    };
    let client = builder.connect(address)?;
    for number in 0..MESSAGES {
        let length = number * limit / (MESSAGES - 1);
        let body: Vec<u8> = (0..=u8::MAX).cycle().skip(number).take(length).collect();
        let answer = client.request(body.as_slice())?;
        if answer != body {
            return Err(format!(
                "message {number}: {length} bytes were sent, other {} came back",
                answer.len()
            )
            .into());
        }
    }
    println!("{MESSAGES} messages of 0 to {limit} bytes were answered");
    client.close();
    Ok(())
}
