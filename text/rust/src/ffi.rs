//! The border: the functions of quire_text.h. The only file, with strftime.rs, that has unsafe code.
//!
//! Every function runs inside `guard`, which turns a panic into an error. The safety of all of them
//! rests on what quire_text.h asks: pointers valid for the call, handles not yet freed.

use std::any::Any;
use std::ffi::c_void;
use std::panic::{self, AssertUnwindSafe};
use std::slice;
use std::sync::{Arc, Once};

use crate::chat_template::{ChatTemplate, Input};
use crate::error::{Code, Error, Result};
use crate::files::{Files, TOKENIZER};
use crate::stream::Stream;
use crate::tokenizer::Tokenizer;

const OK: i32 = 0;

pub struct QuireTextTokenizer(Arc<Tokenizer>);
pub struct QuireTextStream(Stream);
pub struct QuireTextTemplate(ChatTemplate);

#[repr(C)]
pub struct Bytes {
    data: *const u8,
    size: usize,
}

#[repr(C)]
pub struct File {
    name: Bytes,
    content: Bytes,
}

#[repr(C)]
pub struct Sink {
    context: *mut c_void,
    put: unsafe extern "C" fn(*mut c_void, *const u8, usize),
}

impl Sink {
    fn put(&self, bytes: &[u8]) {
        // SAFETY: the caller's function, with the caller's context and a valid slice.
        unsafe { (self.put)(self.context, bytes.as_ptr(), bytes.len()) }
    }
}

