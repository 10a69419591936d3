//! Numbers for people: three digits that count, and a unit.

/// What is said of what was not measured.
pub(crate) const NOT_MEASURED: &str = "not measured";

/// What a number counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Unit {
    Bytes,
    Count,
    Milliseconds,
    PerSecond,
}

impl Unit {
    /// With its unit.
    pub(crate) fn show(self, value: f64) -> String {
        match self {
            Self::Bytes => bytes(value),
            Self::Count => count(value),
            Self::Milliseconds if value >= 10_000.0 => seconds(value / 1e3),
            Self::Milliseconds => format!("{} ms", digits(value)),
            Self::PerSecond => format!("{}/s", digits(value)),
        }
    }

    /// With its unit, or that it was not measured.
    pub(crate) fn show_if(self, value: Option<f64>) -> String {
        value.map_or_else(|| NOT_MEASURED.to_owned(), |value| self.show(value))
    }
}

/// A part of something else.
pub(crate) fn ratio(part: f64) -> String {
    match part {
        small if small < 0.0995 => format!("{small:.3}"),
        large if large >= 9.995 => digits(large),
        middle => format!("{middle:.2}"),
    }
}

/// A part that is judged: 1.031 is not to be shown as 1.03.
pub(crate) fn exact_ratio(part: f64) -> String {
    format!("{part:.3}")
}

/// Seconds.
pub(crate) fn seconds(value: f64) -> String {
    digits(value) + " s"
}

/// A whole number.
pub(crate) fn count(value: f64) -> String {
    grouped(&format!("{value:.0}"))
}

fn bytes(value: f64) -> String {
    let units = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    // What would be shown as 1,000 of a unit is one of the next.
    let fits = units.into_iter().find(|(size, _)| value >= size * 0.9995);
    let (size, unit) = fits.unwrap_or((1.0, "B"));
    if size > 1.0 {
        format!("{} {unit}", digits(value / size))
    } else {
        format!("{value:.0} {unit}")
    }
}

/// Three digits that count, or all before the point.
fn digits(value: f64) -> String {
    let decimals = match value.abs() {
        large if large >= 99.95 => 0,
        middle if middle >= 9.995 => 1,
        small if small >= 0.9995 || small == 0.0 => 2,
        _ => 3,
    };
    grouped(&format!("{value:.decimals$}"))
}

/// Thousands set off by commas.
fn grouped(number: &str) -> String {
    let (whole, rest) = number.split_at(number.find('.').unwrap_or(number.len()));
    let (sign, whole) = whole.split_at(usize::from(whole.starts_with('-')));
    let mut out = sign.to_owned();
    for (at, digit) in whole.char_indices() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_count() {
        let shown = |unit: Unit, values: &[f64]| {
            values
                .iter()
                .map(|value| unit.show(*value))
                .collect::<Vec<_>>()
        };
        let bytes = [0.0, 999.0, 1000.0, 8_294_120.0, 70_606_848.0, 999_900_000.0];
        let expected = ["0 B", "999 B", "1.00 kB", "8.29 MB", "70.6 MB", "1.00 GB"];
        assert_eq!(shown(Unit::Bytes, &bytes), expected);
        let times = [0.0, 0.0123, 0.5, 32.5, 4050.0, 61_000.0];
        let expected = [
            "0.00 ms", "0.012 ms", "0.500 ms", "32.5 ms", "4,050 ms", "61.0 s",
        ];
        assert_eq!(shown(Unit::Milliseconds, &times), expected);
        assert_eq!(shown(Unit::Count, &[7.0, 10_508.0]), ["7", "10,508"]);
        assert_eq!(shown(Unit::PerSecond, &[34_818.4]), ["34,818/s"]);
        assert_eq!(Unit::Bytes.show_if(None), "not measured");
    }

    #[test]
    fn negative_numbers_keep_their_sign() {
        assert_eq!(Unit::Milliseconds.show(-1234.0), "-1,234 ms");
        assert_eq!(Unit::Milliseconds.show(-0.25), "-0.250 ms");
    }

    #[test]
    fn parts_show_what_counts() {
        assert_eq!(
            [0.0094, 0.967, 1.0, 84.86].map(ratio),
            ["0.009", "0.97", "1.00", "84.9"].map(str::to_owned)
        );
    }
}
