//! The engine: what a request gives depends on the request alone, and nothing is left of it afterwards.

use std::time::{Duration, Instant};

use fused_model::engine::{Engine, EngineConfig, Event, Finish, MAX_LOGPROBS, Request, Sampling};
use fused_model::kv::{KvError, KvGeometry, KvStore, KvType, PagedKv, StaticKv, VirtualKv};
use fused_model::{CausalLm, Gpt2, Gpt2Config, Logits, ModelError, Options, Params, generate};
use patchtok::PatchTokenizer;
use proptest::prelude::*;

mod beam;
mod scenario;
mod toy;

use scenario::{Arrival, CONTEXT, Fate, Scenario, Store, VOCAB, check};
use toy::ToyLm;

const PAGE: usize = 4096;

/// Rows of the toy model are far smaller than a page, so a sequence takes a page in each region whatever its length; the
/// budget is for so many sequences.
pub(crate) fn virtual_store(geometry: &KvGeometry, sequences: usize) -> Box<dyn KvStore> {
    let budget = sequences * 2 * geometry.layers * PAGE;
    Box::new(VirtualKv::new(geometry, PAGE, budget).unwrap())
}

fn arrival() -> impl Strategy<Value = Arrival> {
    // Prompts begin alike more often than not.
    let prompt = (0u32..3, 0usize..20, prop::collection::vec(0..VOCAB as u32, 1..12));
    let fate = prop_oneof![
        4 => Just(Fate::Ends),
        1 => (0usize..30).prop_map(Fate::Cancelled),
        1 => (0usize..30).prop_map(Fate::Late),
    ];
    let sampling = prop_oneof![
        3 => Just(Sampling::GREEDY),
        1 => (any::<u64>(), 0usize..4).prop_map(|(seed, top_k)| Sampling {
            temperature: 1.0,
            top_k,
            seed: Some(seed),
            ..Sampling::GREEDY
        }),
    ];
    let reply = (sampling, 1usize..CONTEXT, prop::sample::select(vec![1, 1, 1, 2, 4]));
    (0usize..20, prompt, reply, prop::option::of(0..VOCAB as u32), fate).prop_map(
        |(step, (kind, shared, own), (sampling, max_tokens, samples), stop, fate)| {
            let mut prompt: Vec<u32> = (0..shared as u32).map(|i| (i * (kind + 1)) % VOCAB as u32).collect();
            prompt.extend(own);
            let max_tokens = max_tokens.min(CONTEXT + 1 - prompt.len());
            let request = Request {
                samples,
                stop_ids: stop.into_iter().collect(),
                ..Request::sampled(prompt, max_tokens, sampling)
            };
            Arrival { step, request, fate }
        },
    )
}

