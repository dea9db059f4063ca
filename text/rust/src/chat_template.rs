//! Chat templates: Jinja as transformers sets it up.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::thread;

use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, ErrorKind, Value};
use serde_json::Value as Json;

use crate::error::{Code, Error, Result};
use crate::files::{Files, CHAT_TEMPLATE, TOKENIZER_CONFIG};
use crate::python;
use crate::special_tokens::SpecialTokens;
use crate::strftime::strftime;

/// Stack of a rendering thread. A template can nest a value one level a step, and dropping or comparing
/// values recurses; this is enough for the million steps that C++ allows. Memory is taken where it is
/// touched: a few pages as a rule.
const STACK_BYTES: usize = 2 << 30;

pub struct ChatTemplate {
    /// Templates are named by the place they come from, for messages.
    environment: Environment<'static>,
    default: Option<String>,
    tool_use: Option<String>,
    special_tokens: Vec<(String, String)>,
    max_output_bytes: u64,
}

pub struct Input<'a> {
    pub messages: &'a str,
    /// Empty: none.
    pub tools: &'a str,
    /// Empty: none.
    pub variables: &'a str,
    pub add_generation_prompt: bool,
    pub now_unix_seconds: Option<i64>,
}

impl ChatTemplate {
    pub fn load(files: &Files, max_steps: u64, max_output_bytes: u64) -> Result<ChatTemplate> {
        let sources = Sources::read(files)?;
        let mut environment = new_environment();
        environment.set_fuel(Some(max_steps));
        let mut add = |source: Option<(String, String)>| {
            source
                .map(
                    |(place, text)| match environment.add_template_owned(place.clone(), prepare(&text)) {
                        Ok(()) => Ok(place),
                        Err(error) => Err(describe(&place, &error)),
                    },
                )
                .transpose()
        };
        let default = add(sources.default)?;
        let tool_use = add(sources.tool_use)?;
        let named = SpecialTokens::read(files)?.named.into_iter();
        Ok(ChatTemplate {
            environment,
            default,
            tool_use,
            special_tokens: named.map(|(name, token)| (name, token.content)).collect(),
            max_output_bytes,
        })
    }

    pub fn render(&self, input: &Input) -> Result<String> {
        let mut variables: BTreeMap<String, Value> = BTreeMap::new();
        for (name, content) in &self.special_tokens {
            variables.insert(name.clone(), content.into());
        }
        let messages = objects("messages", input.messages)?;
        if messages.len() == 0 {
            return Err(Error::invalid("messages: a chat needs at least one"));
        }
        let tools = match input.tools {
            "" => None,
            json => Some(objects("tools", json)?),
        };
        let by_name = match (&tools, &self.tool_use, &self.default) {
            (Some(_), Some(tool_use), _) => tool_use,
            (_, _, Some(default)) => default,
            _ => return Err(Error::invalid("the model's only chat template needs tools")),
        };
        variables.insert("messages".into(), messages.into());
        variables.insert("tools".into(), tools.into());
        variables.insert("documents".into(), Value::from(()));
        variables.insert("add_generation_prompt".into(), input.add_generation_prompt.into());
        if let Some(now) = input.now_unix_seconds {
            let function = move |format: &str| {
                strftime(format, now).map_err(|e| minijinja::Error::new(ErrorKind::InvalidOperation, e))
            };
            variables.insert("strftime_now".into(), Value::from_function(function));
        }
        if !input.variables.is_empty() {
            match parse("variables", input.variables)? {
                Json::Object(own) => {
                    variables.extend(
                        own.into_iter()
                            .map(|(name, value)| (name, Value::from_serialize(value))),
                    );
                }
                _ => return Err(Error::invalid("variables: not a JSON object")),
            }
        }
        self.render_on_thread(by_name, variables)
    }

    fn render_on_thread(&self, name: &str, variables: BTreeMap<String, Value>) -> Result<String> {
        let render = || {
            let mut output = Output {
                text: Vec::new(),
                max_bytes: self.max_output_bytes,
            };
            let rendered = self.environment.get_template(name).and_then(|template| {
                template
                    .render_captured_to(Value::from_iter(variables), &mut output)
                    .map(drop)
            });
            rendered.map_err(|e| describe(name, &e))?;
            String::from_utf8(output.text).map_err(|e| Error::new(Code::Internal, e))
        };
        thread::scope(|scope| {
            let thread = thread::Builder::new()
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, render);
            match thread.map(|thread| thread.join()) {
                Ok(Ok(result)) => result,
                Ok(Err(panic)) => std::panic::resume_unwind(panic),
                Err(error) => Err(Error::new(
                    Code::ResourceExhausted,
                    format!("no thread to render on: {error}"),
                )),
            }
        })
    }
}

