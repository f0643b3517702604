//! Names and paths as the kernel gives them, made safe to print: the one function through which each enters the model.

/// The text of a name: up to its first zero byte, with control characters, invisible direction marks and bytes that are not
/// UTF-8 written as `\xNN` or `\u{N}`. A thread can give itself any name, so a terminal must never see one as it is.
pub fn printable(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let mut text = String::with_capacity(end);
    for chunk in bytes[..end].utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                c if c.is_ascii_control() => push_byte(&mut text, c as u8),
                c if c.is_control() || is_invisible(c) => text.extend(c.escape_unicode()),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            push_byte(&mut text, *byte);
        }
    }
    text
}

fn push_byte(text: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    text.push_str("\\x");
    text.push(DIGITS[usize::from(byte >> 4)] as char);
    text.push(DIGITS[usize::from(byte & 15)] as char);
}

/// Line and paragraph separators, zero-width characters and those that change the direction of writing.
const fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{ad}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_steer_a_terminal() {
        assert_eq!(printable(b"worker-1\0junk"), "worker-1");
        assert_eq!(printable(b"\x1b[2Jgone\n"), "\\x1b[2Jgone\\x0a");
        assert_eq!(printable(b"bad\xff\xfebytes"), "bad\\xff\\xfebytes");
        assert_eq!(printable("d\u{e9}j\u{e0}".as_bytes()), "d\u{e9}j\u{e0}");
        assert_eq!(printable("a\u{202e}b\u{85}".as_bytes()), "a\\u{202e}b\\u{85}");
        assert_eq!(printable(b"cut \xe2\x82"), "cut \\xe2\\x82", "a character cut at the end of a comm");
    }
}
