//! Streams and events: in which order queued work may run.
//!
//! Every piece of work gets a number when it is queued. Whoever waits for a piece runs what must come before it, in any
//! order the rules allow:
//!
//! * work of one stream runs in the order it was queued in;
//! * work after `cuStreamWaitEvent` runs after the recording that was the event's last one at the time of the call;
//! * work of the legacy default stream runs after all earlier work of blocking streams, and their later work after it.
//!
//! Nothing else is ordered, and nothing runs before somebody waits for it. That is the slowest device that the documentation
//! allows: what works here does not depend on a device being quick.

use std::collections::{BTreeMap, VecDeque};

use crate::code::{Code, Outcome, Refusal};

/// Names a stream. The per-thread default stream has one for each thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// The legacy default stream.
pub const LEGACY: StreamId = StreamId(0);

/// Position of a piece of work in the order of queueing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

impl Ticket {
    /// After all work there will ever be.
    pub const MAX: Self = Self(u64::MAX);
}

/// A queued piece: work for the device, or an order between streams.
#[derive(Debug)]
enum Piece<W> {
    Work(W),
    Record(u64),
    /// What must be done before.
    After(Option<(StreamId, Ticket)>),
}

#[derive(Debug)]
struct Stream<W> {
    /// Ordered with the legacy default stream.
    blocking: bool,
    /// Goes away when its work is done.
    destroyed: bool,
    queue: VecDeque<(Ticket, Piece<W>)>,
}

#[derive(Debug, Default)]
struct Event {
    /// The last recording, and where it was made.
    recorded: Option<(StreamId, Ticket)>,
    done: Option<Ticket>,
}

/// All streams and events of a context, with work of type `W`.
#[derive(Debug)]
pub struct Streams<W> {
    streams: BTreeMap<StreamId, Stream<W>>,
    events: BTreeMap<u64, Event>,
    next_ticket: u64,
    next_name: u64,
}

impl<W> Streams<W> {
    /// The legacy default stream alone.
    #[must_use]
    pub fn new() -> Self {
        let mut streams = Self {
            streams: BTreeMap::new(),
            events: BTreeMap::new(),
            next_ticket: 1,
            next_name: 0x1000,
        };
        streams.ensure(LEGACY);
        streams
    }

    /// Makes a blocking stream with this name unless there is one: the default stream of a thread.
    pub fn ensure(&mut self, id: StreamId) {
        self.streams.entry(id).or_insert_with(|| Stream {
            blocking: true,
            destroyed: false,
            queue: VecDeque::new(),
        });
    }

    /// `cuStreamCreate`.
    pub fn create(&mut self, blocking: bool) -> StreamId {
        let id = StreamId(self.name());
        let stream = Stream {
            blocking,
            destroyed: false,
            queue: VecDeque::new(),
        };
        self.streams.insert(id, stream);
        id
    }

    /// `cuStreamDestroy`: the stream takes no more work, and goes when what it has is done.
    ///
    /// # Errors
    ///
    /// The stream does not exist, or is the default stream.
    pub fn destroy(&mut self, id: StreamId) -> Outcome {
        if id == LEGACY {
            return Err(Refusal::new(
                Code::InvalidHandle,
                "the default stream cannot be destroyed",
            ));
        }
        let stream = self.live(id)?;
        stream.destroyed = true;
        self.drop_finished(id);
        Ok(())
    }

    /// `cuEventCreate`.
    pub fn create_event(&mut self) -> u64 {
        let event = self.name();
        self.events.insert(event, Event::default());
        event
    }

    /// `cuEventDestroy`. Work that waits for a recording of it still waits.
    ///
    /// # Errors
    ///
    /// The event does not exist.
    pub fn destroy_event(&mut self, event: u64) -> Outcome {
        self.event(event)?;
        self.events.remove(&event);
        Ok(())
    }

    /// Queues work.
    ///
    /// # Errors
    ///
    /// The stream does not exist.
    pub fn push(&mut self, id: StreamId, work: W) -> Outcome<Ticket> {
        self.push_piece(id, Piece::Work(work))
    }

    /// `cuEventRecord`.
    ///
    /// # Errors
    ///
    /// The stream or the event does not exist.
    pub fn record(&mut self, event: u64, id: StreamId) -> Outcome<Ticket> {
        self.event(event)?;
        let ticket = self.push_piece(id, Piece::Record(event))?;
        self.event(event)?.recorded = Some((id, ticket));
        Ok(ticket)
    }

