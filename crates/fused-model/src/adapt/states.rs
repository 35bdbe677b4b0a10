//! What the output head reads over a text, kept in memory: fits of output rows need nothing else of the model.

use rayon::prelude::*;

use super::windows;
use crate::error::ModelError;
use crate::params::Params;
use crate::pass::{Batch, Pass};
use crate::train::check_ids;

/// Tokens of a window at most.
const WINDOW: usize = 1024;

/// Inputs of the output head, and the tokens that came next.
#[derive(Debug)]
pub(super) struct States {
    /// `(places, C)`.
    pub(super) values: Vec<f32>,
    /// Of each place.
    pub(super) next: Vec<u32>,
}

impl States {
    /// Reads up to about `places` places of `stream`, spread over it. `go_on` is asked from time to time, on any thread;
    /// the result is `None` once it says no.
    ///
    /// # Errors
    /// [`ModelError::Request`] for a stream without two tokens or with an id outside the vocabulary.
    pub(super) fn read(
        params: &Params,
        stream: &[u32],
        places: usize,
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<Self>, ModelError> {
        check_ids(stream, params.config().vocab_size())?;
        let windows = windows(stream, params.config().context().min(WINDOW), places);
        if windows.is_empty() {
            return Err(ModelError::Request(
                "the stream to fit output rows on has fewer than two tokens".into(),
            ));
        }
        let values = windows.par_iter().map_init(Pass::default, |pass, window| {
            let batch = Batch::to_read(&window[..window.len() - 1]);
            go_on().then(|| pass.hidden(params, batch).to_vec())
        });
        let values = values.collect::<Option<Vec<_>>>();
        Ok(values.map(|values| Self {
            values: values.concat(),
            next: windows.iter().flat_map(|window| &window[1..]).copied().collect(),
        }))
    }
}
