//! What the builders of the adapters use: the source of a client's keys, single settings, the
//! source of random numbers.
use core::sync::atomic::{AtomicU8, Ordering};
use core::time::Duration;
use std::sync::Arc;

use falco_core::keys::{ClientKeySource, Entropy, Secrets, SetupError};
use falco_core::noise::NoiseSecret;
use falco_core::testing::RecvBytes;
use falco_core::{
    BufferSizes, ClientConnection, EntropyError, Instant, Key, RustCrypto, ServerConnection, Settings, SettingsBuilder,
    SettingsError,
};

fn key(byte: u8) -> Key {
    Key::from_bytes([byte; 32]).unwrap()
}

/// Counts up, and fails after 200 bytes.
fn counting() -> Entropy {
    let next = AtomicU8::new(0);
    Entropy::new(move |bytes| {
        for byte in bytes {
            *byte = next.fetch_add(1, Ordering::SeqCst);
            if *byte >= 200 {
                return Err(EntropyError::new());
            }
        }
        Ok(())
    })
}

fn failing() -> Entropy {
    Entropy::new(|_| Err(EntropyError::new()))
}

#[test]
fn all_keys_of_a_source_are_the_same_and_options_apply_until_they_are_made() {
    for source in [ClientKeySource::noise(key(7)), ClientKeySource::classic(key(7), 8)] {
        source.set_context(b"one".to_vec());
        source.set_nonces(16);
        let made = source.keys(&mut counting()).unwrap();
        let shown = format!("{source:?}");
        let other = source.clone();
        other.set_context(b"two".to_vec());
        other.set_nonces(32);
        // No entropy is used for the second.
        let again = other.keys(&mut failing()).unwrap();
        assert!(Arc::ptr_eq(&made, &again));
        assert_eq!(format!("{source:?}"), shown);
    }
}

#[test]
fn another_key_has_the_wire_and_the_context_of_the_first_and_nothing_else_of_it() {
    let (settings, now) = (Settings::new(), Instant::ZERO);
    for (source, classic) in [
        (ClientKeySource::noise(key(7)), false),
        (ClientKeySource::classic(key(7), 8), true),
    ] {
        source.set_context(b"one".to_vec());
        let first = source.keys(&mut counting()).unwrap();
        let other = first.with_key(key(8), &mut counting()).unwrap();
        assert_eq!(other.receives_unasked(), !classic);
        for (number, accepted) in [(7, false), (8, true)] {
            let mut secrets = Secrets {
                context: b"one".to_vec(),
                nonces: 8,
                ..Secrets::default()
            };
            if classic {
                secrets.classic = Some(key(number));
            } else {
                secrets.noise = vec![key(number)];
            }
            let server = secrets.into_server(&mut counting()).unwrap();
            let mut client = ClientConnection::new(&other, &settings, now, &mut counting()).unwrap();
            let mut server = ServerConnection::new(&server, &settings, now, &mut counting()).unwrap();
            let mut hello = [0; BufferSizes::TRANSMIT];
            let sent = client.poll_transmit(now, &mut hello).unwrap();
            assert_eq!(server.recv_bytes(now, &mut hello[..sent]).is_ok(), accepted, "{number}");
        }
    }
}

#[test]
fn a_source_that_has_failed_returns_the_same_error_again() {
    let source = ClientKeySource::classic(key(7), 8);
    assert_eq!(source.keys(&mut failing()).unwrap_err(), SetupError::Entropy);
    assert_eq!(source.keys(&mut counting()).unwrap_err(), SetupError::Entropy);
    let source = ClientKeySource::noise(key(7));
    source.set_context(vec![0; 65_536]);
    for _ in 0..2 {
        let failed = source.keys(&mut counting()).unwrap_err();
        assert!(matches!(failed, SetupError::Context(_)), "{failed}");
    }
}

#[test]
fn clones_of_an_entropy_use_the_same_source() {
    let entropy = counting();
    let first = Key::generate(&mut entropy.clone()).unwrap();
    let second = Key::generate(&mut entropy.clone()).unwrap();
    assert_ne!(first.id(), second.id());
    assert_eq!(entropy.below(0), 0);
    assert!((0..10).all(|_| entropy.below(3) < 3));
    assert_eq!(failing().below(3), 0);
}

#[test]
fn a_key_has_the_id_by_which_a_server_knows_it() {
    assert_eq!(key(7).id(), NoiseSecret::id_of(&key(7), &RustCrypto));
    let secrets = Secrets {
        noise: vec![key(7)],
        ..Secrets::default()
    };
    let keys = secrets.into_server(&mut counting()).unwrap();
    let contains = |id| !keys.is_retired(Some(id));
    assert!(contains(key(7).id()) && !contains(key(8).id()));
    assert_eq!(keys.add(key(8), None), Ok(key(8).id()));
}

