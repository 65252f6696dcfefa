//! The board: its serial port, its clock, its entropy, and output to the host. A product replaces
//! it.
//!
//! The loop polls the serial port, which holds 16 bytes. Overruns and framing errors are ignored,
//! because QEMU holds bytes back until there is room. A real line does not. There a product
//! receives by interrupt or DMA into a queue that holds what comes during a handshake, and ends a
//! connection whose bytes were lost.

mod registers;

use core::cell::Cell;
use core::sync::atomic::{AtomicU32, Ordering};

use cortex_m::Peripherals;
#[cfg(feature = "meter")]
use cortex_m::peripheral::SYST;
use cortex_m::peripheral::syst::SystClkSource;
use falco_core::crypto::{Aead, AeadError, Crypto};
use falco_core::{Instant, Key, RustCrypto};
use tock_registers::interfaces::{Readable, Writeable};

pub(crate) use registers::stack_used;

/// Ticks of the timer in a millisecond: the processor runs at 12.5 MHz after a reset.
const TICKS: u32 = 12_500;

/// Where the timer starts to count down: from a millisecond, or for the meter from all its 24 bits.
const RELOAD: u32 = if cfg!(feature = "meter") {
    0x00ff_ffff
} else {
    TICKS - 1
};

/// Milliseconds since the start. Only the timer's interrupt writes it.
static MILLIS: AtomicU32 = AtomicU32::new(0);

/// Counts milliseconds. Its interrupt also ends every sleep.
#[allow(
    unsafe_code,
    reason = "the macro exports the handler under the name that the vectors have"
)]
mod vectors {
    use super::{MILLIS, Ordering};
    use cortex_m_rt::exception;

    #[exception]
    fn SysTick() {
        // A load and a store, because the smallest cores have no atomic addition.
        MILLIS.store(MILLIS.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }
}

/// The timer of the core, counting milliseconds. They wrap after 49 days. A product extends them to
/// 64 bits.
pub(crate) struct Clock;

#[allow(clippy::unused_self, reason = "a clock exists only after it was started")]
impl Clock {
    pub(crate) fn start() -> Self {
        if let Some(Peripherals { mut SYST, .. }) = Peripherals::take() {
            SYST.set_clock_source(SystClkSource::Core);
            SYST.set_reload(RELOAD);
            SYST.clear_current();
            if !cfg!(feature = "meter") {
                SYST.enable_interrupt();
            }
            SYST.enable_counter();
        }
        Self
    }

    pub(crate) fn now(&self) -> Instant {
        Instant::from_millis(MILLIS.load(Ordering::Relaxed).into())
    }

    /// Sleeps until the next interrupt, which is never more than a millisecond away.
    pub(crate) fn rest(&self) {
        cortex_m::asm::wfi();
    }

    /// Ticks of the timer, which wrap after [`RELOAD`]. The meter uses no interrupt to count the
    /// wraps, because the counter and the state of the interrupt cannot be read at the same time.
    #[cfg(feature = "meter")]
    pub(crate) fn ticks() -> u32 {
        RELOAD.wrapping_sub(SYST::get_current())
    }

