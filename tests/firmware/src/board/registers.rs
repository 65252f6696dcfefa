//! References to addresses of this board. It is the only file with unsafe code: the addresses of
//! registers come from the board's manual.
#![allow(
    unsafe_code,
    reason = "an address from the board's manual becomes a reference, once for each block"
)]

use core::mem::size_of;
use core::ptr::{addr_of, read_volatile, with_exposed_provenance};

use tock_registers::registers::{ReadOnly, ReadWrite};

/// The first serial port, a PL011 as far as it is used here.
#[repr(C)]
pub(crate) struct Uart {
    pub(crate) data: ReadWrite<u32>,
    _status: [ReadOnly<u32>; 5],
    pub(crate) flags: ReadOnly<u32>,
    _other: [ReadOnly<u32>; 4],
    pub(crate) line_control: ReadWrite<u32>,
    pub(crate) control: ReadWrite<u32>,
}

/// What a factory writes to the last page of flash.
#[repr(C)]
pub(crate) struct Factory {
    pub(crate) role: ReadOnly<u32>,
    pub(crate) seed: [ReadOnly<u32>; 8],
    pub(crate) key: [ReadOnly<u32>; 8],
}

/// The serial port.
pub(crate) fn uart() -> &'static Uart {
    // SAFETY: UART0 is at this address, and its registers are only accessed through cells.
    unsafe { &*with_exposed_provenance::<Uart>(0x4000_C000) }
}

/// The factory's page.
pub(crate) fn factory() -> &'static Factory {
    // SAFETY: memory.x leaves the last KiB of flash out, and nothing writes to it.
    unsafe { &*with_exposed_provenance::<Factory>(0x0003_FC00) }
}

/// Bytes of the stack that were ever in use: those without the paint that cortex-m-rt puts there at
/// the start.
pub(crate) fn stack_used() -> usize {
    unsafe extern "C" {
        static _stack_start: u32;
        static _stack_end: u32;
    }
    let (low, high) = (addr_of!(_stack_end), addr_of!(_stack_start));
    let words = (high.addr() - low.addr()) / size_of::<u32>();
    let mut free = 0;
    // SAFETY: every word from `low` to `high` is RAM; a word that is in use is read once, and its
    // value only compared.
    while free < words && unsafe { read_volatile(low.add(free)) } == 0xCCCC_CCCC {
        free += 1;
    }
    (words - free) * size_of::<u32>()
}
