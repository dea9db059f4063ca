//! From tokens to text, one token at a time: the decoders of the tokenizers crate as a pipeline whose
//! output is never taken back.
//!
//! The crate's decoders map a list of pieces (tokens) to a list of pieces, over the whole list at
//! once. Here a piece passes the steps that treat pieces one by one, is joined to the text, and the
//! text passes the steps that treat it as a whole. What a later token could still change waits inside.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use serde_json::Value;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::normalizers::replace::Replace;
use tokenizers::pre_tokenizers::metaspace::PrependScheme;
use tokenizers::Decoder;

const SUPPORTED: &str =
    "ByteLevel, ByteFallback, Fuse, Metaspace, Replace, Strip (of beginnings), sequences of them";

const MAX_STEPS: usize = 64;

/// How one tokenizer decodes. Immutable.
pub struct Pipeline {
    start: Decoding,
}

/// A decoding under way.
#[derive(Clone)]
pub struct Decoding {
    piece_steps: Vec<PieceStep>,
    join: Join,
    text_steps: Vec<TextStep>,
}

#[derive(Clone)]
enum PieceStep {
    Replace(Arc<Replace>),
    StripStart {
        content: char,
        count: usize,
    },
    /// A run of byte tokens, which decodes as a whole.
    ByteFallback {
        run: Vec<u8>,
    },
    Metaspace {
        replacement: char,
        strip_next: bool,
    },
}

#[derive(Clone)]
enum Join {
    Concatenate,
    /// Pieces spell bytes; `pending` is the beginning of an unfinished character.
    Bytes {
        pending: Vec<u8>,
    },
    Spaces {
        first: bool,
    },
}

#[derive(Clone)]
enum TextStep {
    StripStart {
        content: char,
        left: usize,
    },
    /// `held` may be the beginning of a `pattern`.
    Replace {
        pattern: String,
        content: String,
        held: String,
    },
}

impl Pipeline {
    /// `clean_up`: transformers' clean_up_tokenization_spaces. Errors are a reason.
    pub fn new(decoder: Option<&DecoderWrapper>, clean_up: bool) -> Result<Pipeline, String> {
        let mut start = Decoding {
            piece_steps: Vec::new(),
            join: Join::Spaces { first: true },
            text_steps: Vec::new(),
        };
        if let Some(decoder) = decoder {
            start.join = Join::Concatenate;
            let mut joined = false;
            start.add(decoder, &mut joined)?;
            // A piece passes them by recursion.
            if start.piece_steps.len().max(start.text_steps.len()) > MAX_STEPS {
                return Err(format!("its decoder has more than {MAX_STEPS} steps"));
            }
        }
        if clean_up {
            start
                .text_steps
                .extend(CLEAN_UP.map(|(pattern, content)| TextStep::replace(pattern, content)));
        }
        Ok(Pipeline { start })
    }

    pub fn start(&self) -> Decoding {
        self.start.clone()
    }
}

/// What clean_up_tokenization_spaces replaces, in this order.
const CLEAN_UP: [(&str, &str); 10] = [
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
];

impl Decoding {
    /// Takes the text that has become certain to `out`.
    pub fn push(&mut self, piece: String, out: &mut String) {
        let mut text = String::new();
        self.push_piece(0, piece, &mut text);
        self.push_text(0, text, out);
    }

    /// Takes what waited. Nothing may be pushed afterwards.
    pub fn finish(&mut self, out: &mut String) {
        let mut text = String::new();
        for step in 0..self.piece_steps.len() {
            self.finish_run(step, &mut text);
        }
        if let Join::Bytes { pending } = &mut self.join {
            text.push_str(&String::from_utf8_lossy(&std::mem::take(pending)));
        }
        self.push_text(0, text, out);
        for step in 0..self.text_steps.len() {
            if let TextStep::Replace { held, .. } = &mut self.text_steps[step] {
                let rest = std::mem::take(held);
                self.push_text(step + 1, rest, out);
            }
        }
    }

