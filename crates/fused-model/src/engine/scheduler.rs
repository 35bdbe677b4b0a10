//! Who is in the store and who waits: admission, the contents of a pass, and who leaves when memory runs out.
//!
//! Everything goes by turn, the order in which requests came. The oldest sample is never put back, so it ends, and then
//! the next one is the oldest: nobody starves.

use std::collections::VecDeque;

use super::EngineConfig;
use super::prefix::{PrefixCache, common, free};
use super::request::Finish;
use super::sequence::{Live, Sequence};
use crate::error::ModelError;
use crate::kv::{KvError, KvId, KvStore, RowsCopy};

/// Tokens of growth that admission leaves each running sample, so that a newcomer is not put back a few steps later.
const HEADROOM_TOKENS: usize = 16;

/// Tokens of one live sample in a pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// Index among the live samples.
    pub(super) live: usize,
    pub(super) tokens: usize,
}

#[derive(Debug)]
pub(super) struct Scheduler<'a> {
    pub(super) kv: &'a mut dyn KvStore,
    /// In the order of their turns.
    pub(super) waiting: VecDeque<Sequence>,
    pub(super) live: Vec<Live>,
    pub(super) prefixes: PrefixCache,
    /// What the next pass reads.
    pub(super) pass: Vec<Part>,
    pub(super) preemptions: u64,
    pub(super) swaps: u64,
    max_batch: usize,
    prompt_chunk: usize,
    swap_bytes: usize,
}

/// A sample's place in the store.
struct Place {
    kv: KvId,
    /// Rows that are there already, shared or brought back.
    rows: usize,
    /// Those that another sequence has too.
    shared: usize,
}

impl<'a> Scheduler<'a> {
    pub(super) fn new(kv: &'a mut dyn KvStore, config: &EngineConfig) -> Self {
        let max_batch = config.max_batch.min(kv.geometry().max_sequences);
        Self {
            kv,
            waiting: VecDeque::new(),
            live: Vec::with_capacity(max_batch),
            prefixes: PrefixCache::new(config.kept_prefixes),
            pass: Vec::with_capacity(max_batch),
            preemptions: 0,
            swaps: 0,
            max_batch,
            prompt_chunk: config.prompt_chunk,
            swap_bytes: config.swap_bytes,
        }
    }

    /// Puts a sample into the queue, at its turn.
    pub(super) fn enqueue(&mut self, sequence: Sequence) {
        let at = self.waiting.partition_point(|other| other.turn() < sequence.turn());
        self.waiting.insert(at, sequence);
    }

    /// Moves samples from the queue into the store while there is room for them; returns the tokens that need not be
    /// computed.
    ///
    /// # Errors
    /// A sample that the store refuses although nothing else runs.
    pub(super) fn admit(&mut self) -> Result<usize, Box<(Sequence, KvError)>> {
        let mut total = 0;
        while self.live.len() < self.max_batch
            && let Some(mut sequence) = self.waiting.pop_front()
        {
            let Place { kv, rows, shared } = match self.place(&sequence) {
                Ok(Some(place)) => place,
                Ok(None) => {
                    self.waiting.push_front(sequence);
                    break;
                }
                Err(error) => return Err(Box::new((sequence, error))),
            };
            if sequence.swapped.take().is_none() && sequence.usage().output == 0 {
                sequence.cached = shared;
            }
            total += shared;
            self.live.push(Live {
                sequence,
                kv,
                rows,
                end: None,
            });
        }
        Ok(total)
    }

    /// A place in the store for a sample, with its own rows brought back or as many as another sequence has to share. `None`
    /// when there is no room beside those that run.
    fn place(&mut self, sequence: &Sequence) -> Result<Option<Place>, KvError> {
        let (tokens, swapped) = (&*sequence.tokens, sequence.swapped.as_ref());
        let (mut source, mut shared) = match swapped {
            Some(_) => (None, 0),
            None => self.longest_prefix(tokens),
        };
        let own = self.kv.sequence_bytes(tokens.len() + HEADROOM_TOKENS) - self.kv.sequence_bytes(shared);
        let promised: usize = self.live.iter().map(|live| self.promised_bytes(live)).sum();
        while self.kv.free_bytes() < own + promised {
            if !self.prefixes.evict(self.kv, source) {
                if self.live.is_empty() {
                    break;
                }
                return Ok(None);
            }
        }
        loop {
            let placed = match (swapped, source) {
                (Some(rows), _) => rows.put(self.kv),
                (None, Some(source)) => self.kv.fork(source, shared),
                (None, None) => self.kv.open(),
            };
            match placed {
                Ok(kv) => {
                    if let Some(source) = source {
                        self.prefixes.touch(source);
                    }
                    let rows = swapped.map_or(shared, RowsCopy::tokens);
                    return Ok(Some(Place { kv, rows, shared }));
                }
                Err(_) if self.prefixes.evict(self.kv, source) => {}
                Err(_) if !self.live.is_empty() => return Ok(None),
                // A kept prefix that stands in the way of the only sample.
                Err(_) if self.prefixes.evict(self.kv, None) => (source, shared) = (None, 0),
                Err(error) => return Err(error),
            }
        }
    }

    /// The sequence in the store, running or kept, with the longest beginning in common with `tokens`. The last token is
    /// always read again: it gives the logits.
    fn longest_prefix(&self, tokens: &[u32]) -> (Option<KvId>, usize) {
        let wanted = &tokens[..tokens.len() - 1];
        let live = self.live.iter().map(|live| {
            let rows = &live.sequence.tokens[..live.rows];
            (live.kv, common(rows, wanted))
        });
        // A kept one wins when they are equal: using it keeps it.
        let best = live
            .chain(self.prefixes.longest(wanted))
            .max_by_key(|&(_, common)| common);
        match best {
            Some((kv, common)) if common > 0 && self.prefixes.enabled() => (Some(kv), common),
            _ => (None, 0),
        }
    }

