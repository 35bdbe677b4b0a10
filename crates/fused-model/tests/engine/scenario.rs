//! Requests that come, end, vanish and time out in any mixture, over any store, and what must hold of all of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fused_model::engine::{Engine, EngineConfig, EngineStats, Event, Finish, Reply, Request, RequestId, Sampling};
use fused_model::kv::{KvGeometry, KvStore, KvType, PagedKv, StaticKv};
use fused_model::{CausalLm, generate};

use crate::toy::ToyLm;

pub(crate) const VOCAB: usize = 13;
pub(crate) const CONTEXT: usize = 48;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Static,
    /// Blocks for so many times the longest sequence.
    Paged(usize),
    /// Frames for so many times the longest sequence.
    Virtual(usize),
}

/// What becomes of a request other than its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Ends,
    Cancelled(usize),
    Late(usize),
}

#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    /// Step before which it is submitted.
    pub(crate) step: usize,
    pub(crate) request: Request,
    pub(crate) fate: Fate,
}

#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) store: Store,
    pub(crate) numbers: KvType,
    pub(crate) max_batch: usize,
    pub(crate) prompt_chunk: usize,
    pub(crate) kept_prefixes: usize,
    pub(crate) swap_bytes: usize,
    pub(crate) fails_in: Option<usize>,
    pub(crate) arrivals: Vec<Arrival>,
}

pub(crate) fn open(store: Store, numbers: KvType, model: &ToyLm, sequences: usize) -> Box<dyn KvStore> {
    let geometry = KvGeometry {
        numbers,
        ..model.kv_geometry(sequences)
    };
    match store {
        Store::Static => Box::new(StaticKv::new(&geometry).unwrap()),
        Store::Paged(times) => {
            Box::new(PagedKv::with_budget(&geometry, times * CONTEXT * geometry.token_bytes()).unwrap())
        }
        Store::Virtual(times) => crate::virtual_store(&geometry, times),
    }
}

/// Output and end of each sample: `None` while it runs.
type Outcome = BTreeMap<(RequestId, usize), (Vec<u32>, Option<Finish>)>;

