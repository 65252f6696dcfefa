//! What the options of `falco serve` mean for the library: limits, wires, keys.

use std::path::Path;

use falco_tokio::{Key, Server, ServerBuilder, Settings};

use super::keys::Keys;
use super::{Args, ServerWire};
use crate::descriptors;
use crate::failure::Failure;
use crate::key::{self, KeyArgs, KeyList};

/// Descriptors of a command of `--exec`: its standard input and output, the process, and one more
/// while it starts.
const OF_COMMAND: u64 = 4;

/// How many connections may wait for the header of their proxy, which is the default of the
/// library. The library gives them at most a quarter of the descriptors. It does not know how many
/// the tool needs for commands and targets, so the tool subtracts both.
const HEADERS: u64 = 4096 + 64;

/// How many connections there may be.
pub(super) struct Room {
    /// Connections of clients.
    connections: u32,
    /// Connections that are carried for one connection of a client.
    tunnels: u16,
    /// Connections that are carried for all clients.
    pub(super) places: usize,
}

impl Room {
    pub(super) fn of(args: &Args) -> Self {
        if args.forward.is_empty() {
            return Self {
                connections: beside_commands(args),
                tunnels: 0,
                places: 0,
            };
        }
        // The windows of all tunnels of a connection have to fit three quarters of what it may
        // hold. Programs beyond that wait for a place.
        let most = u16::try_from(u32::MAX / 4 * 3 / args.window.max(1 << 10)).unwrap_or(u16::MAX);
        let tunnels = args.max_tunnels.min(most);
        // The library counts the descriptors of its own connections, and not those of connections
        // to targets.
        let wanted = u64::from(args.max_connections).saturating_add(4 * u64::from(tunnels));
        let allowed = raise(args, wanted);
        let connections = args.max_connections.min(u32::try_from(allowed / 4).unwrap_or(u32::MAX));
        let places = usize::try_from(allowed.saturating_sub(connections.into())).unwrap_or(usize::MAX);
        Self {
            connections,
            tunnels,
            places,
        }
    }
}

/// How many connections of clients there may be. If there are too few descriptors, half of them at
/// most are for the commands of `--exec`.
fn beside_commands(args: &Args) -> u32 {
    if args.exec.is_empty() {
        return args.max_connections;
    }
    let commands = OF_COMMAND * u64::from(args.max_commands);
    let allowed = raise(args, commands.saturating_add(args.max_connections.into()));
    let connections = allowed - commands.min(allowed / 2);
    args.max_connections.min(u32::try_from(connections).unwrap_or(u32::MAX))
}

/// Raises the limit of open files as far as `wanted` descriptors need. Returns how many there are
/// beside those of connections that wait for the header of their proxy.
fn raise(args: &Args, wanted: u64) -> u64 {
    let headers = if args.trust_proxy.is_empty() { 0 } else { HEADERS };
    beside(headers, descriptors::raise(wanted.saturating_add(headers)))
}

fn beside(headers: u64, allowed: u64) -> u64 {
    allowed - headers.min(allowed / 4)
}

pub(super) fn builder(args: &Args, room: &Room) -> Result<(Option<Keys>, ServerBuilder), Failure> {
    let tunnels = room.tunnels;
    let settings = Settings::new()
        .with_max_message(args.max_message)
        .with_lifetime(args.lifetime)
        .and_then(|settings| settings.with_handshake_timeout(args.handshake_timeout))
        .and_then(|settings| settings.with_max_in_flight(args.max_in_flight.max(tunnels)))
        .map_err(Failure::usage)?;
    // Room for all windows, which are reserved although most stay empty.
    let settings = if tunnels > 0 {
        settings.with_max_held(u32::MAX)
    } else {
        settings
    };
    let (file, classic_file) = (args.key.key_file.as_deref(), args.classic_key_file.as_deref());
    let noise_keys = || {
        let (keys, builder) = Keys::read(KeyList::new(args.key.clone()))?;
        Ok::<_, Failure>((Some(keys), builder))
    };
    let (keys, builder) = match args.wire {
        ServerWire::Noise if classic_file.is_some() => {
            return Err(Failure::usage("--classic-key-file needs --wire classic or --wire both"));
        }
        ServerWire::Noise => noise_keys()?,
        ServerWire::Classic => (None, Server::classic(only_classic_key(&args.key, classic_file)?)),
        ServerWire::Both if key::is_standard_input(file) && key::is_standard_input(classic_file) => {
            return Err(Failure::usage(
                "only one of the keys can come from standard input: name a file for the other",
            ));
        }
        ServerWire::Both => {
            let variables = [key::CLASSIC_KEY_VARIABLE];
            let classic = args.key.find_in(classic_file, "--classic-key-file", &variables)?;
            let (keys, builder) = noise_keys()?;
            (keys, builder.classic(classic))
        }
    };
    let builder = match (&args.context, args.wire) {
        (Some(_), ServerWire::Classic) => {
            return Err(Failure::usage("the classic wire has no --context: leave it out"));
        }
        (context, _) => builder.context(context.as_deref().unwrap_or_default()),
    };
    let connections = usize::try_from(room.connections).unwrap_or(usize::MAX);
    let builder = builder.settings(settings).max_connections(connections);
    let builder = if tunnels > 0 {
        let windows = usize::from(tunnels).saturating_mul(usize::try_from(args.window).unwrap_or(usize::MAX));
        builder
            .streams(args.window, tunnels)
            // The windows of four connections with all their tunnels fit three quarters of this.
            .max_held((windows / 3).saturating_mul(16).max(1 << 30))
    } else {
        builder
    };
    let builder = match args.max_connections_per_key {
        Some(most) => builder.max_connections_per_key(usize::try_from(most).unwrap_or(usize::MAX)),
        None => builder,
    };
    let proxies = args.trust_proxy.iter();
    let builder = proxies.fold(builder, |builder, (network, bits)| builder.trust_proxy(*network, *bits));
    Ok((
        keys,
        match args.max_connection_age {
            Some(age) => builder.max_connection_age(age),
            None => builder,
        },
    ))
}

fn only_classic_key(key: &KeyArgs, classic_file: Option<&Path>) -> Result<Key, Failure> {
    let file = key.key_file.as_deref();
    if file.is_some() && classic_file.is_some() {
        return Err(Failure::usage(
            "--wire classic has one key: give one of --key-file and --classic-key-file",
        ));
    }
    key.find_in(
        classic_file.or(file),
        "--key-file",
        &[key::CLASSIC_KEY_VARIABLE, key::KEY_VARIABLE],
    )
}