    /// `cuStreamWaitEvent`: later work of the stream comes after the event's last recording; nothing, when there is none.
    ///
    /// # Errors
    ///
    /// The stream or the event does not exist.
    pub fn wait_event(&mut self, id: StreamId, event: u64) -> Outcome<Ticket> {
        let recorded = self.event(event)?.recorded;
        self.push_piece(id, Piece::After(recorded))
    }

    /// The last recording of an event that is not done, if there is one.
    ///
    /// # Errors
    ///
    /// The event does not exist.
    pub fn pending(&mut self, event: u64) -> Outcome<Option<(StreamId, Ticket)>> {
        let event = self.event(event)?;
        Ok(event.recorded.filter(|(_, ticket)| event.done < Some(*ticket)))
    }

    /// The last piece that a stream has queued, if any.
    ///
    /// # Errors
    ///
    /// The stream does not exist.
    pub fn last(&mut self, id: StreamId) -> Outcome<Option<Ticket>> {
        Ok(self.live(id)?.queue.back().map(|(ticket, _)| *ticket))
    }

    /// All streams that have work, destroyed ones too.
    #[must_use]
    pub fn busy(&self) -> Vec<StreamId> {
        let busy = self.streams.iter().filter(|(_, stream)| !stream.queue.is_empty());
        busy.map(|(id, _)| *id).collect()
    }

    /// Takes the next piece of work that must run so that `id` gets past `until`, or `None` when it is past.
    /// Call it again after running the work.
    pub fn next(&mut self, id: StreamId, until: Ticket) -> Option<W> {
        loop {
            let (ticket, piece) = self.streams.get(&id)?.queue.front()?;
            if *ticket > until {
                return None;
            }
            let (ticket, blocking) = (*ticket, self.streams[&id].blocking);
            let before = Ticket(ticket.0 - 1);
            if let Piece::After(Some((other, recorded))) = *piece
                && let Some(work) = self.next(other, recorded)
            {
                return Some(work);
            }
            if blocking {
                let others: Vec<StreamId> = if id == LEGACY {
                    let others = self
                        .streams
                        .iter()
                        .filter(|(other, stream)| **other != LEGACY && stream.blocking);
                    others.map(|(other, _)| *other).collect()
                } else {
                    vec![LEGACY]
                };
                if let Some(work) = others.into_iter().find_map(|other| self.next(other, before)) {
                    return Some(work);
                }
            }
            let stream = self.streams.get_mut(&id)?;
            let (_, piece) = stream.queue.pop_front()?;
            self.drop_finished(id);
            match piece {
                Piece::Work(work) => return Some(work),
                Piece::Record(event) => {
                    if let Some(event) = self.events.get_mut(&event) {
                        event.done = Some(ticket);
                    }
                }
                Piece::After(_) => {}
            }
        }
    }

    /// Streams made and not destroyed, and events.
    #[must_use]
    pub fn live_counts(&self) -> [(&'static str, u64); 2] {
        let made = self
            .streams
            .iter()
            .filter(|(id, stream)| id.0 >= 0x1000 && id.0 < PER_THREAD && !stream.destroyed);
        [("streams", made.count() as u64), ("events", self.events.len() as u64)]
    }

    fn push_piece(&mut self, id: StreamId, piece: Piece<W>) -> Outcome<Ticket> {
        let ticket = Ticket(self.next_ticket);
        self.live(id)?.queue.push_back((ticket, piece));
        self.next_ticket += 1;
        Ok(ticket)
    }

    fn live(&mut self, id: StreamId) -> Outcome<&mut Stream<W>> {
        let live = self.streams.get_mut(&id).filter(|stream| !stream.destroyed);
        live.ok_or_else(|| Refusal::new(Code::InvalidHandle, format!("stream {:#x} does not exist", id.0)))
    }

    fn event(&mut self, event: u64) -> Outcome<&mut Event> {
        let found = self.events.get_mut(&event);
        found.ok_or_else(|| Refusal::new(Code::InvalidHandle, format!("event {event:#x} does not exist")))
    }

    fn drop_finished(&mut self, id: StreamId) {
        if self
            .streams
            .get(&id)
            .is_some_and(|stream| stream.destroyed && stream.queue.is_empty())
        {
            self.streams.remove(&id);
        }
    }

    fn name(&mut self) -> u64 {
        self.next_name += 0x10;
        self.next_name
    }
}

impl<W> Default for Streams<W> {
    fn default() -> Self {
        Self::new()
    }
}

/// First name of the default streams of threads.
pub const PER_THREAD: u64 = 1 << 40;

#[cfg(test)]
mod tests {
    use super::{LEGACY, PER_THREAD, StreamId, Streams, Ticket};

