//! The files of a model folder, by name.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

pub const TOKENIZER: &str = "tokenizer.json";
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
pub const CHAT_TEMPLATE: &str = "chat_template.jinja";

pub struct Files<'a>(pub Vec<(&'a [u8], &'a [u8])>);

impl<'a> Files<'a> {
    /// A file's content, if the folder has it. Errors name the file.
    pub fn text(&self, name: &str) -> Result<Option<&'a str>> {
        let file = self.0.iter().find(|(other, _)| *other == name.as_bytes());
        file.map(|(_, content)| {
            std::str::from_utf8(content)
                .map_err(|e| Error::invalid(format!("{name}: not UTF-8 at byte {}", e.valid_up_to())))
        })
        .transpose()
    }

    /// A file's JSON object; empty if the folder lacks the file.
    pub fn object(&self, name: &str) -> Result<Map<String, Value>> {
        match self.text(name)?.map(serde_json::from_str) {
            None => Ok(Map::new()),
            Some(Ok(Value::Object(object))) => Ok(object),
            Some(Ok(_)) => Err(Error::invalid(format!("{name}: not a JSON object"))),
            Some(Err(e)) => Err(Error::invalid(format!("{name}: {e}"))),
        }
    }
}
