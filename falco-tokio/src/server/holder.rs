//! What connections under one key share: the label of the key, and its metrics.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use falco_core::KeyId;

use crate::metrics::{Counter, Gauge};

/// The holder of a key. The classic wire has no keys with ids, and its clients are one holder.
#[derive(Debug)]
pub(crate) struct Holder {
    pub(crate) label: Option<Arc<str>>,
    pub(crate) requests: Counter,
    pub(crate) connections: Gauge,
}

impl Holder {
    pub(crate) fn new(key: Option<KeyId>, label: Option<Arc<str>>) -> Arc<Self> {
        let key = key.map_or_else(|| "classic".to_owned(), |key| key.to_string());
        let labels = [("key", key.as_str()), ("label", label.as_deref().unwrap_or_default())];
        Arc::new(Self {
            requests: Counter::new(
                "falco_server_key_requests_total",
                "Requests that were passed to the handler, by key",
                &labels,
            ),
            connections: Gauge::new(
                "falco_server_key_connections",
                "Connections that are established, by key",
                &labels,
            ),
            label,
        })
    }
}

/// The holders of the keys that the server accepts, by key. Once the server serves, it has those of
/// all keys, so that the metrics of a key exist before a client uses it.
#[derive(Debug, Default)]
pub(crate) struct Holders(Mutex<HashMap<Option<KeyId>, Arc<Holder>>>);

impl Holders {
    /// The holder of a key. If the label has changed, this is a new holder.
    pub(crate) fn find(&self, key: Option<KeyId>, label: Option<Arc<str>>) -> Arc<Holder> {
        let mut holders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let holder = holders.entry(key).or_insert_with(|| Holder::new(key, label.clone()));
        if holder.label != label {
            *holder = Holder::new(key, label);
        }
        Arc::clone(holder)
    }

    /// Removes the holder of a key that was removed.
    pub(crate) fn forget(&self, key: KeyId) {
        let mut holders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        holders.remove(&Some(key));
    }
}

#[cfg(test)]
mod tests {
    use core::error::Error;

    use falco_core::Key;

    use crate::{Request, Server};

    #[tokio::test]
    async fn a_server_has_holders_of_all_keys_before_one_is_used() -> Result<(), Box<dyn Error>> {
        let (one, two) = (Key::from_bytes([1; 32])?, Key::from_bytes([2; 32])?);
        let ids = [one.id(), two.id()];
        let server = Server::builder(one).labeled_key("orders", two).unbound()?;
        let handle = server.handle();
        handle.shutdown();
        server
            .serve(|request: Request| async move { Ok(request.into_body()) })
            .await?;
        let added = handle.add_labeled_key("billing", Key::from_bytes([3; 32])?)?;
        let holders = handle.service.holders.0.lock().map_err(|error| error.to_string())?;
        for (id, label) in [(ids[0], None), (ids[1], Some("orders")), (added, Some("billing"))] {
            let holder = holders.get(&Some(id)).ok_or("it has no holder")?;
            assert_eq!(holder.label.as_deref(), label);
        }
        Ok(())
    }
}