/// Runs a call, gives its output or its error to the sink, and keeps panics in. `panicked` makes the
/// error of a panic from its message.
fn guard(sink: &Sink, panicked: fn(String) -> Error, call: impl FnOnce() -> Result<Vec<u8>>) -> i32 {
    // The default hook would print to stderr; the error carries the message instead.
    static SILENCE: Once = Once::new();
    SILENCE.call_once(|| panic::set_hook(Box::new(|_| {})));

    let result = panic::catch_unwind(AssertUnwindSafe(call));
    match result.unwrap_or_else(|panic| Err(panicked(panic_message(&*panic)))) {
        Ok(output) => {
            sink.put(&output);
            OK
        }
        Err(error) => {
            sink.put(error.message.as_bytes());
            error.code as i32
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic".to_string())
}

fn internal(message: String) -> Error {
    Error::new(Code::Internal, message)
}

/// Panics of the tokenizers crate come from a file that it did not expect.
fn wrong_tokenizer(message: String) -> Error {
    Error::invalid(format!("{TOKENIZER}: {message}"))
}

fn wrong_template(message: String) -> Error {
    Error::invalid(format!("the chat template: {message}"))
}

/// Puts a new object where the caller wants it.
unsafe fn give<T>(object: T, result: *mut *mut T) -> Result<Vec<u8>> {
    *result = Box::into_raw(Box::new(object));
    Ok(Vec::new())
}

unsafe fn slice<'a, T>(data: *const T, size: usize) -> &'a [T] {
    match size {
        0 => &[],
        _ => slice::from_raw_parts(data, size),
    }
}

unsafe fn text<'a>(what: &str, bytes: &Bytes) -> Result<&'a str> {
    std::str::from_utf8(slice(bytes.data, bytes.size))
        .map_err(|e| Error::invalid(format!("{what}: not UTF-8 at byte {}", e.valid_up_to())))
}

unsafe fn files<'a>(files: *const File, count: usize) -> Files<'a> {
    let files = slice(files, count).iter();
    Files(
        files
            .map(|f| {
                (
                    slice(f.name.data, f.name.size),
                    slice(f.content.data, f.content.size),
                )
            })
            .collect(),
    )
}

unsafe fn free<T>(object: *mut T) {
    if !object.is_null() {
        // A destructor that panics must not cross the border either.
        let _ = panic::catch_unwind(AssertUnwindSafe(|| drop(Box::from_raw(object))));
    }
}

#[no_mangle]
unsafe extern "C" fn quire_text_tokenizer_load(
    file_list: *const File,
    num_files: usize,
    result: *mut *mut QuireTextTokenizer,
    sink: Sink,
) -> i32 {
    guard(&sink, wrong_tokenizer, || {
        let tokenizer = Tokenizer::load(&files(file_list, num_files))?;
        give(QuireTextTokenizer(Arc::new(tokenizer)), result)
    })
}

#[no_mangle]
unsafe extern "C" fn quire_text_tokenizer_free(tokenizer: *mut QuireTextTokenizer) {
    free(tokenizer);
}

#[no_mangle]
unsafe extern "C" fn quire_text_tokenizer_vocabulary_size(tokenizer: *const QuireTextTokenizer) -> u32 {
    (*tokenizer).0.vocabulary_size()
}

#[no_mangle]
unsafe extern "C" fn quire_text_tokenizer_encode(
    tokenizer: *const QuireTextTokenizer,
    content: Bytes,
    add_special_tokens: bool,
    sink: Sink,
) -> i32 {
    guard(&sink, internal, || {
        let ids = (*tokenizer)
            .0
            .encode(text("text", &content)?, add_special_tokens)?;
        Ok(ids.iter().flat_map(|id| id.to_ne_bytes()).collect())
    })
}

#[no_mangle]
unsafe extern "C" fn quire_text_tokenizer_decode(
    tokenizer: *const QuireTextTokenizer,
    ids: *const u32,
    num_ids: usize,
    skip_special_tokens: bool,
    max_bytes: usize,
    sink: Sink,
) -> i32 {
    guard(&sink, internal, || {
        Ok((*tokenizer)
            .0
            .decode(slice(ids, num_ids), skip_special_tokens, max_bytes)?
            .into_bytes())
    })
}

#[no_mangle]
unsafe extern "C" fn quire_text_tokenizer_id_to_token(
    tokenizer: *const QuireTextTokenizer,
    id: u32,
    sink: Sink,
) -> i32 {
    guard(&sink, internal, || match (*tokenizer).0.piece(id, false) {
        Some(token) => Ok(token.into_bytes()),
        None => Err(Error::new(Code::NotFound, "no token has this id")),
    })
}

#[no_mangle]
unsafe extern "C" fn quire_text_tokenizer_token_to_id(
    tokenizer: *const QuireTextTokenizer,
    token: Bytes,
    id: *mut u32,
    sink: Sink,
) -> i32 {
    guard(&sink, internal, || {
        match (*tokenizer).0.token_to_id(text("token", &token)?) {
            Some(found) => {
                *id = found;
                Ok(Vec::new())
            }
            None => Err(Error::new(Code::NotFound, "no such token")),
        }
    })
}

#[no_mangle]
unsafe extern "C" fn quire_text_stream_new(
    tokenizer: *const QuireTextTokenizer,
    prompt_ids: *const u32,
    num_prompt_ids: usize,
    result: *mut *mut QuireTextStream,
    sink: Sink,
) -> i32 {
    guard(&sink, internal, || {
        let tokenizer = Arc::clone(&(*tokenizer).0);
        give(
            QuireTextStream(Stream::new(tokenizer, slice(prompt_ids, num_prompt_ids))),
            result,
        )
    })
}

#[no_mangle]
unsafe extern "C" fn quire_text_stream_free(stream: *mut QuireTextStream) {
    free(stream);
}

#[no_mangle]
unsafe extern "C" fn quire_text_stream_clone(
    stream: *const QuireTextStream,
    result: *mut *mut QuireTextStream,
    sink: Sink,
) -> i32 {
    guard(&sink, internal, || give(QuireTextStream((*stream).0.clone()), result))
}

#[no_mangle]
unsafe extern "C" fn quire_text_stream_push(stream: *mut QuireTextStream, id: u32, sink: Sink) -> i32 {
    guard(&sink, internal, || Ok((*stream).0.push(id).into_bytes()))
}

#[no_mangle]
unsafe extern "C" fn quire_text_stream_finish(stream: *mut QuireTextStream, sink: Sink) -> i32 {
    guard(&sink, internal, || Ok((*stream).0.finish().into_bytes()))
}

#[no_mangle]
unsafe extern "C" fn quire_text_template_load(
    file_list: *const File,
    num_files: usize,
    max_steps: u64,
    max_output_bytes: u64,
    result: *mut *mut QuireTextTemplate,
    sink: Sink,
) -> i32 {
    guard(&sink, wrong_template, || {
        let files = files(file_list, num_files);
        give(
            QuireTextTemplate(ChatTemplate::load(&files, max_steps, max_output_bytes)?),
            result,
        )
    })
}

#[no_mangle]
unsafe extern "C" fn quire_text_template_free(chat_template: *mut QuireTextTemplate) {
    free(chat_template);
}

#[no_mangle]
unsafe extern "C" fn quire_text_template_render(
    chat_template: *const QuireTextTemplate,
    messages: Bytes,
    tools: Bytes,
    variables: Bytes,
    add_generation_prompt: bool,
    now_unix_seconds: *const i64,
    sink: Sink,
) -> i32 {
    guard(&sink, wrong_template, || {
        let input = Input {
            messages: text("messages", &messages)?,
            tools: text("tools", &tools)?,
            variables: text("variables", &variables)?,
            add_generation_prompt,
            now_unix_seconds: now_unix_seconds.as_ref().copied(),
        };
        Ok((*chat_template).0.render(&input)?.into_bytes())
    })
}
