//! Spans of the crate `tracing`, of target `vattn` and level debug, around everything that may take time. Without the feature
//! of that name there is nothing here.

/// A span until the end of the block.
macro_rules! span {
    ($name:literal $(, $($field:tt)+)?) => {
        #[cfg(feature = "tracing")]
        let _span = tracing::debug_span!(target: "vattn", $name $(, $($field)+)?).entered();
    };
}

pub(crate) use span;
