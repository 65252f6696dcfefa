//! The shared secret: how it is made, read and written. What is derived from it lives with the wire
//! that derives it.

use core::fmt;
use core::str::FromStr;

use rand_core::TryCryptoRng;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Bytes in a key.
pub const KEY_LENGTH: usize = 32;

/// The 32 secret bytes that both ends of a connection hold.
///
/// There is no constructor from a password: a key is drawn from a random number generator and
/// carried as 64 hexadecimal digits. It is wiped when dropped, cannot be cloned, and shows nothing
/// of itself in `Debug`.
///
/// ```
/// use falco_core::Key;
///
/// let key: Key = "a315c8024ab172f90691f92ac072d57d3aac129b4d1024d536f0ac6b9236b554".parse()?;
/// assert_eq!(format!("{key:?}"), "Key(..)");
/// assert!("00".repeat(32).parse::<Key>().is_err());
/// # Ok::<(), falco_core::KeyError>(())
/// ```
pub struct Key(Zeroizing<[u8; KEY_LENGTH]>);

impl Key {
    /// A key of these bytes. The caller's own copy of them stays the caller's to wipe.
    ///
    /// # Errors
    /// [`KeyError::AllZero`] for the one value that is always a mistake.
    pub fn from_bytes(bytes: [u8; KEY_LENGTH]) -> Result<Self, KeyError> {
        Self::checked(Zeroizing::new(bytes))
    }

    fn checked(bytes: Zeroizing<[u8; KEY_LENGTH]>) -> Result<Self, KeyError> {
        // Every byte is looked at, whatever the first ones are.
        if bytes.iter().fold(0, |all, byte| all | byte) == 0 {
            return Err(KeyError::AllZero);
        }
        Ok(Self(bytes))
    }

    /// A fresh key from the caller's cryptographic random number generator.
    ///
    /// # Errors
    /// [`KeyError::Entropy`] where the generator fails, [`KeyError::AllZero`] where it yields only
    /// zeros.
    pub fn generate<R: TryCryptoRng + ?Sized>(rng: &mut R) -> Result<Self, KeyError> {
        let mut bytes = Zeroizing::new([0; KEY_LENGTH]);
        rng.try_fill_bytes(bytes.as_mut_slice())
            .map_err(|_| KeyError::Entropy)?;
        Self::checked(bytes)
    }

    /// A key from its text form, 64 hexadecimal digits of either case. Surrounding ASCII white
    /// space is allowed, as a file ends in it.
    ///
    /// # Errors
    /// [`KeyError::Text`] for anything but 64 digits, [`KeyError::AllZero`].
    pub fn from_hex(text: &[u8]) -> Result<Self, KeyError> {
        let text = text.trim_ascii();
        let mut bytes = Zeroizing::new([0; KEY_LENGTH]);
        if text.len() != 2 * KEY_LENGTH {
            return Err(KeyError::Text { digits: text.len() });
        }
        base16ct::mixed::decode(text, bytes.as_mut_slice()).map_err(|_| KeyError::Text { digits: text.len() })?;
        Self::checked(bytes)
    }

    /// Writes the text form, 64 lower-case hexadecimal digits, which is as secret as the key: wipe
    /// it after use.
    ///
    /// ```
    /// # let key = falco_core::Key::from_bytes([7; 32]).unwrap();
    /// let mut text = [0; 64];
    /// assert_eq!(key.write_hex(&mut text), "07".repeat(32));
    /// ```
    pub fn write_hex<'t>(&self, text: &'t mut [u8; 2 * KEY_LENGTH]) -> &'t str {
        // Both lengths are fixed by their types, so encoding cannot fail; an empty text would be
        // refused by every reader.
        base16ct::lower::encode_str(self.0.as_slice(), text).unwrap_or("")
    }

    /// The secret bytes, for what derives keys from them.
    pub(crate) fn secret(&self) -> &[u8; KEY_LENGTH] {
        &self.0
    }
}

impl ZeroizeOnDrop for Key {}

impl Zeroize for Key {
    fn zeroize(&mut self) {
        self.0.zeroize();
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

/// Why there is no key. Nothing of the text or the bytes is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// All 32 bytes are zero.
    AllZero,
    /// The text is not 64 hexadecimal digits.
    Text {
        /// How many characters there were.
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
            Self::Text { digits } => write!(f, "a key is 64 hexadecimal digits; this text has {digits} characters"),
            Self::Entropy => f.write_str("the random number generator failed"),
        }
    }
}

impl core::error::Error for KeyError {}