fn any_scenario() -> impl Strategy<Value = Scenario> {
    let store = prop_oneof![
        Just(Store::Static),
        (1usize..4).prop_map(Store::Paged),
        (1usize..4).prop_map(Store::Virtual),
    ];
    let swap_bytes = prop::sample::select(vec![0usize, 500, 1 << 20]);
    let limits = (1usize..6, 1usize..20, 0usize..4, swap_bytes);
    let store = (store, prop::sample::select(vec![KvType::F32, KvType::F16]));
    let fails_in = prop_oneof![4 => Just(None), 1 => (0usize..20).prop_map(Some)];
    (store, limits, fails_in, prop::collection::vec(arrival(), 1..9)).prop_map(
        |((store, numbers), (max_batch, prompt_chunk, kept_prefixes, swap_bytes), fails_in, arrivals)| Scenario {
            store,
            numbers,
            max_batch,
            prompt_chunk,
            kept_prefixes,
            swap_bytes,
            fails_in,
            arrivals,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    /// Whatever comes together, in whatever store, with cancellations, deadlines, preemptions and a pass that fails: each
    /// sample gives what it gives alone, ends once, and every byte of the store is free afterwards.
    #[test]
    fn a_request_depends_on_nothing_but_itself(scenario in any_scenario()) {
        check(&scenario);
    }
}

fn requests(count: usize, prompt: usize, max_tokens: usize) -> Vec<Arrival> {
    let request = |i| Request::greedy((0..prompt).map(|t| ((t + i) % VOCAB) as u32).collect(), max_tokens);
    let arrival = |i| Arrival {
        step: 0,
        request: request(i),
        fate: Fate::Ends,
    };
    (0..count).map(arrival).collect()
}

#[test]
fn a_full_store_puts_the_youngest_back_and_loses_nothing() {
    let scenario = Scenario {
        store: Store::Paged(2),
        numbers: KvType::F32,
        max_batch: 4,
        prompt_chunk: 8,
        kept_prefixes: 0,
        swap_bytes: 0,
        fails_in: None,
        arrivals: requests(4, 4, 40),
    };
    let again = check(&scenario);
    assert!(again.preemptions > 0, "the scenario is to be too large for the store");
    assert_eq!(again.swaps, 0);
    // Rows that are copied out and back are not computed again.
    let swapped = check(&Scenario {
        swap_bytes: 1 << 20,
        ..scenario.clone()
    });
    assert!(
        swapped.preemptions > 0 && swapped.swaps == swapped.preemptions,
        "{swapped:?}"
    );
    // Of 4 + 40 tokens the last is never read.
    assert_eq!(swapped.computed_tokens, 4 * 43);
    // Without room for them they are.
    let small = check(&Scenario {
        swap_bytes: 500,
        ..scenario
    });
    assert_eq!((small.swaps, small.computed_tokens), (0, again.computed_tokens));
}

#[test]
fn requests_that_begin_alike_share_rows() {
    for store in [Store::Static, Store::Paged(4), Store::Virtual(4)] {
        let mut arrivals = requests(1, 20, 4);
        // The same prompt again, after the first has ended, and one that leaves it half way.
        let mut half = requests(1, 20, 4);
        half[0].request.prompt[10] = 0;
        for (step, mut again) in [(20, requests(1, 20, 4)), (40, half)] {
            again[0].step = step;
            arrivals.extend(again);
        }
        let scenario = Scenario {
            store,
            numbers: KvType::F32,
            max_batch: 2,
            prompt_chunk: 8,
            kept_prefixes: 2,
            swap_bytes: 0,
            fails_in: None,
            arrivals,
        };
        let stats = check(&scenario);
        assert_eq!(stats.shared_tokens, 19 + 10, "{store:?}");
        // Two prompts and three outputs, whose last tokens are never read, less what was shared.
        assert_eq!(stats.computed_tokens, 3 * (20 + 3) - 29, "{store:?}");
    }
}

#[test]
fn samples_of_a_request_read_its_prompt_once() {
    let mut model = ToyLm::new(VOCAB, CONTEXT);
    let mut kv = StaticKv::new(&model.kv_geometry(8)).unwrap();
    let config = EngineConfig {
        max_batch: 4,
        kept_prefixes: 0,
        ..EngineConfig::default()
    };
    let mut engine = Engine::new(&mut model, &mut kv, config).unwrap();
    let hot = Sampling {
        temperature: 2.0,
        seed: Some(5),
        ..Sampling::GREEDY
    };
    let request = Request {
        samples: 4,
        ..Request::sampled(vec![1; 30], 10, hot)
    };
    engine.submit(request).unwrap();
    let mut outputs = vec![Vec::new(); 4];
    while !engine.is_idle() {
        engine.step(Instant::now(), &mut |event| {
            if let Event::Token { sample, id, .. } = event {
                outputs[sample].push(id);
            }
        });
    }
    assert_eq!(engine.stats().computed_tokens, 30 + 4 * 9);
    assert!(outputs.iter().all(|output| output.len() == 10));
    outputs.sort_unstable();
    outputs.dedup();
    assert_eq!(outputs.len(), 4, "samples draw for themselves");
}

/// Tokens that running samples get while a prompt of the full context is read beside them.
#[test]
fn a_long_prompt_stalls_nobody() {
    let mut model = ToyLm::new(VOCAB, 400);
    let mut kv = StaticKv::new(&model.kv_geometry(4)).unwrap();
    let config = EngineConfig {
        max_batch: 4,
        prompt_chunk: 16,
        kept_prefixes: 0,
        ..EngineConfig::default()
    };
    let mut engine = Engine::new(&mut model, &mut kv, config).unwrap();
    for i in 0..3 {
        engine.submit(Request::greedy(vec![i; 5], 200)).unwrap();
    }
    engine.step(Instant::now(), &mut |_| {});
    let long = engine.submit(Request::greedy(vec![7; 390], 5)).unwrap();
    let mut steps = 0;
    let mut started = false;
    while !started {
        let (mut others, mut pass) = (0, 0);
        engine.step(Instant::now(), &mut |event| match event {
            Event::Token { request, .. } if request == long => started = true,
            Event::Token { .. } => others += 1,
            Event::Step { tokens, .. } => pass = tokens,
            _ => {}
        });
        assert_eq!(others, 3, "each running sample gets its token in each step");
        assert!(pass <= 3 + 16, "{pass} tokens in a pass");
        steps += 1;
    }
    assert_eq!(steps, 390usize.div_ceil(16), "and the prompt a whole chunk");
}

#[test]
fn a_request_that_does_not_fit_alone_ends_with_the_error() {
    let mut model = ToyLm::new(VOCAB, CONTEXT);
    let mut kv = PagedKv::with_budget(&model.kv_geometry(4), 16 * model.kv_geometry(4).token_bytes()).unwrap();
    let mut engine = Engine::new(&mut model, &mut kv, EngineConfig::default()).unwrap();
    let large = engine.submit(Request::greedy(vec![1; 17], 1)).unwrap();
    let small = engine.submit(Request::greedy(vec![1; 15], 2)).unwrap();
    let mut ends = Vec::new();
    while !engine.is_idle() {
        engine.step(Instant::now(), &mut |event| {
            if let Event::Finished { request, reason, .. } = event {
                ends.push((request, reason));
            }
        });
    }
    assert!(matches!(&ends[0], (id, Finish::Failed(error)) if *id == large
        && matches!(**error, ModelError::Kv(KvError::NeedMemory { .. }))));
    assert!(matches!(&ends[1], (id, Finish::Length) if *id == small));
}

#[test]
fn the_queue_has_a_limit_and_bad_requests_are_refused() {
    let mut model = ToyLm::new(VOCAB, CONTEXT);
    let mut kv = StaticKv::new(&model.kv_geometry(2)).unwrap();
    let config = EngineConfig {
        max_batch: 1,
        max_waiting: 2,
        ..EngineConfig::default()
    };
    let mut engine = Engine::new(&mut model, &mut kv, config).unwrap();
    let good = Request::greedy(vec![1; 4], 4);
    let hot = |change: fn(&mut Sampling)| {
        let mut sampling = Sampling::GREEDY;
        change(&mut sampling);
        Request::sampled(vec![1; 4], 4, sampling)
    };
    let bad = [
        (Request::greedy(vec![], 4), "no tokens"),
        (Request::greedy(vec![VOCAB as u32], 4), "13"),
        (Request::greedy(vec![1], 0), "at least one"),
        (
            Request {
                samples: 0,
                ..good.clone()
            },
            "at least one",
        ),
        (
            Request::greedy(vec![1; 40], 10),
            "49 tokens of context; the model has 48",
        ),
        (Request::greedy(vec![1; 40], usize::MAX), "context"),
        (
            Request {
                stop_strings: vec!["a".into()],
                ..good.clone()
            },
            "tokenizer",
        ),
        (
            Request {
                stop_strings: vec![String::new()],
                ..good.clone()
            },
            "empty",
        ),
        (
            Request {
                logprobs: Some(MAX_LOGPROBS + 1),
                ..good.clone()
            },
            "at most 20",
        ),
        (
            Request {
                max_tokens: 3,
                ..Request::replay(vec![1], vec![1, 2])
            },
            "2",
        ),
        (Request::replay(vec![1], vec![99]), "99"),
        (hot(|s| s.temperature = -1.0), "temperature is -1"),
        (hot(|s| s.temperature = f32::NAN), "temperature is NaN"),
        (hot(|s| s.top_p = 0.0), "top_p is 0"),
        (hot(|s| s.top_p = 1.5), "top_p is 1.5"),
        (hot(|s| s.min_p = 2.0), "min_p is 2"),
        (hot(|s| s.repetition_penalty = 0.0), "repetition_penalty is 0"),
    ];
    for (request, why) in bad {
        let error = engine.submit(request).unwrap_err();
        assert!(
            matches!(&error, ModelError::Request(text) if text.contains(why)),
            "{error} lacks {why:?}"
        );
    }
    assert!(engine.is_idle());
    let first = engine.submit(good.clone()).unwrap();
    engine.submit(good.clone()).unwrap();
    let error = engine.submit(good.clone()).unwrap_err();
    assert!(matches!(error, ModelError::Busy { waiting: 2, limit: 2 }), "{error}");
    assert!(engine.cancel(first));
    assert!(!engine.cancel(first));
    engine.submit(good).unwrap();
}

#[test]
fn a_deadline_ends_running_and_waiting_samples() {
    let mut model = ToyLm::new(VOCAB, CONTEXT);
    let mut kv = StaticKv::new(&model.kv_geometry(1)).unwrap();
    let config = EngineConfig {
        max_batch: 1,
        kept_prefixes: 0,
        ..EngineConfig::default()
    };
    let mut engine = Engine::new(&mut model, &mut kv, config).unwrap();
    let start = Instant::now();
    let deadline = Some(start + Duration::from_secs(5));
    for samples in [1, 3] {
        let request = Request::greedy(vec![1; 4], 40);
        engine
            .submit(Request {
                deadline,
                samples,
                ..request
            })
            .unwrap();
    }
    let (mut tokens, mut late) = (0, 0);
    for second in 0..10 {
        engine.step(start + Duration::from_secs(second), &mut |event| match event {
            Event::Token { .. } => tokens += 1,
            Event::Finished { reason, .. } => late += usize::from(matches!(reason, Finish::Timeout)),
            _ => {}
        });
    }
    assert_eq!((tokens, late), (5, 4), "samples that never began end too");
    assert!(engine.is_idle());
    assert_eq!(engine.memory().used_bytes, 0);
}

fn tokenizer() -> PatchTokenizer {
    PatchTokenizer::load(concat!(env!("CARGO_MANIFEST_DIR"), "/../bench/demo/base")).unwrap()
}

/// Text of a replayed reply and why it ended.
fn text_of(tokenizer: &PatchTokenizer, reply: &str, stop_strings: &[&str], stop_ids: &[u32]) -> (String, Finish) {
    let mut model = ToyLm::new(tokenizer.vocab_size(), 256);
    let mut kv = StaticKv::new(&model.kv_geometry(1)).unwrap();
    let mut engine = Engine::new(&mut model, &mut kv, EngineConfig::default())
        .unwrap()
        .with_tokenizer(tokenizer)
        .unwrap();
    let request = Request {
        stop_strings: stop_strings.iter().map(|&stop| stop.into()).collect(),
        stop_ids: stop_ids.to_vec(),
        ..Request::replay(vec![1], tokenizer.encode(reply))
    };
    engine.submit(request).unwrap();
    let (mut all, mut end) = (String::new(), None);
    while !engine.is_idle() {
        engine.step(Instant::now(), &mut |event| match event {
            Event::Token { text, .. } => all.push_str(text),
            Event::Finished { text, reason, .. } => {
                all.push_str(text);
                end = Some(reason);
            }
            _ => {}
        });
    }
    (all, end.unwrap())
}

#[test]
fn text_streams_and_ends_before_a_stop_string() {
    let tokenizer = tokenizer();
    let reply = "naïve 🦀 text\nUser: more<|endoftext|>rest";
    let eos = tokenizer.eos_id().unwrap();
    let (text, end) = text_of(&tokenizer, reply, &[], &[]);
    assert!(text == reply && matches!(end, Finish::Length), "{text:?} {end:?}");
    let (text, end) = text_of(&tokenizer, reply, &[], &[eos]);
    assert!(
        text == "naïve 🦀 text\nUser: more" && matches!(end, Finish::Stop),
        "{text:?} {end:?}"
    );
    let (text, end) = text_of(&tokenizer, reply, &["xyz", "\nUser:"], &[eos]);
    assert!(
        text == "naïve 🦀 text" && matches!(end, Finish::Stop),
        "{text:?} {end:?}"
    );
    let mut small = ToyLm::new(VOCAB, CONTEXT);
    let mut kv = StaticKv::new(&small.kv_geometry(1)).unwrap();
    let engine = Engine::new(&mut small, &mut kv, EngineConfig::default()).unwrap();
    assert!(matches!(
        engine.with_tokenizer(&tokenizer),
        Err(ModelError::Mismatch(_))
    ));
}

#[test]
fn log_probabilities_are_those_of_the_model() {
    let mut model = ToyLm::new(VOCAB, CONTEXT);
    let logits = model.logits_after(&[1, 2, 3]);
    let mut kv = StaticKv::new(&model.kv_geometry(1)).unwrap();
    let mut engine = Engine::new(&mut model, &mut kv, EngineConfig::default()).unwrap();
    let request = Request::greedy(vec![1, 2, 3], 1);
    engine
        .submit(Request {
            logprobs: Some(3),
            ..request
        })
        .unwrap();
    let mut got = None;
    engine.step(Instant::now(), &mut |event| {
        if let Event::Token { id, logprobs, .. } = event {
            got = logprobs.cloned().map(|logprobs| (id, logprobs));
        }
    });
    let (id, got) = got.unwrap();
    let sum: f32 = logits.iter().map(|logit| logit.exp()).sum();
    assert_eq!((got.top.len(), got.top[0]), (3, (id, got.chosen)));
    for &(id, logprob) in &got.top {
        assert!((logprob - (logits[id as usize].exp() / sum).ln()).abs() < 1e-4);
    }
}

#[test]
fn a_replay_follows_the_reply_and_refusals_come_before_anything_runs() {
    let mut model = ToyLm::new(VOCAB, CONTEXT);
    let mut kv = StaticKv::new(&model.kv_geometry(2)).unwrap();
    let replay = Request::replay(vec![1, 2], vec![3, 4, 5]);
    let greedy = Request::greedy(vec![1, 2], 6);
    let want = model.greedy(&[1, 2], 6, &[]);
    let outputs = generate(&mut model, &mut kv, &[replay.clone(), greedy], 2, &mut |_| {}).unwrap();
    assert_eq!(outputs, [vec![3, 4, 5], want]);
    let mut events = 0;
    let bad = Request::greedy(vec![1; CONTEXT], 2);
    let error = generate(&mut model, &mut kv, &[replay.clone(), bad], 2, &mut |_| events += 1).unwrap_err();
    assert!(matches!(error, ModelError::Request(_)), "{error}");
    assert_eq!((events, kv.memory().used_bytes), (0, 0));
    let error = generate(&mut model, &mut kv, &[replay], 0, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("max_batch is 0"), "{error}");
}

/// Most likely tokens one after another in the plainest way: one sequence, the whole prompt, no engine.
fn plain_greedy(model: &mut Gpt2, numbers: KvType, prompt: &[u32], max_tokens: usize) -> Vec<u32> {
    let geometry = KvGeometry {
        numbers,
        ..model.kv_geometry(1)
    };
    let mut kv = StaticKv::new(&geometry).unwrap();
    let sequence = kv.open().unwrap();
    let mut next = prompt.to_vec();
    let mut output = Vec::new();
    while output.len() < max_tokens {
        let chunk = fused_model::Chunk { sequence, ids: &next };
        let logits = model.forward(&mut kv, &[chunk], Logits::Last).unwrap();
        next = vec![fused_model::argmax(logits)];
        output.extend(&next);
    }
    output
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// The same of GPT-2: batch, chunks, store, sharing and preemption leave greedy outputs as they are.
    #[test]
    fn gpt2_gives_the_same_tokens_in_any_company(
        lengths in prop::collection::vec((1usize..24, 1usize..16), 1..6),
        kind in 0usize..3,
        numbers in prop::sample::select(vec![KvType::F32, KvType::F16]),
        (max_batch, prompt_chunk, kept_prefixes) in (1usize..5, 1usize..16, 0usize..3),
    ) {
        let mut model = Gpt2::new(&Params::random(Gpt2Config::new(50, 64, 32, 2, 2), 3), Options::default()).unwrap();
        let geometry = KvGeometry { numbers, ..model.kv_geometry(max_batch + kept_prefixes) };
        let mut kv: Box<dyn KvStore> = match kind {
            0 => Box::new(StaticKv::new(&geometry).unwrap()),
            1 => Box::new(PagedKv::with_budget(&geometry, 64 * geometry.token_bytes()).unwrap()),
            // Two pages in each of 4 regions: one sequence of more than 32 tokens, or two shorter ones.
            _ => Box::new(VirtualKv::new(&geometry, PAGE, 2 * 4 * PAGE).unwrap()),
        };
        let prompts: Vec<Vec<u32>> = lengths.iter().map(|&(length, _)| (0..length as u32).map(|t| t * 7 % 50).collect()).collect();
        let want: Vec<Vec<u32>> = prompts.iter().zip(&lengths)
            .map(|(prompt, &(_, max_tokens))| plain_greedy(&mut model, numbers, prompt, max_tokens))
            .collect();
        let config = EngineConfig { max_batch, prompt_chunk, kept_prefixes, ..EngineConfig::default() };
        let mut engine = Engine::new(&mut model, kv.as_mut(), config).unwrap();
        for (prompt, &(_, max_tokens)) in prompts.iter().zip(&lengths) {
            engine.submit(Request::greedy(prompt.clone(), max_tokens)).unwrap();
        }
        let mut got = vec![Vec::new(); prompts.len()];
        while !engine.is_idle() {
            engine.step(Instant::now(), &mut |event| match event {
                Event::Token { request, id, .. } => got[request.number() as usize].push(id),
                Event::Finished { reason: Finish::Failed(error), .. } => panic!("{error}"),
                _ => {}
            });
        }
        prop_assert_eq!(got, want);
        drop(engine);
        prop_assert_eq!(kv.memory().used_bytes, 0);
    }
}
