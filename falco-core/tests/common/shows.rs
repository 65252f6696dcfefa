//! Finds bytes of a secret in printed text.

use core::fmt::{Debug, Write};

/// Prints `thing` in all forms of `Debug`, without white space.
pub(crate) fn printed(thing: &dyn Debug) -> String {
    let mut text = String::new();
    write!(
        text,
        "{thing:?}|{thing:#?}|{thing:x?}|{thing:#x?}|{thing:X?}|{thing:#X?}"
    )
    .unwrap();
    text.retain(|letter| !letter.is_ascii_whitespace());
    text
}

/// Whether any three consecutive bytes of `secret` are in `text`: as decimal or hexadecimal
/// numbers, or as consecutive digits.
pub(crate) fn shows(text: &str, secret: &[u8]) -> bool {
    let forms = |bytes: &[u8]| {
        let list = |form: fn(&u8) -> String, between: &str| bytes.iter().map(form).collect::<Vec<_>>().join(between);
        [
            list(|byte| format!("{byte}"), ","),
            list(|byte| format!("{byte:x}"), ","),
            list(|byte| format!("{byte:X}"), ","),
            list(|byte| format!("{byte:#x}"), ","),
            list(|byte| format!("{byte:#X}"), ","),
            list(|byte| format!("{byte:02x}"), ""),
            list(|byte| format!("{byte:02X}"), ""),
        ]
    };
    secret.windows(3).flat_map(forms).any(|form| text.contains(&form))
}