#[test]
fn keys_are_added_and_retired_on_the_noise_wire_alone() {
    let secrets = |noise: Vec<Key>, classic| Secrets {
        noise,
        classic,
        ..Secrets::default()
    };
    let (one, two) = (key(7).id(), key(8).id());
    let keys = secrets(vec![key(7)], None).into_server(&mut counting()).unwrap();
    assert_eq!(keys.add(key(8), None), Ok(two));
    assert_eq!(keys.add(key(8), None), Err(SetupError::DuplicateKey(two)));
    assert!(keys.retire(one) && !keys.retire(one));
    assert!(keys.is_retired(Some(one)) && !keys.is_retired(Some(two)));
    let keys = secrets(vec![], Some(key(7))).into_server(&mut counting()).unwrap();
    assert_eq!(keys.add(key(8), None), Err(SetupError::NoRing));
    assert!(!keys.retire(one) && !keys.is_retired(None));
}

#[test]
fn a_label_belongs_to_its_key_until_the_key_is_retired() {
    let (one, two) = (key(7).id(), key(8).id());
    let secrets = Secrets {
        noise: vec![key(7)],
        labels: vec![(one, "first".into()), (two, "no such key".into())],
        ..Secrets::default()
    };
    let keys = secrets.into_server(&mut counting()).unwrap();
    let label = |id| keys.label(Some(id)).map(|label| label.to_string());
    assert_eq!((label(one), label(two)), (Some("first".to_owned()), None));
    keys.add(key(8), Some("second".into())).unwrap();
    assert_eq!(label(two).as_deref(), Some("second"));
    // A key that cannot be added changes no label.
    keys.add(key(8), Some("third".into())).unwrap_err();
    assert_eq!(label(two).as_deref(), Some("second"));
    assert!(keys.set_label(two, None) && label(two).is_none());
    assert!(keys.set_label(two, Some("fourth".into())) && keys.retire(two));
    assert!(label(two).is_none() && !keys.set_label(two, None));
    keys.add(key(8), None).unwrap();
    assert!(label(two).is_none() && keys.label(None).is_none());
}

#[test]
fn only_the_noise_wire_has_events_without_a_request() {
    let noise = ClientKeySource::noise(key(7)).keys(&mut counting()).unwrap();
    let classic = ClientKeySource::classic(key(7), 8).keys(&mut counting()).unwrap();
    assert!(noise.receives_unasked() && !classic.receives_unasked());
}

#[test]
fn settings_are_the_same_in_whatever_order_their_parts_come() {
    type Step = fn(SettingsBuilder) -> SettingsBuilder;
    let whole: Step = |builder| {
        let settings = Settings::new().with_max_message(1).with_keep_alive(false);
        builder.settings(settings.with_max_in_flight(3).unwrap())
    };
    let parts: [Step; 4] = [
        |builder| builder.max_message(10),
        |builder| builder.max_in_flight(5),
        |builder| builder.lifetime(Duration::from_secs(7)),
        |builder| builder.handshake_timeout(Duration::from_millis(9)),
    ];
    let expected = Settings::new()
        .with_keep_alive(false)
        .with_max_message(10)
        .with_max_in_flight(5)
        .and_then(|settings| settings.with_lifetime(Duration::from_secs(7)))
        .and_then(|settings| settings.with_handshake_timeout(Duration::from_millis(9)))
        .unwrap();
    for at in 0..=parts.len() {
        let (before, after) = parts.split_at(at);
        let steps = before.iter().chain([&whole]).chain(after);
        let built = steps
            .fold(SettingsBuilder::new(), |builder, step| step(builder))
            .build();
        assert_eq!(built, Ok(expected), "the settings came after {at} of the others");
    }
}

#[test]
fn the_last_value_counts_and_one_out_of_range_is_an_error() {
    let zero = SettingsBuilder::new().max_in_flight(0);
    assert_eq!(zero.build(), Err(SettingsError::MaxInFlight));
    assert_eq!(zero.settings(Settings::new()).build(), Err(SettingsError::MaxInFlight));
    assert_eq!(zero.max_in_flight(1024).build(), Ok(Settings::new()));
    let short = Duration::from_millis(999);
    let built = SettingsBuilder::new().lifetime(short).build();
    assert_eq!(built, Err(SettingsError::Lifetime(short)));
    let built = SettingsBuilder::new().handshake_timeout(Duration::ZERO).build();
    assert_eq!(built, Err(SettingsError::HandshakeTimeout(Duration::ZERO)));
}
