//! Retention strings, `step:points` or `step:duration`, as carbon and as go-carbon read them.
//!
//! carbon's reading is used. go-carbon reads `60s:1440` as 1,440 seconds where carbon reads 1,440
//! points, so both are computed and a difference is reported.

use std::fmt;

use crate::metric::series::Retention;

/// Why carbon refuses a retention string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetentionError {
    /// Not two parts with one colon between.
    PartCount,
    /// The first part is not a number, alone or with a unit.
    Step,
    /// The second part is not a number, alone or with a unit.
    Points,
    /// A unit that is not exactly one of s, m, h, d, w, y.
    Unit,
    /// A duration over a step of zero seconds.
    ZeroStep,
    /// A number beyond 32 bits, which no Whisper file can hold.
    TooLarge,
}

impl fmt::Display for RetentionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RetentionError::PartCount => "must be two parts with one colon between",
            RetentionError::Step => "the step is not a number with an optional unit",
            RetentionError::Points => "the points are not a number with an optional unit",
            RetentionError::Unit => "the unit must be one letter of s, m, h, d, w, y",
            RetentionError::ZeroStep => "the step is zero",
            RetentionError::TooLarge => "a number is greater than 4294967295",
        })
    }
}

/// carbon's reading of one retention string, which may have blanks around it. Step and points may
/// be zero: `60s:30s` is no points.
///
/// # Errors
/// What carbon exits on, and numbers beyond 32 bits.
pub fn read_as_carbon(text: &str) -> Result<Retention, RetentionError> {
    let (step, points) = text.trim().split_once(':').ok_or(RetentionError::PartCount)?;
    if points.contains(':') {
        return Err(RetentionError::PartCount);
    }
    let step = Part::read(step).map_err(|error| error.unwrap_or(RetentionError::Step))?;
    let points = Part::read(points).map_err(|error| error.unwrap_or(RetentionError::Points))?;
    let step_s = step.number.checked_mul(step.unit_s.unwrap_or(1));
    let step_s = step_s.ok_or(RetentionError::TooLarge)?;
    let slot_count = match points.unit_s {
        None => points.number,
        Some(unit_s) => {
            let duration_s = points.number.checked_mul(unit_s).ok_or(RetentionError::TooLarge)?;
            duration_s.checked_div(step_s).ok_or(RetentionError::ZeroStep)?
        }
    };
    let narrow = |number: u64| u32::try_from(number).map_err(|_| RetentionError::TooLarge);
    Ok(Retention { step_s: narrow(step_s)?, slot_count: narrow(slot_count)? })
}

/// The reading of whisper's own tools: carbon's, but a unit may be any beginning of its word, as
/// in `5min:1year`.
///
/// # Errors
/// What whisper refuses, and numbers beyond 32 bits.
pub fn read_as_whisper(text: &str) -> Result<Retention, RetentionError> {
    let (step, points) = text.trim().split_once(':').ok_or(RetentionError::PartCount)?;
    let short = |part: &str| {
        let digits_end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        let (digits, unit) = part.split_at(digits_end);
        let word = UNIT_WORDS.into_iter().find(|word| word.starts_with(unit));
        word.filter(|_| !unit.is_empty()).map(|word| format!("{digits}{}", &word[..1]))
    };
    let (short_step, short_points) = (short(step), short(points));
    let step = short_step.as_deref().unwrap_or(step);
    read_as_carbon(&format!("{step}:{}", short_points.as_deref().unwrap_or(points)))
}

/// Units in the order in which whisper looks for one.
const UNIT_WORDS: [&str; 6] = ["seconds", "minutes", "hours", "days", "weeks", "years"];

/// go-carbon's reading of the same string: seconds and points, which may be negative. Nothing
/// where it refuses to start.
pub fn read_as_go_carbon(text: &str) -> Option<(i64, i64)> {
    let (step, points) = text.trim().split_once(':')?;
    if let (Ok(step_s), Ok(slot_count)) = (step.parse(), points.parse()) {
        return Some((step_s, slot_count));
    }
    let step_s = go_seconds(step)?;
    Some((step_s, go_seconds(points)?.checked_div(step_s)?))
}

/// A number with its unit in seconds, if it has one.
struct Part {
    number: u64,
    unit_s: Option<u64>,
}

