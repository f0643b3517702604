//! Numbers as people read them. The same in every locale; machines get the numbers themselves.

/// A length of time with three digits: "3.21 s", "45.0 ms", "120 us". Longer than ten minutes: "12 min 5 s".
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "?".to_owned();
    }
    if seconds >= 600.0 {
        let whole = seconds.round() as u64;
        return format!("{} min {} s", whole / 60, whole % 60);
    }
    let (value, unit) = match seconds {
        s if s <= 0.0 => return "0 s".to_owned(),
        s if s >= 0.999_5 => (s, "s"),
        s if s >= 0.000_999_5 => (s * 1e3, "ms"),
        s if s >= 0.000_000_999_5 => (s * 1e6, "us"),
        s => (s * 1e9, "ns"),
    };
    let decimals = match value {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.decimals$} {unit}")
}

/// A share as a percentage: "64 %", "3.2 %", "<0.1 %".
pub fn percent(share: f64) -> String {
    match share * 100.0 {
        p if !p.is_finite() => "?".to_owned(),
        p if p <= 0.0 => "0 %".to_owned(),
        p if p < 0.1 => "<0.1 %".to_owned(),
        // Only all of it is 100 %.
        p if share < 1.0 && p > 99.9 => ">99.9 %".to_owned(),
        p if p < 9.95 || p > 99.0 && share < 1.0 => format!("{p:.1} %"),
        p => format!("{p:.0} %"),
    }
}

/// A size in binary units: "48.0 MiB".
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A count with its noun: "1 wait", "1,234 waits".
pub fn count(number: u64, noun: &str) -> String {
    let plural = match number {
        1 => "",
        _ if noun.ends_with('s') || noun.ends_with("sh") => "es",
        _ => "s",
    };
    format!("{} {noun}{plural}", grouped(number))
}

/// A whole number with its thousands apart.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_keep_three_digits_and_change_their_unit() {
        let expected = [
            (0.0, "0 s"),
            (3.214, "3.21 s"),
            (0.9996, "1.00 s"),
            (0.045, "45.0 ms"),
            (0.00012, "120 us"),
            (0.000_000_05, "50.0 ns"),
            (123.4, "123 s"),
            (725.0, "12 min 5 s"),
        ];
        for (seconds, text) in expected {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn a_share_is_never_rounded_to_all_or_nothing() {
        let expected =
            [(0.0, "0 %"), (0.0001, "<0.1 %"), (0.032, "3.2 %"), (0.64, "64 %"), (0.9999, ">99.9 %"), (1.0, "100 %")];
        for (share, text) in expected {
            assert_eq!(percent(share), text, "{share}");
        }
        assert_eq!(
            (percent(0.995), grouped(1_234_567), bytes(50_331_648)),
            ("99.5 %".to_owned(), "1,234,567".to_owned(), "48.0 MiB".to_owned())
        );
    }
}