    fn add(&mut self, decoder: &DecoderWrapper, joined: &mut bool) -> Result<(), String> {
        match decoder {
            DecoderWrapper::Sequence(sequence) => {
                for part in sequence.get_decoders() {
                    self.add(part, joined)?;
                }
            }
            DecoderWrapper::Fuse(_) => *joined = true,
            DecoderWrapper::Strip(strip) if strip.stop == 0 => {
                let (content, count) = (strip.content, strip.start);
                if *joined {
                    self.text_steps
                        .push(TextStep::StripStart { content, left: count });
                } else {
                    self.piece_steps.push(PieceStep::StripStart { content, count });
                }
            }
            DecoderWrapper::Replace(replace) if *joined => {
                self.text_steps.push(whole_text_replace(replace)?);
            }
            DecoderWrapper::Replace(replace) => {
                self.piece_steps
                    .push(PieceStep::Replace(Arc::new(replace.clone())));
            }
            DecoderWrapper::ByteLevel(_) if !*joined => {
                self.join = Join::Bytes { pending: Vec::new() };
                *joined = true;
            }
            DecoderWrapper::ByteFallback(_) if !*joined => {
                self.piece_steps.push(PieceStep::ByteFallback { run: Vec::new() });
            }
            DecoderWrapper::Metaspace(metaspace) if !*joined => {
                self.piece_steps.push(PieceStep::Metaspace {
                    replacement: metaspace.get_replacement(),
                    strip_next: metaspace.get_prepend_scheme() != PrependScheme::Never,
                });
            }
            other => {
                let kind = serde_json::to_value(other).unwrap_or_default();
                let after = if *joined {
                    " after the pieces are joined"
                } else {
                    ""
                };
                return Err(format!(
                    "the text of decoder {}{after} cannot be streamed; supported are {SUPPORTED}",
                    kind["type"]
                ));
            }
        }
        Ok(())
    }

    /// Passes a piece to `step` and those after it.
    fn push_piece(&mut self, step: usize, piece: String, out: &mut String) {
        let piece = match self.piece_steps.get_mut(step) {
            None => return self.join.push(piece, out),
            // The crate's error is that of a regex given up; its piece stays as it is.
            Some(PieceStep::Replace(replace)) => match replace.decode_chain(vec![piece.clone()]) {
                Ok(mut pieces) => pieces.pop().unwrap_or_default(),
                Err(_) => piece,
            },
            Some(PieceStep::StripStart { content, count }) => {
                let strip = piece.chars().take(*count).take_while(|c| c == content).count();
                piece.chars().skip(strip).collect()
            }
            Some(PieceStep::ByteFallback { run }) => {
                if let Some(byte) = byte_token(&piece) {
                    return run.push(byte);
                }
                self.finish_run(step, out);
                piece
            }
            Some(PieceStep::Metaspace {
                replacement,
                strip_next,
            }) => {
                let space = if std::mem::take(strip_next) { "" } else { " " };
                piece.replace(*replacement, space)
            }
        };
        self.push_piece(step + 1, piece, out);
    }

    /// Ends the run of byte tokens at `step`, if that step has one: one piece if it is UTF-8, else one
    /// replacement character a byte.
    fn finish_run(&mut self, step: usize, out: &mut String) {
        let run = match &mut self.piece_steps[step] {
            PieceStep::ByteFallback { run } if !run.is_empty() => std::mem::take(run),
            _ => return,
        };
        match String::from_utf8(run) {
            Ok(piece) => self.push_piece(step + 1, piece, out),
            Err(error) => {
                for _ in error.as_bytes() {
                    self.push_piece(step + 1, char::REPLACEMENT_CHARACTER.to_string(), out);
                }
            }
        }
    }

