//! strftime for templates: the C library's, which is also what Python calls.

use std::ffi::CString;
use std::mem::MaybeUninit;

const MAX_FORMAT_BYTES: usize = 256;

/// `format` filled with a moment, given in seconds since 1970 and shown as UTC.
pub fn strftime(format: &str, unix_seconds: i64) -> Result<String, String> {
    if format.len() > MAX_FORMAT_BYTES {
        return Err(format!(
            "strftime_now takes a format of at most {MAX_FORMAT_BYTES} bytes"
        ));
    }
    // The mark makes an empty result differ from a failure: both are 0 bytes long otherwise.
    let c_format =
        CString::new(format!("{format}|")).map_err(|_| "strftime_now: NUL in the format".to_string())?;
    let mut time = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are valid for the call, which reads one and writes the other.
    if unsafe { libc::gmtime_r(&unix_seconds, time.as_mut_ptr()) }.is_null() {
        return Err("strftime_now: the time is out of range".to_string());
    }
    let mut text = vec![0u8; 64 * MAX_FORMAT_BYTES];
    // SAFETY: `text` is writable for its length, the format ends in NUL, and gmtime_r filled `time`.
    let length = unsafe {
        libc::strftime(
            text.as_mut_ptr().cast(),
            text.len(),
            c_format.as_ptr(),
            time.as_ptr(),
        )
    };
    if length == 0 {
        return Err("strftime_now: the result is too long".to_string());
    }
    text.truncate(length - 1);
    String::from_utf8(text).map_err(|_| "strftime_now: the result is not UTF-8".to_string())
}
