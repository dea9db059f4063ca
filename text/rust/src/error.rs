//! Errors as C++ turns them into a status.

use std::fmt::Display;

/// The values are those of `QuireTextCode` in quire_text.h.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(i32)]
pub enum Code {
    InvalidArgument = 1,
    NotFound = 2,
    ResourceExhausted = 3,
    Internal = 4,
}

#[derive(Debug)]
pub struct Error {
    pub code: Code,
    pub message: String,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(code: Code, message: impl Display) -> Error {
        Error {
            code,
            message: message.to_string(),
        }
    }

    pub fn invalid(message: impl Display) -> Error {
        Error::new(Code::InvalidArgument, message)
    }
}