    fn push_text(&mut self, step: usize, text: String, out: &mut String) {
        let text = match self.text_steps.get_mut(step) {
            None => return out.push_str(&text),
            Some(TextStep::StripStart { content, left }) => {
                let strip = text.chars().take(*left).take_while(|c| c == content).count();
                let rest = &text[strip * content.len_utf8()..];
                *left = if rest.is_empty() { *left - strip } else { 0 };
                rest.to_string()
            }
            Some(TextStep::Replace {
                pattern,
                content,
                held,
            }) => {
                held.push_str(&text);
                replace_certain(pattern, content, held)
            }
        };
        self.push_text(step + 1, text, out);
    }
}

impl TextStep {
    fn replace(pattern: &str, content: &str) -> TextStep {
        TextStep::Replace {
            pattern: pattern.to_string(),
            content: content.to_string(),
            held: String::new(),
        }
    }
}

impl Join {
    fn push(&mut self, piece: String, out: &mut String) {
        match self {
            Join::Concatenate => out.push_str(&piece),
            Join::Spaces { first } => {
                if !std::mem::take(first) {
                    out.push(' ');
                }
                out.push_str(&piece);
            }
            Join::Bytes { pending } => {
                let start = pending.len();
                for c in piece.chars() {
                    match BYTES.get(&c) {
                        Some(byte) => pending.push(*byte),
                        None => {
                            // Not a byte-level piece (an added token): it stands for itself.
                            pending.truncate(start);
                            pending.extend_from_slice(piece.as_bytes());
                            break;
                        }
                    }
                }
                take_certain_utf8(pending, out);
            }
        }
    }
}

/// The bytes that byte-level vocabularies spell as characters: printable ones of Latin-1 as
/// themselves, the others as U+0100 and on, in order.
static BYTES: LazyLock<HashMap<char, u8>> = LazyLock::new(|| {
    let mut bytes = HashMap::new();
    let mut unprintable = 0x100..;
    for byte in 0..=255u8 {
        let printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let spelling = if printable {
            Some(byte.into())
        } else {
            unprintable.next()
        };
        bytes.extend(spelling.and_then(char::from_u32).map(|c| (c, byte)));
    }
    bytes
});

/// Moves to `out` what of `bytes` no further byte can change, with wrong bytes as U+FFFD; an
/// unfinished character stays.
fn take_certain_utf8(bytes: &mut Vec<u8>, out: &mut String) {
    let mut taken = 0;
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        taken += chunk.valid().len();
        let rest = &bytes[taken..];
        match std::str::from_utf8(rest) {
            Err(error) if error.error_len().is_some() => {
                out.push(char::REPLACEMENT_CHARACTER);
                taken += chunk.invalid().len();
            }
            _ => break,
        }
    }
    bytes.drain(..taken);
}

/// The byte of a token such as <0x0A>.
fn byte_token(piece: &str) -> Option<u8> {
    let hex = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2).then(|| u8::from_str_radix(hex, 16).ok())?
}

/// A Replace over the whole text, which only a literal pattern allows to stream.
fn whole_text_replace(replace: &Replace) -> Result<TextStep, String> {
    let fields = serde_json::to_value(replace).map_err(|e| e.to_string())?;
    match &fields["pattern"]["String"] {
        Value::String(pattern) if !pattern.is_empty() => Ok(TextStep::replace(pattern, &replace.content)),
        _ => Err("decoder Replace: over the joined text it needs a literal pattern".to_string()),
    }
}

/// Takes from `held` all but its longest end that may be the beginning of a `pattern`, replaced.
fn replace_certain(pattern: &str, content: &str, held: &mut String) -> String {
    let mut text = String::new();
    let mut rest = held.as_str();
    while let Some(at) = rest.find(pattern) {
        text.push_str(&rest[..at]);
        text.push_str(content);
        rest = &rest[at + pattern.len()..];
    }
    let beginnings = pattern.char_indices().rev().map(|(length, _)| &pattern[..length]);
    let keep = beginnings
        .map(|b| if rest.ends_with(b) { b.len() } else { 0 })
        .find(|&length| length > 0);
    let (certain, kept) = rest.split_at(rest.len() - keep.unwrap_or(0));
    text.push_str(certain);
    *held = kept.to_string();
    text
}
