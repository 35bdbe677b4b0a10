//! The policies: what each decides in cases small enough to work out by hand, and that none of them ever leaves a row
//! without memory or loses a byte.

use proptest::prelude::*;
use vattn_policies::{
    Engine, KvCached, Layout, Outcome, Paged, Policy, Request, Shape, Short, Static, Trace, VAttention, replay,
};

const PAGE: usize = 2 << 20;

/// GPT-2 small in f32: rows of 3,072 bytes, 24 tensors.
fn gpt2(budget_bytes: usize) -> Shape {
    Shape {
        tensors: 24,
        row_bytes: 3072,
        max_tokens: 1024,
        max_sequences: 8,
        budget_bytes,
    }
}

fn all(shape: &Shape) -> Vec<Box<dyn Policy>> {
    vec![
        Box::new(Static::new(shape)),
        Box::new(Paged::new(shape)),
        Box::new(VAttention::new(shape, PAGE)),
        Box::new(VAttention::new(shape, 64 << 10)),
        Box::new(KvCached::new(shape, Layout::PerTensor)),
        Box::new(KvCached::new(shape, Layout::Contiguous)),
    ]
}

#[test]
fn static_holds_everything_and_calls_nothing() {
    let mut policy = Static::new(&gpt2(3 * 72 * 1024 * 1024 + 1));
    let slots: Vec<_> = (0..4).map(|_| policy.admit(1)).collect();
    assert_eq!(
        slots,
        [Some(0), Some(1), Some(2), None],
        "the budget holds three slots of 72 MiB"
    );
    policy.step(&[(0, 1024)]).unwrap();
    policy.free(1);
    let account = policy.account();
    assert_eq!(account.held_bytes, (3 * 72) << 20);
    assert_eq!(account.assigned_bytes, (2 * 72) << 20);
    assert_eq!((account.critical.total(), account.background.total()), (0, 0));
}

#[test]
fn paged_gives_blocks_of_16_tokens_and_counts_its_tables() {
    let shape = gpt2(1 << 30);
    let mut policy = Paged::new(&shape);
    let slot = policy.admit(17).unwrap();
    policy.step(&[(slot, 17)]).unwrap();
    assert_eq!(policy.account().assigned_bytes, 32 * 72 * 1024);
    assert_eq!(
        (policy.account().table_writes, policy.account().table_reads),
        (17 + 2, 2)
    );
    policy.step(&[(slot, 33)]).unwrap();
    assert_eq!(policy.account().assigned_bytes, 48 * 72 * 1024);
    assert_eq!(
        (policy.account().table_writes, policy.account().table_reads),
        (33 + 3, 2 + 3)
    );
    let held = policy.account().held_bytes;
    assert!(
        held > (1 << 30) - 16 * 72 * 1024 && held <= 1 << 30,
        "the pool is the whole budget"
    );
    policy.free(slot);
    assert_eq!(
        (policy.account().assigned_bytes, policy.account().held_bytes),
        (0, held)
    );
}

#[test]
fn vattention_maps_ahead_and_keeps_the_pages_of_freed_slots() {
    // 21 whole rows in 64 KiB: 100 tokens are 5 pages of each tensor.
    let mut policy = VAttention::new(&gpt2(1 << 30), 64 << 10);
    let slot = policy.admit(100).unwrap();
    policy.step(&[(slot, 100)]).unwrap();
    assert_eq!(policy.account().critical.map, 5 * 24);
    assert_eq!(policy.account().assigned_bytes, (5 * 24) << 16);
    // 101..=105 fit into 5 pages; nine tokens ahead is 109, which needs a sixth.
    policy.background();
    assert_eq!(policy.account().background.map, 24);
    policy.step(&[(slot, 106)]).unwrap();
    assert_eq!(policy.account().critical.map, 5 * 24, "mapped before it was needed");

    policy.free(slot);
    let held = policy.account().held_bytes;
    assert_eq!(policy.account().critical.unmap + policy.account().background.unmap, 0);
    // The first inactive slot is the warm one.
    assert_eq!(policy.admit(126), Some(slot));
    policy.step(&[(slot, 126)]).unwrap();
    assert_eq!(policy.account().critical.map, 5 * 24, "all six pages were still there");
    assert_eq!(policy.account().held_bytes, held, "the pool never changes");
}

#[test]
fn vattention_prefers_an_empty_first_slot_to_a_warm_later_one() {
    let mut policy = VAttention::new(&gpt2(1 << 30), 64 << 10);
    let (first, second) = (policy.admit(1).unwrap(), policy.admit(100).unwrap());
    policy.step(&[(second, 100)]).unwrap();
    policy.free(first);
    policy.free(second);
    // Slot 0 has one page (its length was 1 in the step), slot 1 has five: the search never leaves slot 0.
    assert_eq!(policy.admit(100), Some(first));
    policy.step(&[(first, 100)]).unwrap();
    assert_eq!(policy.account().critical.map, (1 + 5 + 4) * 24);
}

