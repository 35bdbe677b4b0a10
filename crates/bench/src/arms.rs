//! The arms: every tokenizer with every KV store.

use schemars::JsonSchema;
use serde::Serialize;

/// Which tokenizer, and with it which model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenizerChoice {
    /// The base model's own.
    Base,
    /// The one adapted to the domain.
    Patched,
}

/// Which KV store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KvChoice {
    /// The longest sequence's memory for every sequence, up front.
    Static,
    /// Blocks of a few tokens, taken on demand.
    Paged,
    /// Contiguous virtual memory, mapped on demand.
    Virtual,
}

/// What an arm is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// What the others are compared with.
    Normal,
    /// What is to be shown.
    Fused,
    /// One of the two changes alone.
    Ablation,
    /// The strong rival: paged KV.
    Baseline,
}

/// One arm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arm {
    /// Its tokenizer and model.
    pub tokenizer: TokenizerChoice,
    /// Its KV store.
    pub kv_store: KvChoice,
}

/// All arms, in the order of tables and plots: normal first, fused last.
pub const ARMS: [Arm; 6] = [
    Arm {
        tokenizer: TokenizerChoice::Base,
        kv_store: KvChoice::Static,
    },
    Arm {
        tokenizer: TokenizerChoice::Base,
        kv_store: KvChoice::Paged,
    },
    Arm {
        tokenizer: TokenizerChoice::Base,
        kv_store: KvChoice::Virtual,
    },
    Arm {
        tokenizer: TokenizerChoice::Patched,
        kv_store: KvChoice::Static,
    },
    Arm {
        tokenizer: TokenizerChoice::Patched,
        kv_store: KvChoice::Paged,
    },
    Arm {
        tokenizer: TokenizerChoice::Patched,
        kv_store: KvChoice::Virtual,
    },
];

/// The arm the others are compared with.
pub const NORMAL: Arm = ARMS[0];
/// The arm that is to be shown.
pub const FUSED: Arm = ARMS[5];

impl Arm {
    /// Its name in the report.
    pub fn name(self) -> &'static str {
        use {KvChoice as K, TokenizerChoice as T};
        match (self.tokenizer, self.kv_store) {
            (T::Base, K::Static) => "normal",
            (T::Base, K::Paged) => "base+paged",
            (T::Base, K::Virtual) => "base+virtual",
            (T::Patched, K::Static) => "patched+static",
            (T::Patched, K::Paged) => "patched+paged",
            (T::Patched, K::Virtual) => "fused",
        }
    }

    /// What it is for.
    pub fn role(self) -> Role {
        match (self, self.kv_store) {
            (NORMAL, _) => Role::Normal,
            (FUSED, _) => Role::Fused,
            (_, KvChoice::Paged) => Role::Baseline,
            _ => Role::Ablation,
        }
    }

    /// Its place in [`ARMS`].
    pub fn index(self) -> usize {
        self.tokenizer as usize * 3 + self.kv_store as usize
    }
}

impl TokenizerChoice {
    /// Its name in prose.
    pub fn word(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Patched => "patched",
        }
    }
}

impl KvChoice {
    /// Its name in prose.
    pub fn word(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Paged => "paged",
            Self::Virtual => "virtual",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_arm_stands_at_its_index_with_its_own_name() {
        for (i, arm) in ARMS.into_iter().enumerate() {
            assert_eq!(arm.index(), i);
            assert_eq!(ARMS.iter().filter(|other| other.name() == arm.name()).count(), 1);
        }
        assert_eq!((NORMAL.name(), FUSED.name()), ("normal", "fused"));
        let roles = |role| ARMS.iter().filter(|arm| arm.role() == role).count();
        assert_eq!(
            [Role::Normal, Role::Fused, Role::Ablation, Role::Baseline].map(roles),
            [1, 1, 2, 2]
        );
    }
}
