use super::detail::{GAP_PARTS, MOST_REQUESTS};
use super::*;
use crate::sample;
use crate::stats::Verdict;

#[test]
fn quantiles_agree_with_the_sorted_ones() {
    let values = [5.0, 1.0, 4.0, 2.0, 3.0, 9.0, 7.0];
    for q in [0.0, 0.1, 0.5, 0.9, 0.99, 1.0] {
        assert!(
            (quantile_of(&mut values.clone(), q) - quantile(&values, q)).abs() < 1e-12,
            "{q}"
        );
    }
    assert!(quantile_of(&mut [], 0.5).is_nan());
}

#[test]
fn a_known_difference_is_found_and_none_is_not_invented() {
    let report = sample::serve_report();
    let [before, after] = sample::ALONE;
    let light = &report.loads[1];
    let change = &light.changes[0];
    let latency = change.e2e_p50.expect("requests");
    // Almost nobody waits, so the median changes by as much as the time of a request alone.
    assert!(
        (latency.figure.value - percent_or_infinite(before, after)).abs() < 4.0,
        "{latency:?}"
    );
    assert_eq!(latency.verdict, Verdict::Better);
    assert!(latency.figure.ci95.is_some_and(|i| i.covers(latency.figure.value)));
    // Both keep up: only the last requests end earlier.
    let speed = change.reply_bytes_per_second.expect("bytes").figure.value;
    assert!((0.0..3.0).contains(&speed), "{speed}");
    let full = &report.loads[0].changes[0];
    assert_eq!(full.documents_peak.map(|change| change.figure.value), Some(100.0));
    assert_eq!(
        full.reply_bytes_per_second.map(|change| change.verdict),
        Some(Verdict::Better)
    );
    let same = LoadRuns {
        runs: vec![sample::loads()[1].runs[0].clone(); 2],
        ..sample::loads().remove(1)
    };
    let names = ["a", "b"].map(str::to_owned);
    let judge = Judge {
        arms: &names,
        objectives: &report.objectives,
        stall_ms: 100.0,
        seed: 1,
    };
    let change = same
        .report(&judge)
        .changes
        .remove(0)
        .ms_per_char
        .expect("whole replies");
    assert_eq!((change.figure.value, change.verdict), (0.0, Verdict::NoDifferenceShown));
}

/// The sample's light load with its runs changed, judged.
fn changed(change: impl Fn(&mut Vec<Vec<Run>>)) -> LoadReport {
    let mut load = sample::loads().remove(1);
    change(&mut load.runs);
    let names = ["a", "b"].map(str::to_owned);
    let objectives = sample::serve_report().objectives;
    load.report(&Judge {
        arms: &names,
        objectives: &objectives,
        stall_ms: 100.0,
        seed: 1,
    })
}

#[test]
fn fewer_rounds_than_five_are_not_judged() {
    let few = changed(|arms| arms.iter_mut().for_each(|rounds| rounds.truncate(4)));
    let change = few.changes[0].e2e_p50.expect("requests");
    assert_eq!((change.figure.ci95, change.verdict), (None, Verdict::NotJudged));
    assert_eq!(few.arms[0].reply_bytes_per_second.ci95, None);
    assert_eq!(few.arms[0].engine.and_then(|engine| engine.kv_mapped_peak.ci95), None);
}

#[test]
fn a_saturated_arm_has_no_changes_of_times() {
    let drowned = changed(|arms| arms[1][2].saturated = true);
    let change = &drowned.changes[0];
    let times = [
        change.ttfb_p50,
        change.ttfb_p99,
        change.e2e_p50,
        change.e2e_p99,
        change.ms_per_char,
    ];
    assert!(times.iter().all(Option::is_none), "{times:?}");
    assert!(change.reply_bytes_per_second.is_some());
}

#[test]
fn an_arm_that_left_requests_has_no_change_of_an_average_over_whole_replies() {
    for arm in [0, 1] {
        let left = changed(|arms| arms[arm][0].records[3].outcome = Outcome::Unfinished);
        let change = &left.changes[0];
        assert!(change.ms_per_char.is_none() && change.e2e_p50.is_some(), "{change:?}");
    }
}

#[test]
fn nothing_served_has_no_mean_and_no_change() {
    let nothing = changed(|arms| {
        for record in arms[0].iter_mut().flat_map(|run| &mut run.records) {
            (record.outcome, record.reply_chars, record.reply_tokens) = (Outcome::Failed, 0, 0);
            record.pieces.clear();
        }
    });
    let arm = &nothing.arms[0];
    assert!(arm.ttfb.mean.is_none() && arm.ms_per_char.mean.is_none() && arm.itl.mean.is_none());
    assert!(arm.longest_gap.is_none());
    assert_eq!(arm.goodput.value, 0.0);
    let change = &nothing.changes[0];
    assert!(change.goodput.is_none() && change.reply_bytes_per_second.is_none() && change.ms_per_char.is_none());
}

#[test]
fn only_what_came_whole_is_done_and_what_came_late_is_late() {
    let mut runs = sample::loads().remove(1).runs.remove(0);
    let before = detail("a", &runs);
    let records = &mut runs[0].records;
    (records[0].outcome, records[1].outcome) = (Outcome::Unfinished, Outcome::Abandoned);
    records[2].outcome = Outcome::Failed;
    records[2].pieces.clear();
    let (first_byte, ended) = (records[1].pieces[0].at, records[2].ended);
    let after = detail("a", &runs);
    assert_eq!(after.e2e.values.len(), before.e2e.values.len() - 3);
    assert_eq!(
        after.e2e_of,
        before.e2e_of - 1,
        "what the client left was not waited for"
    );
    assert_eq!(after.first_byte.values[1..3], [first_byte, ended]);
}

#[test]
fn figures_follow_from_the_requests() {
    let report = sample::serve_report();
    let arm = &report.loads[1].arms[0];
    assert_eq!(arm.requests.sent, arm.requests.complete);
    assert!(
        arm.itl
            .mean
            .is_some_and(|mean| (mean.value - 1e3 * sample::ALONE[0] / 100.0).abs() < 0.2),
        "{:?}",
        arm.itl.mean
    );
    assert!((arm.reply_bytes_per_second.value - 500.0 * arm.requests_per_second.value).abs() < 1e-6);
    assert!(arm.good_share.value > 95.0 && arm.goodput.value <= arm.requests_per_second.value);
    assert!(
        arm.ttfb.p99_9.is_none(),
        "{} requests say nothing of one in a thousand",
        arm.requests.sent
    );
    assert!(arm.itl.p99_9.is_some() && arm.ttfb.p50.is_some());
    let engine = report.loads[0].arms[0].engine.expect("an engine");
    assert_eq!((engine.documents_peak.value, engine.waiting_peak.value), (8.0, 32.0));
    assert!(engine.kv_used_peak.value < engine.kv_mapped_peak.value);
    let detail = &report.detail.arms[1];
    assert_eq!(detail.longest_gap.values.len(), GAP_PARTS);
    assert!(detail.scheduled.values.len() <= MOST_REQUESTS);
}
