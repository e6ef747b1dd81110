//! Numbers as Python prints them: `repr`, and the `%f` and `%g` of C.

/// `repr(value)`: the shortest digits that give the value back, with a point or an exponent.
pub(crate) fn repr(value: f64) -> String {
    if !value.is_finite() {
        return not_finite(value);
    }
    let shortest = format!("{value:e}");
    let (digits, exponent) = parts(&shortest);
    if (-4..16).contains(&exponent) {
        // Rust prints plain digits whatever the size, and whole numbers without a point.
        let plain = format!("{value}");
        return if plain.contains('.') { plain } else { format!("{plain}.0") };
    }
    with_exponent(digits, exponent)
}

/// `"%f" % value`
pub(crate) fn fixed(value: f64) -> String {
    if value.is_finite() { format!("{value:.6}") } else { not_finite(value) }
}

/// `"%.{digit_count}g" % value`; at least one digit.
pub(crate) fn general(value: f64, digit_count: usize) -> String {
    if !value.is_finite() {
        return not_finite(value);
    }
    let scientific = format!("{value:.*e}", digit_count - 1);
    let (digits, exponent) = parts(&scientific);
    let decimals = i64::try_from(digit_count).expect("few digits") - 1 - i64::from(exponent);
    match usize::try_from(decimals) {
        Ok(decimals) if exponent >= -4 => without_zeros(&format!("{value:.decimals$}")).to_owned(),
        _ => with_exponent(without_zeros(digits), exponent),
    }
}

/// The digits and the exponent of Rust's scientific notation.
fn parts(scientific: &str) -> (&str, i32) {
    let (digits, exponent) = scientific.split_once('e').expect("scientific notation has an e");
    (digits, exponent.parse().expect("an exponent of Rust's"))
}

/// Python's exponents have a sign and two digits or three.
fn with_exponent(digits: &str, exponent: i32) -> String {
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

/// The number without the zeros at the end of its fraction.
fn without_zeros(number: &str) -> &str {
    if !number.contains('.') {
        return number;
    }
    number.trim_end_matches('0').trim_end_matches('.')
}

fn not_finite(value: f64) -> String {
    let text = match (value.is_nan(), value > 0.0) {
        (true, _) => "nan",
        (false, true) => "inf",
        (false, false) => "-inf",
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repr_is_pythons() {
        let check = |value: f64, want: &str| assert_eq!(repr(value), want);
        check(0.0, "0.0");
        check(-0.0, "-0.0");
        check(1.0, "1.0");
        check(0.1, "0.1");
        check(f64::from(0.3_f32), "0.30000001192092896");
        check(1e15, "1000000000000000.0");
        check(9_999_999_999_999_998.0, "9999999999999998.0");
        check(1e16, "1e+16");
        check(1.5e300, "1.5e+300");
        check(1e-4, "0.0001");
        check(1.25e-5, "1.25e-05");
        check(5e-324, "5e-324");
        check(-1e22, "-1e+22");
        check(f64::NAN, "nan");
        check(-f64::NAN, "nan");
        check(f64::INFINITY, "inf");
        check(f64::NEG_INFINITY, "-inf");
    }

    #[test]
    fn c_formats_are_cs() {
        let check = |value: f64, want_fixed: &str, want_six: &str| {
            assert_eq!((fixed(value).as_str(), general(value, 6).as_str()), (want_fixed, want_six));
        };
        check(0.0, "0.000000", "0");
        check(-0.0, "-0.000000", "-0");
        check(0.5, "0.500000", "0.5");
        check(f64::from(0.3_f32), "0.300000", "0.3");
        check(1e5, "100000.000000", "100000");
        check(999_999.5, "999999.500000", "1e+06");
        check(1e-4, "0.000100", "0.0001");
        check(1.25e-5, "0.000013", "1.25e-05");
        check(0.000_000_5, "0.000000", "5e-07");
        check(f64::NAN, "nan", "nan");
        check(f64::NEG_INFINITY, "-inf", "-inf");
        assert_eq!(general(0.1, 35), "0.1000000000000000055511151231257827");
        assert_eq!(general(1e300, 35), "1.0000000000000000525047602552044202e+300");
        assert_eq!(general(1e22, 35), "10000000000000000000000");
    }
}
