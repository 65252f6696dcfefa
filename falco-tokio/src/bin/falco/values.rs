//! Values of arguments: addresses, sizes, times, permissions.

use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::str::FromStr;
use core::time::Duration;
use std::path::PathBuf;

/// The port if none is given.
const PORT: u16 = 4287;

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// A name or an internet address, and a port.
    Tcp(String),
    /// The file of a Unix socket.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("write the path of the socket after unix:".to_owned()),
                _ if cfg!(not(unix)) => Err("this system has no Unix sockets: use HOST:PORT".to_owned()),
                path if !is_path_of_socket(path) => {
                    Err("that path is too long for a Unix socket: use one of at most about 100 bytes".to_owned())
                }
                path => Ok(Self::Unix(path.into())),
            };
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::Tcp(address.to_string()));
        }
        let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        if let Ok(address) = inner.unwrap_or(text).parse::<IpAddr>() {
            return Ok(Self::Tcp(SocketAddr::new(address, PORT).to_string()));
        }
        match text.rsplit_once(':') {
            _ if text.is_empty() || text.contains(char::is_whitespace) => {
                Err("an address is HOST, HOST:PORT or unix:PATH, without spaces".to_owned())
            }
            None => Ok(Self::Tcp(format!("{text}:{PORT}"))),
            Some((host, port)) if !host.is_empty() && !host.contains(':') && port.parse::<u16>().is_ok() => {
                Ok(Self::Tcp(text.to_owned()))
            }
            Some(_) if text.contains("://") => Err("an address is not a URL: write HOST:PORT or unix:PATH".to_owned()),
            Some((_, port)) if port.parse::<u16>().is_err() => {
                Err("an address is HOST:PORT, with a port number up to 65535, or unix:PATH".to_owned())
            }
            Some(_) => Err("an address is HOST:PORT or unix:PATH".to_owned()),
        }
    }
}

/// One server, or several servers, one of which is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Servers {
    One(Address),
    /// Names or internet addresses, each with a port.
    Any(Vec<String>),
}

impl FromStr for Servers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The path of a socket may have commas.
        if text.starts_with("unix:") || !text.contains(',') {
            return text.parse().map(Self::One);
        }
        let names = text.split(',').map(|name| match name.parse()? {
            Address::Tcp(name) => Ok(name),
            Address::Unix(_) => {
                Err("a list of servers is HOST:PORT,HOST:PORT and cannot contain a Unix socket".to_owned())
            }
        });
        names.collect::<Result<_, String>>().map(Self::Any)
    }
}

impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(address) => address.fmt(f),
            Self::Any(names) => f.write_str(&names.join(",")),
        }
    }
}

/// Systems allow about a hundred bytes.
#[cfg(unix)]
fn is_path_of_socket(path: &str) -> bool {
    std::os::unix::net::SocketAddr::from_pathname(path).is_ok()
}

#[cfg(not(unix))]
fn is_path_of_socket(_: &str) -> bool {
    false
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(name) => f.write_str(name),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A target of `falco serve --forward`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Forward {
    /// Empty if it has none.
    pub(crate) name: String,
    pub(crate) address: Address,
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // An equals sign may also be part of the path of a socket.
        let named = text.split_once('=').filter(|(name, _)| !name.contains([':', '/']));
        let (name, address) = named.unwrap_or(("", text));
        Ok(Self {
            name: target_name(name)?,
            address: address.parse()?,
        })
    }
}

/// The name of a target.
pub(crate) fn target_name(text: &str) -> Result<String, String> {
    if text.len() > 255 || text.chars().any(char::is_control) {
        return Err("the name of a target has at most 255 bytes, and no control characters".to_owned());
    }
    Ok(text.to_owned())
}

/// An address, or a network: an address, a slash and the number of leading bits that count.
pub(crate) fn network(text: &str) -> Result<(IpAddr, u8), String> {
    let wrong = || "a network is an address such as 10.0.0.5, or one with a prefix length: 10.0.0.0/8".to_owned();
    let (address, bits) = text
        .split_once('/')
        .map_or((text, None), |(address, bits)| (address, Some(bits)));
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.map_or(Ok(most), str::parse).map_err(|_| wrong())?;
    if bits > most { Err(wrong()) } else { Ok((address, bits)) }
}

/// A number of bytes: digits, or digits and K, M or G for multiples of 1024.
pub(crate) fn size(text: &str) -> Result<u32, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit: u64 = match text.get(digits.len()..).map(str::to_ascii_lowercase).as_deref() {
        Some("" | "b") => 1,
        Some("k" | "kib") => 1 << 10,
        Some("m" | "mib") => 1 << 20,
        Some("g" | "gib") => 1 << 30,
        _ => return Err("a size is a number of bytes, such as 512, 64K or 16M".to_owned()),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "a size is a number of bytes, such as 512, 64K or 16M".to_owned())?;
    let bytes = number.checked_mul(unit).and_then(|bytes| u32::try_from(bytes).ok());
    bytes.ok_or_else(|| format!("a size is at most {} bytes", u32::MAX))
}