impl Part {
    /// Reads digits and at most one lower-case unit. An error of `None` means another shape.
    fn read(text: &str) -> Result<Part, Option<RetentionError>> {
        let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(digits_end);
        if digits.is_empty() || !unit.bytes().all(|byte| byte.is_ascii_lowercase()) {
            return Err(None);
        }
        let number = digits.parse().map_err(|_| Some(RetentionError::TooLarge))?;
        let unit_s = match unit.as_bytes() {
            [] => None,
            [letter] => Some(unit_seconds(*letter).ok_or(Some(RetentionError::Unit))?),
            _ => return Err(Some(RetentionError::Unit)),
        };
        Ok(Part { number, unit_s })
    }
}

/// Seconds of a unit.
fn unit_seconds(letter: u8) -> Option<u64> {
    match letter {
        b's' => Some(1),
        b'm' => Some(60),
        b'h' => Some(60 * 60),
        b'd' => Some(24 * 60 * 60),
        b'w' => Some(7 * 24 * 60 * 60),
        b'y' => Some(365 * 24 * 60 * 60),
        _ => None,
    }
}

/// go-carbon's reading of a part: a signed number of seconds, or digits and letters of units of
/// which the first counts.
fn go_seconds(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse() {
        return Some(seconds);
    }
    let digits_end = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, units) = text.split_at(digits_end);
    if !units.bytes().all(|letter| unit_seconds(letter).is_some()) {
        return None;
    }
    let unit_s = i64::try_from(unit_seconds(units.as_bytes()[0])?).ok()?;
    digits.parse::<i64>().ok()?.checked_mul(unit_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, carbon: Result<(u32, u32), RetentionError>, go: Option<(i64, i64)>) {
        let got = read_as_carbon(text).map(|retention| (retention.step_s, retention.slot_count));
        assert_eq!(got, carbon, "carbon's reading of {text}");
        assert_eq!(read_as_go_carbon(text), go, "go-carbon's reading of {text}");
    }

    #[test]
    fn readings() {
        check("60:1440", Ok((60, 1440)), Some((60, 1440)));
        check("60s:1440", Ok((60, 1440)), Some((60, 24)));
        check(" 1m:1d\n", Ok((60, 1440)), Some((60, 1440)));
        check("1w:2y", Ok((604_800, 104)), Some((604_800, 104)));
        check("10sm:1d", Err(RetentionError::Unit), Some((10, 8640)));
        check("-60:100", Err(RetentionError::Step), Some((-60, 100)));
        check("60:x", Err(RetentionError::Points), None);
        check("60:1q", Err(RetentionError::Unit), None);
        check("60", Err(RetentionError::PartCount), None);
        check("1:2:3", Err(RetentionError::PartCount), None);
        check("0s:1d", Err(RetentionError::ZeroStep), None);
    }

    #[test]
    fn whispers_tools_take_beginnings_of_words() {
        let check = |text: &str, want: Result<(u32, u32), RetentionError>| {
            let got = read_as_whisper(text).map(|r| (r.step_s, r.slot_count));
            assert_eq!(got, want, "{text}");
        };
        check("60:1440", Ok((60, 1440)));
        check(" 1m:1d\n", Ok((60, 1440)));
        check("5min:7days", Ok((300, 2016)));
        check("1hour:1year", Ok((3_600, 8_760)));
        check("10se:2we", Ok((10, 120_960)));
        check("1minutess:1d", Err(RetentionError::Unit));
        check("1M:1d", Err(RetentionError::Step));
        check("1:1x", Err(RetentionError::Unit));
        check("min:1d", Err(RetentionError::Step));
        check("1:2:3", Err(RetentionError::PartCount));
    }

    #[test]
    fn sizes() {
        check("4294967295:1", Ok((u32::MAX, 1)), Some((4_294_967_295, 1)));
        check("4294967296:1", Err(RetentionError::TooLarge), Some((4_294_967_296, 1)));
        check("1s:99999999999999999999", Err(RetentionError::TooLarge), None);
        check("99999999999999999y:1", Err(RetentionError::TooLarge), None);
        check("1s:9999999999999999999y", Err(RetentionError::TooLarge), None);
    }
}
