//! A client's keys, made once for all that is made from one builder.

use std::sync::{Arc, Mutex, PoisonError};

use falco_core::keys::{ClientKeys, Secrets};
use getrandom::SysRng;

use crate::error::Error;

/// Secrets that become a client's keys when they are first needed, so that all that is made from one builder shares them.
#[derive(Debug)]
pub(crate) struct KeySource(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Used up when `made` is there.
    fresh: Secrets,
    made: Option<Arc<ClientKeys>>,
}

impl KeySource {
    pub(crate) fn new(fresh: Secrets) -> Self {
        Self(Mutex::new(State { fresh, made: None }))
    }

    /// Changes what has not been made into keys yet.
    pub(crate) fn change(self, change: impl FnOnce(&mut Secrets)) -> Self {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).fresh);
        self
    }

    /// The shared keys; made at the first call.
    pub(crate) fn get(&self) -> Result<Arc<ClientKeys>, Error> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = &state.made {
            return Ok(Arc::clone(made));
        }
        let made = Arc::new(core::mem::take(&mut state.fresh).into_client(&mut SysRng)?);
        state.made = Some(Arc::clone(&made));
        Ok(made)
    }
}
