//! Values written as Python writes them, where minijinja's way differs: json.dumps and repr.

use std::fmt::Write;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// Values nest no deeper than this, in either notation.
const MAX_DEPTH: usize = 200;

/// The options of json.dumps that templates may give to the filter tojson.
struct Style {
    ensure_ascii: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

/// The filter tojson, as transformers defines it: json.dumps with ensure_ascii=False.
pub fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<Value> = options.get("indent")?;
    let indent = match indent.filter(|indent| !indent.is_none()) {
        None => None,
        Some(text) if text.as_str().is_some() => text.as_str().map(str::to_string),
        Some(count) => Some(
            " ".repeat(
                usize::try_from(count)
                    .map_err(|_| wrong("tojson: wrong indent"))?
                    .min(64),
            ),
        ),
    };
    let separators: Option<Vec<String>> = options.get("separators")?;
    let [item_separator, key_separator] = match separators {
        None if indent.is_some() => [",", ": "].map(str::to_string),
        None => [", ", ": "].map(str::to_string),
        Some(two) => two
            .try_into()
            .map_err(|_| wrong("tojson: separators are two strings"))?,
    };
    let style = Style {
        ensure_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        indent,
        item_separator,
        key_separator,
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    let mut json = String::new();
    style.write(&mut json, value, 0)?;
    Ok(json)
}

impl Style {
    fn write(&self, json: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(wrong("tojson: the value nests too deeply"));
        }
        match value.kind() {
            ValueKind::None => json.push_str("null"),
            ValueKind::Bool => json.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => json.push_str(&number(value)),
            ValueKind::String => self.write_string(json, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.write_block(json, '[', ']', items.len(), depth, |json, i| {
                    self.write(json, &items[i], depth + 1)
                })?;
            }
            ValueKind::Map => {
                let mut items = Vec::new();
                for key in value.try_iter()? {
                    items.push((json_key(&key)?, value.get_item(&key)?));
                }
                if self.sort_keys {
                    items.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.write_block(json, '{', '}', items.len(), depth, |json, i| {
                    self.write_string(json, &items[i].0);
                    json.push_str(&self.key_separator);
                    self.write(json, &items[i].1, depth + 1)
                })?;
            }
            other => return Err(wrong(&format!("tojson: a value of type {other} is not JSON"))),
        }
        Ok(())
    }

    /// Brackets around `count` items, each written by `item`.
    fn write_block(
        &self,
        json: &mut String,
        open: char,
        close: char,
        count: usize,
        depth: usize,
        mut item: impl FnMut(&mut String, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        json.push(open);
        for i in 0..count {
            if i > 0 {
                json.push_str(&self.item_separator);
            }
            self.break_line(json, depth + 1);
            item(json, i)?;
        }
        if count > 0 {
            self.break_line(json, depth);
        }
        json.push(close);
        Ok(())
    }

    fn break_line(&self, json: &mut String, depth: usize) {
        if let Some(indent) = &self.indent {
            json.push('\n');
            json.push_str(&indent.repeat(depth));
        }
    }

    fn write_string(&self, json: &mut String, text: &str) {
        json.push('"');
        for c in text.chars() {
            match c {
                '"' => json.push_str("\\\""),
                '\\' => json.push_str("\\\\"),
                '\n' => json.push_str("\\n"),
                '\r' => json.push_str("\\r"),
                '\t' => json.push_str("\\t"),
                '\u{8}' => json.push_str("\\b"),
                '\u{c}' => json.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && c > '\u{7e}') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(json, "\\u{unit:04x}");
                    }
                }
                c => json.push(c),
            }
        }
        json.push('"');
    }
}

/// A dictionary's key in JSON: Python allows strings, numbers, booleans and None.
fn json_key(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_string()),
        ValueKind::None => Ok("null".to_string()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_string()),
        ValueKind::Number => Ok(number(key)),
        other => Err(wrong(&format!("tojson: a key of type {other} is not JSON"))),
    }
}

/// The filter string: Python's str().
pub fn string(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map | ValueKind::Number => {
            let mut text = String::new();
            write_repr(&mut text, value, 0)?;
            Ok(text)
        }
        _ => Ok(value.to_string()),
    }
}

/// The filter trim, of str(value).
pub fn trim(value: &Value, chars: Option<&str>) -> Result<String, Error> {
    let text = string(value)?;
    Ok(match chars {
        Some(chars) => text.trim_matches(|c| chars.contains(c)).to_string(),
        None => text.trim().to_string(),
    })
}

fn write_repr(text: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(wrong("the value nests too deeply to be printed"));
    }
    match value.kind() {
        ValueKind::String => write_string_repr(text, value.as_str().unwrap_or_default()),
        ValueKind::Number => text.push_str(&number(value)),
        ValueKind::Undefined => text.push_str("Undefined"),
        ValueKind::Seq | ValueKind::Iterable => {
            text.push('[');
            for (i, item) in value.try_iter()?.enumerate() {
                text.push_str(if i > 0 { ", " } else { "" });
                write_repr(text, &item, depth + 1)?;
            }
            text.push(']');
        }
        ValueKind::Map => {
            text.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                text.push_str(if i > 0 { ", " } else { "" });
                write_repr(text, &key, depth + 1)?;
                text.push_str(": ");
                write_repr(text, &value.get_item(&key)?, depth + 1)?;
            }
            text.push('}');
        }
        _ => text.push_str(&value.to_string()),
    }
    Ok(())
}

fn write_string_repr(text: &mut String, value: &str) {
    let quote = if value.contains('\'') && !value.contains('"') {
        '"'
    } else {
        '\''
    };
    text.push(quote);
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            c if c == quote => text.extend(['\\', c]),
            c if c < ' ' || ('\u{7f}'..='\u{a0}').contains(&c) => {
                let _ = write!(text, "\\x{:02x}", c as u32);
            }
            c => text.push(c),
        }
    }
    text.push(quote);
}

/// repr of an int or a float: the shortest digits that read back the same, with an exponent from 1e16
/// on and below 1e-4.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match f64::try_from(value.clone()) {
        Ok(x) if x.is_nan() => "nan".to_string(),
        Ok(x) if x.is_infinite() => if x > 0.0 { "inf" } else { "-inf" }.to_string(),
        Ok(x) if x != 0.0 && !(1e-4..1e16).contains(&x.abs()) => {
            let scientific = format!("{x:e}");
            let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
            let (sign, exponent) = match exponent.strip_prefix('-') {
                Some(exponent) => ('-', exponent),
                None => ('+', exponent),
            };
            format!("{digits}e{sign}{exponent:0>2}")
        }
        Ok(x) => format!("{x:?}"),
        Err(_) => value.to_string(),
    }
}

fn wrong(message: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.to_string())
}
