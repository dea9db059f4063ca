//! The text of one output while its tokens arrive; text/detokenizer.h says what that text is.

use std::sync::Arc;

use crate::decoding::Decoding;
use crate::tokenizer::Tokenizer;

#[derive(Clone)]
pub struct Stream {
    tokenizer: Arc<Tokenizer>,
    decoding: Decoding,
    /// The end of decode(prompt) that was not certain when the prompt ended, as far as the whole text
    /// has not been seen to agree with it: what agrees belongs to the prompt.
    prompt_tail: String,
}

impl Stream {
    pub fn new(tokenizer: Arc<Tokenizer>, prompt_ids: &[u32]) -> Stream {
        let mut stream = Stream {
            decoding: tokenizer.start_decoding(),
            tokenizer,
            prompt_tail: String::new(),
        };
        for &id in prompt_ids {
            stream.decode(id);
        }
        stream.decoding.clone().finish(&mut stream.prompt_tail);
        stream
    }

    /// The text that became certain by this id.
    pub fn push(&mut self, id: u32) -> String {
        let text = self.decode(id);
        self.without_prompt(text)
    }

    /// The text that waited.
    pub fn finish(&mut self) -> String {
        let mut text = String::new();
        self.decoding.finish(&mut text);
        self.without_prompt(text)
    }

    fn decode(&mut self, id: u32) -> String {
        let mut text = String::new();
        if let Some(piece) = self.tokenizer.piece(id, true) {
            self.decoding.push(piece, &mut text);
        }
        text
    }

    fn without_prompt(&mut self, text: String) -> String {
        let both = text.chars().zip(self.prompt_tail.chars());
        let common: usize = both.take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
        if common < text.len() {
            self.prompt_tail.clear();
        } else {
            self.prompt_tail.drain(..common);
        }
        text[common..].to_string()
    }
}
