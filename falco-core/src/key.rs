//! The shared secret: creating, reading and writing it. Each wire derives its keys from it in a
//! module of its own.

use core::fmt;
use core::ops::{Deref, DerefMut};
use core::str::FromStr;

use rand_core::TryCryptoRng;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::counted::Counted;

/// The 32 secret bytes that both ends of a connection hold.
///
/// There is no constructor from a password: a key comes from a random number generator, and its
/// text form is 64 hexadecimal digits. It cannot be cloned, and `Debug` shows none of its bytes.
///
/// It is wiped when dropped. With the feature `alloc` the bytes are on the heap, so that moving a
/// key leaves no copy of them behind. Without that feature, a move leaves a copy.
///
/// ```
/// use falco_core::Key;
///
/// let key: Key = "a315c8024ab172f90691f92ac072d57d3aac129b4d1024d536f0ac6b9236b554".parse()?;
/// assert_eq!(format!("{key:?}"), "Key(..)");
/// assert!("00".repeat(32).parse::<Key>().is_err());
/// # Ok::<(), falco_core::KeyError>(())
/// ```
pub struct Key(Secret);

/// 32 bytes that are wiped when dropped. With an allocator they are on the heap, in one place for
/// as long as they exist: a move copies a pointer.
pub(crate) struct Secret(Place);

#[cfg(feature = "alloc")]
type Place = alloc::boxed::Box<Zeroizing<[u8; Key::LENGTH]>>;
#[cfg(not(feature = "alloc"))]
type Place = Zeroizing<[u8; Key::LENGTH]>;

impl Secret {
    /// Zeros, which the caller overwrites with the secret.
    pub(crate) fn zeros() -> Self {
        Self(Place::default())
    }
}

impl Deref for Secret {
    type Target = [u8; Key::LENGTH];

    fn deref(&self) -> &[u8; Key::LENGTH] {
        &self.0
    }
}

impl DerefMut for Secret {
    fn deref_mut(&mut self) -> &mut [u8; Key::LENGTH] {
        &mut self.0
    }
}

impl Key {
    /// Bytes in a key.
    pub const LENGTH: usize = 32;

    /// A key of these bytes. Wipe your own copy of them.
    ///
    /// # Errors
    /// [`KeyError::AllZero`] if all bytes are zero, which is always a mistake.
    pub fn from_bytes(mut bytes: [u8; Self::LENGTH]) -> Result<Self, KeyError> {
        let mut secret = Secret::zeros();
        secret.copy_from_slice(&bytes);
        // The argument is a copy as well.
        bytes.as_mut_slice().zeroize();
        Self::checked(secret)
    }

    fn checked(bytes: Secret) -> Result<Self, KeyError> {
        // All bytes are read, so that the time does not depend on them.
        if bytes.iter().fold(0, |all, byte| all | byte) == 0 {
            return Err(KeyError::AllZero);
        }
        Ok(Self(bytes))
    }

    /// A new key from a cryptographic random number generator.
    ///
    /// # Errors
    /// [`KeyError::Entropy`] if the generator fails, [`KeyError::AllZero`] if it returns only
    /// zeros.
    pub fn generate<R: TryCryptoRng + ?Sized>(rng: &mut R) -> Result<Self, KeyError> {
        let mut bytes = Secret::zeros();
        rng.try_fill_bytes(bytes.as_mut_slice())
            .map_err(|_| KeyError::Entropy)?;
        Self::checked(bytes)
    }

    /// A key from its text form, 64 hexadecimal digits of either case. ASCII white space around
    /// them is ignored, because a file ends in a line break.
    ///
    /// # Errors
    /// [`KeyError::Text`] for anything but 64 digits, [`KeyError::AllZero`] for 64 zeros.
    pub fn from_hex(text: &[u8]) -> Result<Self, KeyError> {
        let text = text.trim_ascii();
        let mut bytes = Secret::zeros();
        if text.len() != 2 * Self::LENGTH {
            return Err(KeyError::Text { digits: text.len() });
        }
        base16ct::mixed::decode(text, bytes.as_mut_slice()).map_err(|_| KeyError::Text { digits: text.len() })?;
        Self::checked(bytes)
    }

    /// Writes the text form, 64 lower-case hexadecimal digits. It is as secret as the key: wipe it
    /// after use.
    ///
    /// ```
    /// # let key = falco_core::Key::from_bytes([7; 32]).unwrap();
    /// let mut text = [0; 64];
    /// assert_eq!(key.write_hex(&mut text), "07".repeat(32));
    /// ```
    pub fn write_hex<'t>(&self, text: &'t mut [u8; 2 * Self::LENGTH]) -> &'t str {
        // Cannot fail: the types fix both lengths. `from_hex` would reject the empty text.
        base16ct::lower::encode_str(self.0.as_slice(), text).unwrap_or("")
    }

    /// The secret bytes, to derive keys from.
    pub(crate) fn secret(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }
}

impl ZeroizeOnDrop for Key {}

impl Zeroize for Key {
    fn zeroize(&mut self) {
        self.0.as_mut_slice().zeroize();
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::from_hex(text.as_bytes())
    }
}

/// Why a key was not created. It contains no part of the text or the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// All 32 bytes are zero.
    AllZero,
    /// The text is not 64 hexadecimal digits.
    Text {
        /// The length of the text in bytes, without white space at its ends.
        digits: usize,
    },
    /// The random number generator failed.
    Entropy,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllZero => f.write_str("a key of 32 zero bytes is refused"),
            Self::Text { digits: 64 } => f.write_str("a key is 64 hexadecimal digits; this text has other characters"),
            Self::Text { digits } => {
                let length = Counted(*digits, "character");
                write!(f, "a key is 64 hexadecimal digits; this text has {length}")
            }
            Self::Entropy => f.write_str("the random number generator failed"),
        }
    }
}

impl core::error::Error for KeyError {}
