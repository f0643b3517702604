//! Durations and sizes with units, as the command line takes them. Pure.

use std::time::Duration;

/// Reads `500ms`, `30s`, `2m`, `1h`; a bare number is seconds. Zero is refused: it never is what was meant.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let value: f64 = number.parse().map_err(|_| format!("`{text}` is not a duration: write 500ms, 30s, 2m or 1h"))?;
    let seconds = match unit {
        "ms" => value / 1e3,
        "s" | "" => value,
        "m" | "min" => value * 60.0,
        "h" => value * 3600.0,
        _ => return Err(format!("`{unit}` is not a unit of time: use ms, s, m or h")),
    };
    if seconds <= 0.0 {
        return Err(format!("`{text}` is no time at all: give a duration above zero, such as 10s"));
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("`{text}` is too long"))
}

/// Reads `64KiB`, `16MiB`, `1GiB`, `500k`; a bare number is bytes.
pub fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let value: f64 = number.parse().map_err(|_| format!("`{text}` is not a size: write 64KiB, 16MiB or 1GiB"))?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "kb" => 1e3,
        "m" | "mib" => 1024.0 * 1024.0,
        "mb" => 1e6,
        "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "gb" => 1e9,
        _ => return Err(format!("`{unit}` is not a unit of size: use KiB, MiB or GiB")),
    };
    let bytes = value * factor;
    if !(1.0..1e15).contains(&bytes) {
        return Err(format!("`{text}` is no usable size"));
    }
    Ok(bytes as u64)
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..at], text[at..].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_take_units_and_refuse_zero() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        for wrong in ["0", "0s", "", "s", "3 parsecs", "-1s", "1e999h"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn sizes_take_binary_and_decimal_units() {
        assert_eq!(size("64KiB"), Ok(65536));
        assert_eq!(size("16MiB"), Ok(16 << 20));
        assert_eq!(size("1k"), Ok(1024));
        assert_eq!(size("1kB"), Ok(1000));
        assert_eq!(size("4096"), Ok(4096));
        for wrong in ["0", "", "MiB", "1 mile", "99999999TiB"] {
            assert!(size(wrong).is_err(), "{wrong:?}");
        }
    }
}