    fn run(streams: &mut Streams<u32>, id: StreamId, until: Ticket) -> Vec<u32> {
        std::iter::from_fn(|| streams.next(id, until)).collect()
    }

    #[test]
    fn a_stream_runs_in_order_and_no_further_than_asked() {
        let mut streams = Streams::new();
        let (a, b) = (streams.create(false), streams.create(false));
        streams.push(a, 1).unwrap();
        streams.push(b, 2).unwrap();
        let third = streams.push(a, 3).unwrap();
        streams.push(a, 4).unwrap();
        assert_eq!(run(&mut streams, a, third), [1, 3]);
        assert_eq!(streams.busy(), [a, b]);
    }

    #[test]
    fn work_after_a_wait_comes_after_the_recording_at_the_time_of_the_call() {
        let mut streams = Streams::new();
        let (a, b) = (streams.create(false), streams.create(false));
        let event = streams.create_event();
        streams.wait_event(b, event).unwrap();
        let first = streams.push(b, 1).unwrap();
        assert_eq!(run(&mut streams, b, first), [1], "never recorded: nothing to wait for");

        streams.push(a, 2).unwrap();
        streams.record(event, a).unwrap();
        streams.wait_event(b, event).unwrap();
        streams.push(a, 3).unwrap();
        streams.record(event, a).unwrap();
        let fourth = streams.push(b, 4).unwrap();
        assert_eq!(
            run(&mut streams, b, fourth),
            [2, 4],
            "the later recording does not count"
        );
        let (stream, ticket) = streams.pending(event).unwrap().unwrap();
        assert_eq!(run(&mut streams, stream, ticket), [3]);
        assert_eq!(streams.pending(event).unwrap(), None);
    }

    #[test]
    fn the_legacy_stream_is_a_barrier_for_blocking_streams_only() {
        let mut streams = Streams::new();
        let (blocking, free) = (streams.create(true), streams.create(false));
        let own = StreamId(PER_THREAD);
        streams.ensure(own);
        streams.push(blocking, 1).unwrap();
        streams.push(free, 2).unwrap();
        streams.push(own, 3).unwrap();
        let barrier = streams.push(LEGACY, 4).unwrap();
        let after = streams.push(blocking, 5).unwrap();
        streams.push(free, 6).unwrap();
        streams.push(LEGACY, 7).unwrap();
        assert_eq!(run(&mut streams, blocking, after), [1, 3, 4, 5]);
        assert_eq!(run(&mut streams, LEGACY, barrier), [] as [u32; 0]);
        assert_eq!(streams.busy(), [LEGACY, free]);
    }

    #[test]
    fn a_destroyed_stream_finishes_and_takes_nothing_more() {
        let mut streams = Streams::new();
        let stream = streams.create(false);
        let event = streams.create_event();
        streams.push(stream, 1).unwrap();
        streams.record(event, stream).unwrap();
        streams.destroy(stream).unwrap();
        assert!(streams.push(stream, 2).is_err() && streams.destroy(stream).is_err() && streams.last(stream).is_err());
        assert_eq!(streams.live_counts(), [("streams", 0), ("events", 1)]);
        let (at, ticket) = streams.pending(event).unwrap().unwrap();
        assert_eq!(run(&mut streams, at, ticket), [1]);
        assert_eq!((streams.pending(event).unwrap(), streams.busy()), (None, vec![]));
        streams.destroy_event(event).unwrap();
        assert!(streams.destroy_event(event).is_err() && streams.record(event, LEGACY).is_err());
        assert!(streams.wait_event(LEGACY, event).is_err() && streams.pending(event).is_err());
        assert!(streams.destroy(LEGACY).is_err());
    }
}
