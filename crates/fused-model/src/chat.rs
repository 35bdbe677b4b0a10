//! Dialogues as text that a model continues.

use patchtok::PatchTokenizer;

/// Who says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Sets the stage.
    System,
    /// Asks.
    User,
    /// Answers: the model.
    Assistant,
}

/// How turns are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Template {
    /// `User: ...`, `Assistant: ...`, one below the other: for a model that was not trained on dialogues. Its marks are
    /// words: a turn that says `User:` at the beginning of a line cannot be told from a turn of the user.
    Plain,
    /// ChatML: `<|im_start|>`, the role, the text, `<|im_end|>`.
    ChatMl,
}

const START: &str = "<|im_start|>";
const END: &str = "<|im_end|>";

impl Template {
    /// What a model with this tokenizer was trained on: ChatML where its marks are special tokens, else the plain form.
    pub fn of(tokenizer: &PatchTokenizer) -> Self {
        match [START, END].iter().all(|mark| special(tokenizer, mark).is_some()) {
            true => Self::ChatMl,
            false => Self::Plain,
        }
    }

    /// Tokens of the turns, and of the beginning of the assistant's next one. What a turn says never becomes a special token,
    /// and so in ChatML never a mark.
    pub fn prompt<'m>(self, tokenizer: &PatchTokenizer, turns: impl IntoIterator<Item = (Role, &'m str)>) -> Vec<u32> {
        match self {
            Self::Plain => {
                let mut text = String::new();
                for (role, said) in turns {
                    text.push_str(match role {
                        Role::System => "",
                        Role::User => "User: ",
                        Role::Assistant => "Assistant: ",
                    });
                    text.push_str(said);
                    text.push('\n');
                }
                text.push_str("Assistant:");
                tokenizer.encode_ordinary(&text)
            }
            Self::ChatMl => {
                let [start, end] = [START, END].map(|mark| special(tokenizer, mark));
                let mut ids = Vec::new();
                for (role, said) in turns {
                    let role = match role {
                        Role::System => "system",
                        Role::User => "user",
                        Role::Assistant => "assistant",
                    };
                    ids.extend(start);
                    ids.extend(tokenizer.encode_ordinary(&format!("{role}\n{said}")));
                    ids.extend(end);
                    ids.extend(tokenizer.encode_ordinary("\n"));
                }
                ids.extend(start);
                ids.extend(tokenizer.encode_ordinary("assistant\n"));
                ids
            }
        }
    }

    /// Ids that end the assistant's turn.
    pub fn stop_ids(self, tokenizer: &PatchTokenizer) -> Vec<u32> {
        let mark = match self {
            Self::Plain => None,
            Self::ChatMl => special(tokenizer, END),
        };
        mark.into_iter().chain(tokenizer.eos_id()).collect()
    }

    /// Strings that end it.
    pub fn stop_strings(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &["\nUser:"],
            Self::ChatMl => &[],
        }
    }
}

/// The id of a special token.
fn special(tokenizer: &PatchTokenizer, content: &str) -> Option<u32> {
    let mut ids = tokenizer.special_ids();
    ids.find(|&id| tokenizer.token_bytes(id) == Some(content.as_bytes()))
}