    /// Ticks since `before`, modulo [`RELOAD`] + 1: correct for up to 1.3 s.
    #[cfg(feature = "meter")]
    pub(crate) fn ticks_since(before: u32) -> u32 {
        Self::ticks().wrapping_sub(before) & RELOAD
    }
}

/// The serial port. Its functions do not block.
pub(crate) struct Uart(&'static registers::Uart);

const RECEIVE_EMPTY: u32 = 1 << 4;
const TRANSMIT_FULL: u32 = 1 << 5;

impl Uart {
    pub(crate) fn start() -> Self {
        let uart = registers::uart();
        uart.control.set(0);
        // Eight bits, queues enabled.
        uart.line_control.set(0x70);
        uart.control.set(0x301);
        Self(uart)
    }

    /// Whether a byte has come.
    pub(crate) fn has_byte(&self) -> bool {
        self.0.flags.get() & RECEIVE_EMPTY == 0
    }

    /// Whether a byte can be written.
    pub(crate) fn has_room(&self) -> bool {
        self.0.flags.get() & TRANSMIT_FULL == 0
    }

    /// Reads what has come, as far as there is room.
    #[inline(never)]
    pub(crate) fn read(&self, room: &mut [u8]) -> usize {
        let mut count = 0;
        for place in room {
            if !self.has_byte() {
                break;
            }
            *place = self.0.data.get().to_le_bytes()[0];
            count += 1;
        }
        count
    }

    /// Drops what has come, at most 1 KiB, so that endless input does not block the loop.
    pub(crate) fn discard(&self) {
        for _ in 0..1024 {
            if !self.has_byte() {
                break;
            }
            self.0.data.get();
        }
    }

    /// Writes as much as the port can hold.
    #[inline(never)]
    pub(crate) fn write(&self, bytes: &[u8]) -> usize {
        let mut count = 0;
        for byte in bytes {
            if !self.has_room() {
                break;
            }
            self.0.data.set(u32::from(*byte));
            count += 1;
        }
        count
    }
}

/// What the factory wrote. The copies of key and seed on the stack are not wiped, to save flash. A
/// product wipes them.
pub(crate) struct Factory(&'static registers::Factory);

impl Factory {
    pub(crate) fn read() -> Self {
        Self(registers::factory())
    }

    /// Which role the image plays.
    pub(crate) fn role(&self) -> u32 {
        self.0.role.get()
    }

    /// The shared key, with its last byte changed by `difference`.
    pub(crate) fn key(&self, difference: u8) -> Option<Key> {
        let mut bytes = bytes(&self.0.key);
        bytes[31] ^= difference;
        Key::from_bytes(bytes).ok()
    }

    /// The entropy of this run.
    pub(crate) fn entropy(&self) -> Entropy {
        Entropy {
            aead: RustCrypto.aead(&bytes(&self.0.seed)),
            drawn: Cell::new(0),
        }
    }
}

#[inline(never)]
fn bytes(words: &[tock_registers::registers::ReadOnly<u32>; 8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.get().to_le_bytes());
    }
    bytes
}

/// Random bytes from the factory's seed: the key stream of the AEAD, which does not repeat within a
/// run.
///
/// After a reset the same seed gives the same bytes: the same ephemeral keys, and the same nonces
/// under the key of the classic wire, which breaks the encryption. `run` therefore writes a new
/// seed before each start. A product uses its TRNG at each start, or replaces a stored seed by one
/// derived from it before it uses the first byte.
pub(crate) struct Entropy {
    aead: <RustCrypto as Crypto>::Aead,
    /// How often random bytes were drawn.
    drawn: Cell<u64>,
}

impl Entropy {
    #[inline(never)]
    fn fill(&self, to: &mut [u8]) -> Result<(), AeadError> {
        self.drawn.set(self.drawn.get() + 1);
        let mut nonce = [0; 12];
        if let Some(place) = nonce.first_chunk_mut() {
            *place = self.drawn.get().to_be_bytes();
        }
        to.fill(0);
        self.aead.seal(&nonce, &[], to, &[]).map(|_| ())
    }
}

impl rand_core::TryRng for &Entropy {
    type Error = AeadError;

    fn try_next_u32(&mut self) -> Result<u32, AeadError> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, AeadError> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), AeadError> {
        self.fill(to)
    }
}

impl rand_core::TryCryptoRng for &Entropy {}

/// Prints `name number` on the host, without `core::fmt`, which would need more flash.
pub(crate) fn say(name: &str, number: usize) {
    for byte in name.bytes() {
        semihosting::sys::arm_compat::sys_writec(byte);
    }
    semihosting::sys::arm_compat::sys_writec(b' ');
    digits(number);
    semihosting::sys::arm_compat::sys_writec(b'\n');
}

fn digits(number: usize) {
    let mut power = 1_000_000_000;
    let mut rest = number;
    let mut begun = false;
    while power > 0 {
        let mut digit = b'0';
        while rest >= power {
            rest -= power;
            digit += 1;
        }
        begun = begun || digit > b'0' || power == 1;
        if begun {
            semihosting::sys::arm_compat::sys_writec(digit);
        }
        power /= 10;
    }
}

/// Ends the run with this exit code.
pub(crate) fn exit(code: i32) -> ! {
    semihosting::process::exit(code)
}