/// A number of bytes that may wait, at least 1 KiB.
pub(crate) fn window(text: &str) -> Result<u32, String> {
    size(text).and_then(|bytes| match bytes {
        ..1024 => Err("a window has at least 1K".to_owned()),
        _ => Ok(bytes),
    })
}

/// A time: a number of seconds, or a number and ms, s, m or h.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let number = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let seconds = match text.get(number.len()..) {
        Some("ms") => 0.001,
        Some("" | "s") => 1.0,
        Some("m") => 60.0,
        Some("h") => 3600.0,
        _ => {
            return Err(
                "a time is a number of seconds, such as 2 or 0.5, or one with a unit: 500ms, 2s, 5m, 1h".to_owned(),
            );
        }
    };
    let number: f64 = number
        .parse()
        .map_err(|_| "a time begins with a number, such as 2s or 500ms".to_owned())?;
    let time = Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())?;
    // Times are added to clocks, which must not overflow.
    if time > Duration::from_secs(366 * 24 * 3600) {
        return Err("the longest time is 366 days (8784h)".to_owned());
    }
    Ok(time)
}

/// A time of at least 1 ms.
pub(crate) fn some_time(text: &str) -> Result<Duration, String> {
    match time(text)? {
        none if none < Duration::from_millis(1) => Err("the shortest time is 1ms".to_owned()),
        time => Ok(time),
    }
}

/// The permissions of a file, in octal.
#[cfg(unix)]
pub(crate) fn mode(text: &str) -> Result<u16, String> {
    let mode = u16::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "permissions are three octal digits, such as 600 or 660".to_owned())
}

/// A time in milliseconds, to three digits.
pub(crate) fn millis(time: Duration) -> String {
    format!("{:.3}", 1000.0 * time.as_secs_f64())
}

/// A count with a noun whose plural ends in s.
pub(crate) fn counted(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// A count as a number for calculations.
pub(crate) fn real(count: u64) -> f64 {
    let half = |bits: u64| f64::from(u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(u32::MAX));
    half(count >> 32) * 4_294_967_296.0 + half(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_port_gets_the_default() {
        for (text, read) in [
            ("localhost", "localhost:4287"),
            ("localhost:1", "localhost:1"),
            ("10.0.0.1", "10.0.0.1:4287"),
            ("10.0.0.1:9", "10.0.0.1:9"),
            ("::1", "[::1]:4287"),
            ("[::1]", "[::1]:4287"),
            ("[::1]:9", "[::1]:9"),
            ("unix:/run/falco", "unix:/run/falco"),
        ] {
            assert_eq!(
                text.parse::<Address>().map(|address| address.to_string()).as_deref(),
                Ok(read)
            );
        }
        for text in [
            "",
            ":",
            ":1",
            "host:",
            "host:x",
            "host:70000",
            "a:b:1",
            "unix:",
            "a b",
            "[::1",
            "http://localhost:80",
            &format!("unix:{}", "a".repeat(200)),
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_target_may_have_a_name() {
        for (text, name, address) in [
            ("127.0.0.1:5432", "", "127.0.0.1:5432"),
            ("db=127.0.0.1:5432", "db", "127.0.0.1:5432"),
            ("db=unix:/run/a=b", "db", "unix:/run/a=b"),
            ("unix:/run/a=b", "", "unix:/run/a=b"),
        ] {
            let parsed = text
                .parse()
                .map(|Forward { name, address }| (name, address.to_string()));
            assert_eq!(parsed, Ok((name.to_owned(), address.to_owned())));
        }
        let longest = "x".repeat(255);
        assert!(format!("{longest}=localhost:1").parse::<Forward>().is_ok());
        assert!(format!("x{longest}=localhost:1").parse::<Forward>().is_err());
        assert!("a\nb=localhost:1".parse::<Forward>().is_err());
    }

    #[test]
    fn sizes_and_times_have_units() {
        assert_eq!(size("0"), Ok(0));
        assert_eq!(size("64k"), Ok(65_536));
        assert_eq!(size("16MiB"), Ok(16 << 20));
        for text in ["", "k", "-1", "1.5k", "4G", "99999999999999999999", "1kb", "é"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(time("2"), Ok(Duration::from_secs(2)));
        assert_eq!(time("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(time("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(time("1h"), Ok(Duration::from_secs(3600)));
        for text in ["", "s", "-1", "nan", "inf", "1d", "1e300", "9999h", "é"] {
            assert!(time(text).is_err(), "{text}");
        }
        assert!(some_time("0").is_err());
    }
}
