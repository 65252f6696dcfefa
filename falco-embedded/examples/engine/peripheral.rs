//! A mock of the engine: a peripheral that holds keys and does one job at a time.

use falco_embedded::falco_core::RustCrypto;
use falco_embedded::falco_core::crypto::{Aead, Crypto, Nonce, Tag};

/// Key slots of the engine. A connection has a key for each direction, and one more while it
/// replaces one. A handshake has one at a time. So `2 * connections + 1` are enough.
pub(crate) const SLOTS: usize = 5;

/// The peripheral: it holds keys, and does one job at a time.
#[derive(Default)]
pub(crate) struct Engine {
    slots: [Option<<RustCrypto as Crypto>::Aead>; SLOTS],
    /// How many polls until the job is done, and its tag.
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

    /// Starts a job on a text, in place. Like many engines it does not check the tag when it opens:
    /// it decrypts all of the text, and returns the tag that the text should have had.
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
            // Encryption and decryption are the same operation. An engine has the tag after one
            // pass; the software needs a second one.
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

    /// Stops a job that does not complete, so that no DMA writes to memory that was freed.
    pub(crate) fn reset(&mut self) {
        self.job = None;
    }
}