#[test]
fn vattention_takes_surplus_from_the_highest_slot_when_the_pool_is_empty() {
    // Ten pages of each tensor.
    let mut policy = VAttention::new(&gpt2((10 * 24) << 16), 64 << 10);
    let (a, b) = (policy.admit(21).unwrap(), policy.admit(5 * 21).unwrap());
    policy.step(&[(a, 21), (b, 5 * 21)]).unwrap();
    policy.free(b);
    policy.step(&[(a, 9 * 21)]).unwrap();
    assert_eq!(
        policy.account().critical.unmap,
        5 * 24,
        "four were lacking, and a slot loses its whole surplus"
    );
    assert_eq!(policy.step(&[(a, 11 * 21)]), Err(Short));
    assert_eq!(policy.backed_tokens(a), 9 * 21, "a refused step changes nothing");
}

#[test]
fn kvcached_creates_for_every_map_and_keeps_ten_pages() {
    let shape = gpt2(4 << 30);
    let mut policy = KvCached::new(&shape, Layout::PerTensor);
    let floor = policy.account().held_bytes;
    assert_eq!(
        floor - policy.account().table_bytes,
        PAGE + 5 * 24 * PAGE,
        "the zero page and five pages in reserve"
    );
    // A block of a tensor is 48 KiB, 42 of them lie whole in the first page: 43 blocks use two pages of the reserve.
    let slot = policy.admit(43 * 16).unwrap();
    assert_eq!(policy.account().critical.total(), 0, "the reserve was enough");
    policy.background();
    let account = policy.account();
    assert_eq!(
        [
            account.background.unmap,
            account.background.create,
            account.background.map
        ],
        [2 * 24; 3]
    );
    let others: Vec<_> = (0..7).map(|_| policy.admit(1024).unwrap()).collect();
    policy.background();
    for other in others {
        policy.free(other);
    }
    policy.free(slot);
    assert_eq!(policy.account().assigned_bytes, 0);
    assert_eq!(
        policy.account().held_bytes - floor,
        5 * 24 * PAGE,
        "ten pages stay, five more than at first"
    );
    assert!(policy.account().critical.release > 0);
}

#[test]
fn a_contiguous_layout_makes_one_call_where_tensors_make_many() {
    let trace = Trace::synthetic(3, 60);
    let shape = Shape {
        max_tokens: trace.longest(),
        ..gpt2(8 << 30)
    };
    let run = |layout| replay(&mut KvCached::new(&shape, layout), &shape, &trace, &Engine::default()).unwrap();
    let (tensors, contiguous) = (run(Layout::PerTensor), run(Layout::Contiguous));
    assert_eq!(tensors.account.critical.create, 24 * contiguous.account.critical.create);
    assert_eq!(tensors.mean_held, contiguous.mean_held);
}

#[test]
fn every_policy_serves_the_same_tokens_when_memory_is_ample() {
    let trace = Trace::synthetic(5, 80);
    let shape = Shape {
        max_tokens: trace.longest(),
        max_sequences: 64,
        ..gpt2(64 << 30)
    };
    let rows: usize = trace.requests.iter().map(Request::rows).sum();
    let outcomes: Vec<Outcome> = all(&shape)
        .iter_mut()
        .map(|policy| replay(policy.as_mut(), &shape, &trace, &Engine::default()).unwrap())
        .collect();
    for outcome in &outcomes {
        assert_eq!(
            (outcome.tokens, outcome.preemptions, outcome.refused),
            (rows, 0, 0),
            "{}",
            outcome.policy
        );
        assert_eq!(outcome.makespan, outcomes[0].makespan);
        assert_eq!(outcome.mean_used, outcomes[0].mean_used);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// `replay` itself checks after each step that all rows have memory and that the books add up.
    #[test]
    fn no_policy_leaves_a_row_without_memory(
        tensors in 1_usize..6,
        row_bytes in 1_usize..6000,
        max_sequences in 1_usize..6,
        budget_pages in 4_usize..40,
        lengths in prop::collection::vec((1_usize..900, 1_usize..200, 0_u32..40), 1..40),
    ) {
        let mut clock = 0.0;
        let requests: Vec<_> = lengths
            .iter()
            .map(|&(context, generated, gap)| {
                clock += f64::from(gap) * 0.1;
                Request { arrival: clock, context, generated }
            })
            .collect();
        let trace = Trace { name: "random".into(), requests };
        let shape = Shape {
            tensors,
            row_bytes,
            max_tokens: trace.longest(),
            max_sequences,
            budget_bytes: budget_pages * PAGE * tensors,
        };
        let engine = Engine { idle_seconds: 0.1, ..Engine::default() };
        for mut policy in all(&shape) {
            let outcome = replay(policy.as_mut(), &shape, &trace, &engine);
            prop_assert!(outcome.is_ok(), "{outcome:?}");
            let outcome = outcome.unwrap();
            prop_assert_eq!(outcome.account.assigned_bytes, 0, "{} at the end", outcome.policy);
            if outcome.refused == 0 {
                let rows: usize = trace.requests.iter().map(Request::rows).sum();
                prop_assert!(outcome.tokens >= rows);
                prop_assert!(outcome.preemptions > 0 || outcome.tokens == rows);
            }
        }
    }
}
