//! Times as people of this machine's time zone write them, through libc, which knows the zones.

use std::ffi::CString;
use std::mem::MaybeUninit;

/// Longest text made of one time; a format that gives more is refused.
const TEXT_BYTES_MAX: usize = 1_024;

/// A time in seconds since the epoch, in the local zone, by a format of `strftime`. `None` when
/// the format holds NUL or gives more than 1,023 bytes.
pub fn format(timestamp_s: u32, format: &str) -> Option<String> {
    if format.is_empty() {
        return Some(String::new());
    }
    // A byte behind the format tells an empty text from one that is too long.
    let c_format = CString::new(format!("{format} ")).ok()?;
    let time = libc::time_t::from(timestamp_s);
    let mut fields = MaybeUninit::<libc::tm>::uninit();
    // SAFETY: both pointers are to live memory of the right type.
    let found = unsafe { libc::localtime_r(&raw const time, fields.as_mut_ptr()) };
    if found.is_null() {
        return None;
    }
    // SAFETY: localtime_r returned its second argument, so it has filled it.
    let fields = unsafe { fields.assume_init() };
    let mut text = vec![0_u8; TEXT_BYTES_MAX];
    // SAFETY: the buffer is as long as said, the format ends in NUL, the fields are filled.
    let count = unsafe {
        libc::strftime(text.as_mut_ptr().cast(), text.len(), c_format.as_ptr(), &raw const fields)
    };
    text.truncate(count.checked_sub(1)?);
    Some(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        let check = |text: &str, want: Option<&str>| {
            assert_eq!(format(1_700_000_000, text).as_deref(), want, "{text:?}");
        };
        check("", Some(""));
        check("%%", Some("%"));
        check("%s", Some("1700000000"));
        check("a\0b", None);
        check(&"%Y".repeat(300), None);
    }
}