    /// Bytes that a live sample is about to take.
    fn promised_bytes(&self, live: &Live) -> usize {
        let goal = self.kv.sequence_bytes(live.sequence.tokens.len() + HEADROOM_TOKENS);
        goal - self.kv.sequence_bytes(live.rows)
    }

    /// Decides the next pass: one token of each sample that is past its prompt, and on top of them one chunk of prompt
    /// tokens, for those admitted first.
    pub(super) fn plan(&mut self) {
        self.pass.clear();
        let mut left = self.prompt_chunk;
        for (index, live) in self.live.iter().enumerate() {
            let unread = live.unread();
            let tokens = if unread == 1 { 1 } else { unread.min(left) };
            if unread > 1 {
                left -= tokens;
            }
            if tokens > 0 {
                self.pass.push(Part { live: index, tokens });
            }
        }
    }

    /// Frees memory after the store refused a pass: the oldest kept prefix, else the youngest of several samples, which
    /// goes back to the queue. `false` when nothing is left to give.
    pub(super) fn make_room(&mut self) -> bool {
        if self.prefixes.evict(self.kv, None) {
            return true;
        }
        if self.live.len() < 2 {
            return false;
        }
        let youngest = (0..self.live.len()).max_by_key(|&index| self.live[index].sequence.turn());
        if let Some(youngest) = youngest {
            let mut live = self.live.remove(youngest);
            live.sequence.swapped = self.copy_out(&live);
            self.swaps += u64::from(live.sequence.swapped.is_some());
            free(self.kv, live.kv);
            self.enqueue(live.sequence);
            self.preemptions += 1;
        }
        true
    }

    /// The rows of a sample that is put back, where [`EngineConfig::swap_bytes`] has room for them.
    fn copy_out(&self, live: &Live) -> Option<RowsCopy> {
        let row = self.kv.geometry().token_bytes();
        let waiting = self.waiting.iter().filter_map(|sequence| sequence.swapped.as_ref());
        let used = waiting.map(|rows| rows.tokens() * row).sum::<usize>();
        let fits = live.rows > 0 && used + live.rows * row <= self.swap_bytes;
        // Rows that cannot be read are computed again.
        fits.then(|| RowsCopy::take(&*self.kv, live.kv, live.rows).ok())
            .flatten()
    }

    /// Lets the samples of a request split off sample `index`, whose prompt has been read: those with room beside it become
    /// live and stand at the end, the others wait.
    pub(super) fn split(&mut self, index: usize) {
        let (kv, rows) = (self.live[index].kv, self.live[index].rows);
        for sequence in self.live[index].sequence.split() {
            let room = self.live.len() < self.max_batch;
            match room.then(|| self.kv.fork(kv, rows)) {
                Some(Ok(kv)) => self.live.push(Live {
                    sequence,
                    kv,
                    rows,
                    end: None,
                }),
                _ => self.enqueue(sequence),
            }
        }
    }

    /// Takes out a live sample that has ended and keeps its rows as a prefix where that is of use.
    pub(super) fn take_ended(&mut self) -> Option<(Sequence, Finish)> {
        let index = self.live.iter().position(|live| live.end.is_some())?;
        let Live {
            sequence,
            kv,
            rows,
            end,
        } = self.live.remove(index);
        let reason = end?;
        if self.prefixes.enabled() && matches!(reason, Finish::Stop | Finish::Length) {
            self.prefixes.insert(kv, &sequence.tokens[..rows], self.kv);
        } else {
            free(self.kv, kv);
        }
        Some((sequence, reason))
    }

    /// Ends every sample that `ends` names: the live ones are for [`take_ended`](Self::take_ended), those that wait are
    /// returned.
    pub(super) fn end_where(&mut self, reason: &Finish, ends: impl Fn(&Sequence) -> bool) -> Vec<Sequence> {
        for live in self.live.iter_mut().filter(|live| ends(&live.sequence)) {
            live.end = Some(reason.clone());
        }
        let mut ended = Vec::new();
        let mut index = 0;
        while index < self.waiting.len() {
            if ends(&self.waiting[index]) {
                ended.extend(self.waiting.remove(index));
            } else {
                index += 1;
            }
        }
        ended
    }

    /// Drops every sample that `unwanted` names; whether there was one.
    pub(super) fn drop_where(&mut self, unwanted: impl Fn(&Sequence) -> bool) -> bool {
        let before = self.live.len() + self.waiting.len();
        self.waiting.retain(|sequence| !unwanted(sequence));
        self.live.retain(|live| {
            let unwanted = unwanted(&live.sequence);
            if unwanted {
                free(self.kv, live.kv);
            }
            !unwanted
        });
        self.live.len() + self.waiting.len() < before
    }

    /// Frees all kept prefixes.
    pub(super) fn clear_prefixes(&mut self) {
        while self.prefixes.evict(self.kv, None) {}
    }
}

/// Whether an error of the model says that memory is lacking, so that giving some back may help.
pub(super) fn lacks_memory(error: &ModelError) -> bool {
    let ModelError::Kv(error) = error else {
        return false;
    };
    matches!(
        error,
        KvError::NeedMemory { .. } | KvError::Allocator(_) | KvError::System(_)
    )
}