/// Runs a scenario to its end and checks everything about it; what the engine counted.
pub(crate) fn check(scenario: &Scenario) -> EngineStats {
    let mut model = ToyLm::new(VOCAB, CONTEXT);
    model.fails_in = scenario.fails_in;
    let oracle = model.clone();
    let sequences = scenario.max_batch + scenario.kept_prefixes;
    let mut kv = open(scenario.store, scenario.numbers, &model, sequences);
    let (free, physical) = (kv.free_bytes(), kv.memory().physical_bytes);
    let config = EngineConfig {
        max_batch: scenario.max_batch,
        prompt_chunk: scenario.prompt_chunk,
        max_waiting: usize::MAX,
        kept_prefixes: scenario.kept_prefixes,
        swap_bytes: scenario.swap_bytes,
    };
    let start = Instant::now();
    let mut engine = Engine::new(&mut model, kv.as_mut(), config).unwrap();
    let mut outcome = Outcome::new();
    let mut requests: BTreeMap<RequestId, (Request, Fate, usize)> = BTreeMap::new();
    let last = scenario.arrivals.iter().map(|arrival| arrival.step).max().unwrap_or(0);
    for step in 0.. {
        assert!(
            step < 20_000,
            "the engine does not come to an end: {:?}",
            engine.stats()
        );
        for arrival in scenario.arrivals.iter().filter(|arrival| arrival.step == step) {
            let mut request = arrival.request.clone();
            if let Fate::Late(steps) = arrival.fate {
                request.deadline = Some(start + Duration::from_secs((step + steps) as u64));
            }
            let id = engine.submit(request.clone()).unwrap();
            for sample in 0..request.samples {
                outcome.insert((id, sample), Default::default());
            }
            requests.insert(id, (request, arrival.fate, step));
        }
        for (&id, &(_, fate, submitted)) in &requests {
            if fate == Fate::Cancelled(step - submitted) {
                let open = outcome
                    .range((id, 0)..=(id, usize::MAX))
                    .any(|(_, (_, end))| end.is_none());
                assert_eq!(engine.cancel(id), open);
                outcome.retain(|&(other, _), (_, end)| other != id || end.is_some());
            }
        }
        if engine.is_idle() && step > last {
            break;
        }
        let (mut tokens_in_pass, mut sequences_in_pass, mut given) = (0, 0, BTreeMap::new());
        engine.step(start + Duration::from_secs(step as u64), &mut |event| match event {
            Event::Token {
                request,
                sample,
                index,
                id,
                ..
            } => {
                let (tokens, end) = outcome
                    .get_mut(&(request, sample))
                    .expect("a token of a sample that is gone");
                assert!(end.is_none(), "a token after the end");
                assert_eq!(index, tokens.len());
                tokens.push(id);
                *given.entry((request, sample)).or_insert(0) += 1;
            }
            Event::Finished {
                request,
                sample,
                reason,
                usage,
                ..
            } => {
                let (tokens, end) = outcome
                    .get_mut(&(request, sample))
                    .expect("an end of a sample that is gone");
                assert!(end.is_none(), "two ends");
                assert_eq!(
                    (usage.prompt, usage.output),
                    (requests[&request].0.prompt.len(), tokens.len())
                );
                assert!(usage.cached < usage.prompt);
                *end = Some(reason);
            }
            Event::Step { sequences, tokens, .. } => (sequences_in_pass, tokens_in_pass) = (sequences, tokens),
            _ => {}
        });
        assert!(sequences_in_pass <= scenario.max_batch);
        assert!(tokens_in_pass <= scenario.max_batch + scenario.prompt_chunk);
        assert!(given.values().all(|&tokens| tokens == 1), "more than a token in a step");
    }
    let stats = engine.stats();
    assert_eq!((stats.running, stats.waiting), (0, 0));
    assert!(stats.kept_prefixes <= scenario.kept_prefixes);
    engine.clear_prefixes();
    assert_eq!(engine.memory().used_bytes, 0, "rows left in the store");
    drop(engine);
    assert_eq!(kv.free_bytes(), free, "memory left in the store");
    // A paged pool keeps what it has once used.
    if !matches!(scenario.store, Store::Paged(_)) {
        assert_eq!(kv.memory().physical_bytes, physical);
    }
    let mut failed = 0;
    for (&(id, sample), (tokens, end)) in &outcome {
        let (request, fate, _) = &requests[&id];
        let want = alone(&oracle, request, sample);
        match end.as_ref().expect("a sample without an end") {
            Finish::Stop => assert!(
                tokens == &want && want.len() < request.max_tokens,
                "{id:?} stopped too early"
            ),
            Finish::Length => assert_eq!(tokens, &want),
            Finish::Timeout => {
                assert!(matches!(fate, Fate::Late(_)));
                assert!(want.starts_with(tokens));
            }
            Finish::Failed(error) => {
                assert!(error.to_string().contains("injected"), "{error}");
                assert!(want.starts_with(tokens));
                failed += 1;
            }
        }
    }
    assert!(scenario.fails_in.is_some() || failed == 0);
    stats
}

/// What a sample gives when nothing else is there: greedy ones by the definition, others in an engine of their own.
fn alone(model: &ToyLm, request: &Request, sample: usize) -> Vec<u32> {
    match &request.reply {
        Reply::Replay(ids) => ids.clone(),
        Reply::Sampled(Sampling::GREEDY) => model.greedy(&request.prompt, request.max_tokens, &request.stop_ids),
        Reply::Sampled(_) => {
            let mut model = ToyLm::new(model.vocab, model.context);
            let mut kv = open(Store::Static, KvType::F32, &model, request.samples);
            let request = Request {
                deadline: None,
                ..request.clone()
            };
            let batch = request.samples;
            let outputs = generate(&mut model, kv.as_mut(), &[request], batch, &mut |_| {});
            outputs.unwrap().swap_remove(sample)
        }
    }
}
