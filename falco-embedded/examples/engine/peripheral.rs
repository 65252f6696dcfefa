//! The engine: a peripheral that holds keys, and does one job at a time. Software stands for its
//! silicon.

use falco_embedded::falco_core::RustCrypto;
use falco_embedded::falco_core::crypto::{Aead, Crypto, Nonce, Tag};

/// Key slots of the engine. A connection has a key for each direction, and for a moment one more
/// while it replaces one; a handshake has one at a time. So `2 * connections + 1` are enough.
pub(crate) const SLOTS: usize = 5;

/// The peripheral: it holds keys, and does one job at a time.
#[derive(Default)]
pub(crate) struct Engine {
    slots: [Option<<RustCrypto as Crypto>::Aead>; SLOTS],
    /// Polls until the job is done, and its tag.
    job: Option<(usize, Tag)>,
    pub(crate) counts: Counts,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) loaded: usize,
    pub(crate) wiped: usize,
    pub(crate) sealed: usize,
    pub(crate) opened: usize,
    /// The most keys that were there at once.
    pub(crate) most: usize,
}

#[derive(Clone, Copy)]
pub(crate) enum Job {
    Seal,
    Open,
}

impl Engine {
    pub(crate) fn load(&mut self, key: &[u8; 32]) -> Option<usize> {
        let slot = self.slots.iter().position(Option::is_none)?;
        *self.slots.get_mut(slot)? = Some(RustCrypto.aead(key));
        self.counts.loaded += 1;
        self.counts.most = self.counts.most.max(self.held());
        Some(slot)
    }

    pub(crate) fn wipe(&mut self, slot: usize) {
        if let Some(place) = self.slots.get_mut(slot) {
            *place = None;
            self.counts.wiped += 1;
        }
    }

    pub(crate) fn held(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    /// Begins a job on a text where it lies. It checks nothing when it opens, as many engines do
    /// not: it turns over all of the text, and gives the tag that the text should have had.
    pub(crate) fn start(
        &mut self,
        slot: usize,
        job: Job,
        nonce: &Nonce,
        associated: &[u8],
        text: &mut [u8],
    ) -> Option<()> {
        if self.job.is_some() {
            return None;
        }
        let key = self.slots.get(slot)?.as_ref()?;
        let mut turn = || key.seal(nonce, associated, text, &[]).ok();
        let tag = match job {
            Job::Seal => turn()?,
            // The cipher is its own inverse. Silicon has the tag after one pass; software has it on
            // the way back.
            Job::Open => {
                turn()?;
                let tag = turn()?;
                turn()?;
                tag
            }
        };
        match job {
            Job::Seal => self.counts.sealed += 1,
            Job::Open => self.counts.opened += 1,
        }
        self.job = Some((1 + text.len() / 16, tag));
        Some(())
    }

    /// The tag, once the job is done.
    pub(crate) fn poll(&mut self) -> Option<Tag> {
        let (left, tag) = self.job?;
        self.job = left.checked_sub(1).map(|left| (left, tag));
        self.job.is_none().then_some(tag)
    }

    /// Stops a job that does not end, so that no DMA writes to memory that was given back.
    pub(crate) fn reset(&mut self) {
        self.job = None;
    }
}
