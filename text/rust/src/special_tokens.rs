//! The tokens that tokenizer_config.json and special_tokens_map.json name, read as transformers 5.17
//! reads them.

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::error::{Error, Result};
use crate::files::{Files, SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG};

/// Names that transformers gives to special tokens, in its order.
const STANDARD_NAMES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];
const EXTRA: &str = "extra_special_tokens";
const EXTRA_OLD: &str = "additional_special_tokens";
const DECODER: &str = "added_tokens_decoder";

pub struct SpecialTokens {
    /// Name (bos_token, image_token ...) and token.
    pub named: Vec<(String, AddedToken)>,
    /// Special tokens without a name.
    pub extra: Vec<AddedToken>,
    /// Tokens that were added to the vocabulary, special or not, by ascending id.
    pub added: Vec<AddedToken>,
}

impl SpecialTokens {
    pub fn read(files: &Files) -> Result<SpecialTokens> {
        let mut config = files.object(TOKENIZER_CONFIG)?;
        let added = read_added(config.get(DECODER))?;
        // transformers reads the older file only where the newer field is missing.
        if added.is_none() {
            merge_special_tokens_map(&mut config, files.object(SPECIAL_TOKENS_MAP)?);
        }
        let old_extra = config.remove(EXTRA_OLD);
        let extra = config.remove(EXTRA).or(old_extra);

        let mut tokens = SpecialTokens {
            named: Vec::new(),
            extra: Vec::new(),
            added: added.unwrap_or_default(),
        };
        for name in STANDARD_NAMES {
            tokens.name(name, config.get(name).unwrap_or(&Value::Null))?;
        }
        for (name, value) in &config {
            let is_token = value.is_string() || value.get("content").is_some();
            if name.ends_with("_token") && is_token && !STANDARD_NAMES.contains(&name.as_str()) {
                tokens.name(name, value)?;
            }
        }
        match extra {
            None | Some(Value::Null) => {}
            Some(Value::Array(list)) => {
                for value in &list {
                    tokens.extra.push(read_token(EXTRA, value, Some(true))?);
                }
            }
            Some(Value::Object(named)) => {
                for (name, value) in &named {
                    tokens.name(name, value)?;
                }
            }
            Some(_) => return Err(wrong(EXTRA, "neither a list nor an object")),
        }
        Ok(tokens)
    }

    fn name(&mut self, name: &str, value: &Value) -> Result<()> {
        if !value.is_null() {
            self.named
                .push((name.to_string(), read_token(name, value, Some(true))?));
        }
        Ok(())
    }
}

fn wrong(field: &str, what: &str) -> Error {
    Error::invalid(format!("{TOKENIZER_CONFIG}: {field}: {what}"))
}

fn merge_special_tokens_map(config: &mut Map<String, Value>, map: Map<String, Value>) {
    for (key, value) in map {
        match (config.get_mut(&key), value) {
            (Some(Value::Array(existing)), Value::Array(more)) if key == EXTRA => {
                for token in more {
                    if !existing.contains(&token) {
                        existing.push(token);
                    }
                }
            }
            (_, value) => {
                config.insert(key, value);
            }
        }
    }
}

/// None if the field is missing.
fn read_added(decoder: Option<&Value>) -> Result<Option<Vec<AddedToken>>> {
    let by_id = match decoder {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(by_id)) => by_id,
        Some(_) => return Err(wrong(DECODER, "not an object")),
    };
    let mut tokens = Vec::new();
    for (id, value) in by_id {
        let number: u32 = id
            .parse()
            .map_err(|_| wrong(DECODER, &format!("{id:?} is no token id")))?;
        tokens.push((number, read_token(&format!("{DECODER}.{id}"), value, None)?));
    }
    tokens.sort_by_key(|(id, _)| *id);
    Ok(Some(tokens.into_iter().map(|(_, token)| token).collect()))
}

/// A token written as a string or as an object. `special`: what the place says of it; else its own
/// flag counts.
fn read_token(field: &str, value: &Value, special: Option<bool>) -> Result<AddedToken> {
    let object = match value {
        Value::String(content) => return Ok(AddedToken::from(content, special.unwrap_or(false))),
        Value::Object(object) => object,
        _ => return Err(wrong(field, "neither a string nor a token object")),
    };
    let content = match object.get("content") {
        Some(Value::String(content)) => content,
        _ => return Err(wrong(field, "its content is not a string")),
    };
    let flag = |name: &str| match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(_) => Err(wrong(field, &format!("{name} is not a boolean"))),
    };
    let own = flag("special")?.unwrap_or(false);
    let mut token = AddedToken::from(content, special.unwrap_or(own))
        .single_word(flag("single_word")?.unwrap_or(false))
        .lstrip(flag("lstrip")?.unwrap_or(false))
        .rstrip(flag("rstrip")?.unwrap_or(false));
    if let Some(normalized) = flag("normalized")? {
        token = token.normalized(normalized);
    }
    Ok(token)
}
