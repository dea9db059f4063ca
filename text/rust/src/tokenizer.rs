//! A model's tokenizer: tokenizer.json, completed by what tokenizer_config.json adds.

use std::collections::HashSet;

use serde_json::Value;
use tokenizers::ModelWrapper;

use crate::decoding::{Decoding, Pipeline};
use crate::error::{Code, Error, Result};
use crate::files::{Files, TOKENIZER, TOKENIZER_CONFIG};
use crate::special_tokens::SpecialTokens;

pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    pipeline: Pipeline,
    vocabulary_size: u32,
}

impl Tokenizer {
    pub fn load(files: &Files) -> Result<Tokenizer> {
        let json = files
            .text(TOKENIZER)?
            .ok_or_else(|| Error::new(Code::NotFound, format!("the model folder has no {TOKENIZER}")))?;
        let mut inner: tokenizers::Tokenizer = json.parse().map_err(in_tokenizer_json)?;
        // A plain call of a transformers tokenizer neither truncates nor pads, whatever the file says.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(in_tokenizer_json)?;

        add_tokens(&mut inner, SpecialTokens::read(files)?);
        let config = files.object(TOKENIZER_CONFIG)?;
        inner.set_encode_special_tokens(flag(&config, "split_special_tokens")?);
        let clean_up = flag(&config, "clean_up_tokenization_spaces")?
            && !matches!(inner.get_model(), ModelWrapper::BPE(_));

        let largest = inner.get_vocab(true).into_values().max();
        let vocabulary_size = match largest.map_or(Some(0), |id| id.checked_add(1)) {
            Some(size) => size,
            None => return Err(in_tokenizer_json("a token id is too large")),
        };
        let pipeline = Pipeline::new(inner.get_decoder(), clean_up).map_err(in_tokenizer_json)?;
        Ok(Tokenizer {
            inner,
            pipeline,
            vocabulary_size,
        })
    }

    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding = self
            .inner
            .encode_fast(text, add_special_tokens)
            .map_err(|e| Error::invalid(format!("the text cannot be tokenized: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Stops as soon as the text is longer than `max_bytes`.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool, max_bytes: usize) -> Result<String> {
        let mut decoding = self.start_decoding();
        let mut text = String::new();
        for &id in ids {
            if let Some(piece) = self.piece(id, skip_special_tokens) {
                decoding.push(piece, &mut text);
            }
            if text.len() > max_bytes {
                break;
            }
        }
        decoding.finish(&mut text);
        if text.len() > max_bytes {
            return Err(Error::new(
                Code::ResourceExhausted,
                format!("the text is longer than {max_bytes} bytes"),
            ));
        }
        Ok(text)
    }

    pub fn start_decoding(&self) -> Decoding {
        self.pipeline.start()
    }

    /// The token of an id as the vocabulary spells it; none for ids without a token and for special
    /// tokens to be skipped.
    pub fn piece(&self, id: u32, skip_special_tokens: bool) -> Option<String> {
        self.inner.id_to_token(id).filter(|token| {
            !skip_special_tokens || !self.inner.get_added_vocabulary().is_special_token(token)
        })
    }

    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// One more than the largest id.
    pub fn vocabulary_size(&self) -> u32 {
        self.vocabulary_size
    }
}

fn in_tokenizer_json(reason: impl std::fmt::Display) -> Error {
    Error::invalid(format!("{TOKENIZER}: {reason}"))
}

fn flag(config: &serde_json::Map<String, Value>, name: &str) -> Result<bool> {
    match config.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(_) => Err(Error::invalid(format!(
            "{TOKENIZER_CONFIG}: {name}: not a boolean"
        ))),
    }
}

/// Adds what tokenizer.json does not have as an added token. The crate keeps the id of a token that is
/// in the vocabulary and gives the others the next free ids.
fn add_tokens(tokenizer: &mut tokenizers::Tokenizer, tokens: SpecialTokens) {
    let existing = tokenizer.get_added_tokens_decoder();
    let existing: HashSet<&tokenizers::AddedToken> = existing.values().collect();
    let mut contents: HashSet<String> = existing.iter().map(|token| token.content.clone()).collect();
    let names: HashSet<&str> = tokens
        .named
        .iter()
        .map(|(_, token)| token.content.as_str())
        .collect();

    let mut missing = Vec::new();
    for mut token in tokens.added {
        if !existing.contains(&token) {
            token.special |= names.contains(token.content.as_str());
            contents.insert(token.content.clone());
            missing.push(token);
        }
    }
    let named = tokens.named.iter().map(|(_, token)| token);
    for token in named.chain(&tokens.extra) {
        if contents.insert(token.content.clone()) {
            missing.push(token.clone());
        }
    }
    tokenizer.add_tokens(&missing);
}