fn new_environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(|out, state, value| match value.kind() {
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map | ValueKind::Number => out
            .write_str(&python::string(value)?)
            .map_err(minijinja::Error::from),
        _ => minijinja::escape_formatter(out, state, value),
    });
    environment.add_filter("string", python::string);
    environment.add_filter("tojson", python::tojson);
    environment.add_filter("trim", python::trim);
    environment.add_function(
        "raise_exception",
        |message: Value| -> std::result::Result<Value, _> {
            let raised = Raised(message.to_string());
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(raised))
        },
    );
    environment
}

/// A template's own refusal.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// "place:line: reason", of the innermost cause.
fn describe(place: &str, error: &minijinja::Error) -> Error {
    let mut inner = error;
    let mut raised = None;
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        if let Some(error) = source.downcast_ref::<minijinja::Error>() {
            inner = error;
        }
        raised = raised.or(source.downcast_ref::<Raised>());
        cause = source.source();
    }
    let line = inner.line().map(|line| format!(":{line}")).unwrap_or_default();
    let (code, reason) = match (inner.kind(), raised) {
        (_, Some(raised)) => (Code::InvalidArgument, raised.0.clone()),
        (ErrorKind::OutOfFuel, _) => (
            Code::ResourceExhausted,
            "the template takes too many steps".to_string(),
        ),
        (ErrorKind::WriteFailure, _) => (
            Code::ResourceExhausted,
            "the template's output is too long".to_string(),
        ),
        (kind, _) => match inner.detail() {
            Some(detail) => (Code::InvalidArgument, format!("{kind}: {detail}")),
            None => (Code::InvalidArgument, kind.to_string()),
        },
    };
    Error::new(code, format!("{place}{line}: {reason}"))
}

/// What is rendered, up to a limit.
struct Output {
    text: Vec<u8>,
    max_bytes: u64,
}

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.text.len() + bytes.len()) as u64 > self.max_bytes {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// (place, text) of a model's templates.
#[derive(Default)]
struct Sources {
    default: Option<(String, String)>,
    tool_use: Option<(String, String)>,
}

impl Sources {
    fn read(files: &Files) -> Result<Sources> {
        let mut sources = Sources::default();
        if let Some(text) = files.text(CHAT_TEMPLATE)? {
            sources.default = Some((CHAT_TEMPLATE.to_string(), text.to_string()));
            return Ok(sources);
        }
        let field = format!("{TOKENIZER_CONFIG}: chat_template");
        match files.object(TOKENIZER_CONFIG)?.remove("chat_template") {
            None | Some(Json::Null) => {
                return Err(Error::new(
                    Code::NotFound,
                    "the model folder has no chat template",
                ));
            }
            Some(Json::String(text)) => sources.default = Some((field, text)),
            Some(Json::Object(by_name)) => {
                for (name, text) in by_name {
                    sources.set(&field, Some(&name), text.as_str())?;
                }
            }
            Some(Json::Array(list)) => {
                for entry in list {
                    sources.set(&field, entry["name"].as_str(), entry["template"].as_str())?;
                }
            }
            Some(_) => return Err(Error::invalid(format!("{field}: neither a string nor a list"))),
        }
        if sources.default.is_none() && sources.tool_use.is_none() {
            return Err(Error::invalid(format!(
                "{TOKENIZER_CONFIG}: chat_template: none is named default"
            )));
        }
        Ok(sources)
    }

    fn set(&mut self, field: &str, name: Option<&str>, text: Option<&str>) -> Result<()> {
        let (Some(name), Some(text)) = (name, text) else {
            return Err(Error::invalid(format!(
                "{field}: an entry lacks its name or its text"
            )));
        };
        let source = Some((format!("{field} ({name})"), text.to_string()));
        match name {
            "default" => self.default = source,
            "tool_use" => self.tool_use = source,
            _ => {}
        }
        Ok(())
    }
}

/// What minijinja does not do by itself: line ends as Jinja's lexer reads them, and transformers' block
/// {% generation %}, which marks the assistant's part and is here a scope like any other.
fn prepare(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut prepared = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        prepared.push_str(before);
        rest = tag;
        let end = tag.find("%}").unwrap_or(0);
        let (inside, after) = tag.split_at(end);
        let word = inside
            .trim_start_matches(['-', '+'])
            .trim_end_matches(['-', '+'])
            .trim();
        let replacement = match word {
            "generation" => inside.replace(word, "with"),
            "endgeneration" => inside.replace(word, "endwith"),
            _ => continue,
        };
        prepared.push_str(&replacement);
        rest = after;
    }
    prepared.push_str(rest);
    prepared
}

fn parse(field: &str, json: &str) -> Result<Json> {
    serde_json::from_str(json).map_err(|e| Error::invalid(format!("{field}: {e}")))
}

/// A JSON array of objects.
fn objects(field: &str, json: &str) -> Result<Vec<Value>> {
    match parse(field, json)? {
        Json::Array(list) if list.iter().all(Json::is_object) => {
            Ok(list.into_iter().map(Value::from_serialize).collect())
        }
        _ => Err(Error::invalid(format!("{field}: not a JSON array of objects"))),
    }
}
