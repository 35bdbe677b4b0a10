//! One run: requests go out when it is their time, news come in, and the run stops when it is over or hopeless.

use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use super::arrivals::Schedule;
use super::record::{Outcome, Piece, Record};
use super::target::{Heard, Port, State};
use crate::interrupt;
use crate::workload::Text;

/// How often the number of requests in flight is looked at.
const LOOK_SECONDS: f64 = 0.1;
/// Longest wait for news, so that a signal is seen.
const NAP: Duration = Duration::from_millis(50);

/// One run.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// The requests that were sent, by number.
    pub records: Vec<Record>,
    /// The engine after each step, with the seconds since the run began; empty for a server.
    pub states: Vec<(f64, State)>,
    /// Seconds from the start to the last end.
    pub seconds: f64,
    /// Whether more came than could be served, see [`is_saturated`]; the run was stopped then.
    pub saturated: bool,
}

/// Runs a schedule against a target. After the last request was sent, those in flight have `grace` seconds.
pub fn drive(port: &Port<'_>, schedule: &Schedule, texts: &[Text], grace: f64) -> Run {
    let mut run = Driver {
        start: Instant::now(),
        texts,
        port,
        in_flight: 0,
        run: Run::default(),
    };
    match schedule {
        Schedule::At(times) => run.open(times, grace),
        Schedule::Closed { clients, seconds } => run.closed(*clients, *seconds, grace),
    }
    run.finish()
}

struct Driver<'a> {
    start: Instant,
    texts: &'a [Text],
    port: &'a Port<'a>,
    in_flight: usize,
    run: Run,
}

impl Driver<'_> {
    fn now(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    fn open(&mut self, times: &[f64], grace: f64) {
        let all_at_once = times.last() == Some(&0.0);
        let mut looks = Vec::new();
        let end = times.last().copied().unwrap_or(0.0) + grace;
        loop {
            let now = self.now();
            while let Some(&at) = times.get(self.run.records.len()).filter(|&&at| at <= now) {
                self.send(at);
            }
            let next = times.get(self.run.records.len()).copied();
            if next.is_none() && self.in_flight == 0 || now > end || interrupt::check().is_err() {
                return;
            }
            if next.is_some() && looks.len() as f64 * LOOK_SECONDS <= now {
                looks.push(self.in_flight);
                if !all_at_once && is_saturated(&looks) {
                    self.run.saturated = true;
                    return;
                }
            }
            let wait = next.map_or(NAP, |at| {
                Duration::from_secs_f64((at - self.now()).clamp(0.0, NAP.as_secs_f64()))
            });
            if !self.listen(wait) {
                return;
            }
        }
    }

    fn closed(&mut self, clients: usize, seconds: f64, grace: f64) {
        loop {
            let now = self.now();
            if now < seconds {
                while self.in_flight < clients {
                    self.send(self.now());
                }
            }
            let over = now >= seconds && self.in_flight == 0 || now > seconds + grace;
            if over || interrupt::check().is_err() || !self.listen(NAP) {
                return;
            }
        }
    }

    fn send(&mut self, scheduled: f64) {
        let number = self.run.records.len();
        let text = &self.texts[number % self.texts.len()];
        self.run.records.push(Record {
            scheduled,
            sent: self.now(),
            ended: scheduled,
            outcome: Outcome::Unfinished,
            prompt_bytes: text.prompt.len(),
            reply_chars: 0,
            prompt_tokens: None,
            reply_tokens: 0,
            pieces: Vec::new(),
        });
        self.in_flight += 1;
        // A target that is gone is seen by listening.
        let _ = self.port.send.send(number);
    }

    /// Takes the news that come within `wait`, and all that are there then. `false` when the target is gone.
    fn listen(&mut self, wait: Duration) -> bool {
        let mut next = match self.port.heard.recv_timeout(wait) {
            Ok(heard) => Some(heard),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return false,
        };
        while let Some(heard) = next {
            self.hear(heard);
            next = self.port.heard.try_recv().ok();
        }
        true
    }

    fn hear(&mut self, heard: Heard) {
        let since = |at: Instant| at.duration_since(self.start).as_secs_f64();
        match heard {
            Heard::Piece {
                request,
                at,
                bytes,
                chars,
            } => {
                let record = &mut self.run.records[request];
                record.pieces.push(Piece { at: since(at), bytes });
                record.reply_tokens += 1;
                record.reply_chars += chars;
            }
            Heard::End {
                request,
                at,
                outcome,
                prompt_tokens,
            } => {
                let record = &mut self.run.records[request];
                record.ended = since(at);
                record.outcome = outcome;
                record.prompt_tokens = prompt_tokens;
                self.in_flight -= 1;
            }
            Heard::Step { at, state } => self.run.states.push((since(at), state)),
        }
    }

    /// What has not ended has lasted until now.
    fn finish(mut self) -> Run {
        let now = self.now();
        let mut last = 0.0;
        for record in &mut self.run.records {
            if record.outcome == Outcome::Unfinished {
                record.ended = now;
            }
            last = f64::max(last, record.ended);
        }
        self.run.seconds = last;
        self.run
    }
}

/// Whether more requests come than are served, judged by the number in flight at equally spaced times: over the last three of
/// four equal parts of the run the mean rose by at least a fifth each time, from at least 8 in flight, over at least 3
/// seconds in all. Chance does that now and then for a short while, and a queue that grows without end always.
pub fn is_saturated(in_flight: &[usize]) -> bool {
    let quarter = in_flight.len() / 4;
    if (in_flight.len() as f64) * LOOK_SECONDS < 3.0 {
        return false;
    }
    let mean = |part: usize| {
        let end = in_flight.len() - (3 - part) * quarter;
        in_flight[end - quarter..end].iter().sum::<usize>() as f64 / quarter as f64
    };
    mean(1) >= 8.0 && mean(2) >= 1.2 * mean(1) && mean(3) >= 1.2 * mean(2)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::serve::record::Measure;

    fn texts() -> Vec<Text> {
        vec![
            Text {
                prompt: "one two".to_owned(),
                reply: "three".to_owned()
            };
            3
        ]
    }

    /// Runs a schedule against a server that takes `seconds` for each request, one after the other, and gives its reply in
    /// two pieces at the end.
    fn run(schedule: &Schedule, seconds: f64, grace: f64) -> Run {
        let (send, jobs) = mpsc::channel::<usize>();
        let (tell, heard) = mpsc::channel();
        let server = thread::spawn(move || {
            for request in jobs {
                thread::sleep(Duration::from_secs_f64(seconds));
                for bytes in [3, 2] {
                    let piece = Heard::Piece {
                        request,
                        at: Instant::now(),
                        bytes,
                        chars: bytes,
                    };
                    let _ = tell.send(piece);
                }
                let end = Heard::End {
                    request,
                    at: Instant::now(),
                    outcome: Outcome::Complete,
                    prompt_tokens: Some(2),
                };
                let _ = tell.send(end);
            }
        });
        let run = drive(
            &Port {
                send: &send,
                heard: &heard,
            },
            schedule,
            &texts(),
            grace,
        );
        drop(send);
        assert!(server.join().is_ok());
        run
    }

    #[test]
    fn latency_counts_from_the_schedule_so_that_waiting_is_seen() {
        // Five requests at once, served one after the other: each waits for those before it.
        let run = run(&Schedule::At(vec![0.0; 5]), 0.01, 10.0);
        assert_eq!(run.records.len(), 5);
        for (i, record) in run.records.iter().enumerate() {
            assert_eq!(
                (record.outcome, record.reply_bytes(), record.scheduled),
                (Outcome::Complete, 5, 0.0)
            );
            let least = 10.0 * (i + 1) as f64;
            assert!(
                record.measure(Measure::Ttfb).is_some_and(|ms| ms >= least),
                "{i}: {record:?}"
            );
        }
        assert!(!run.saturated && run.seconds >= 0.05);
    }

    #[test]
    fn an_open_loop_does_not_wait_for_answers() {
        let times: Vec<f64> = (0..6).map(|i| 0.005 * f64::from(i)).collect();
        let run = run(&Schedule::At(times.clone()), 0.02, 10.0);
        for (record, at) in run.records.iter().zip(times) {
            assert_eq!(record.scheduled, at);
            assert!(record.sent >= at);
        }
        assert!(
            run.records[5].sent < run.records[1].ended,
            "sent before the second answer"
        );
    }

    #[test]
    fn a_closed_loop_has_as_many_in_flight_as_clients() {
        let run = run(
            &Schedule::Closed {
                clients: 2,
                seconds: 0.1,
            },
            0.01,
            10.0,
        );
        assert!(run.records.len() > 2);
        for (i, record) in run.records.iter().enumerate().skip(2) {
            let before = run.records[..i]
                .iter()
                .filter(|other| other.ended > record.sent)
                .count();
            assert!(before <= 1, "request {i} had {before} beside it");
        }
    }

    #[test]
    fn what_has_not_ended_in_time_is_unfinished() {
        let run = run(&Schedule::At(vec![0.0; 3]), 0.1, 0.15);
        assert_eq!(run.records[0].outcome, Outcome::Complete);
        assert_eq!(run.records[2].outcome, Outcome::Unfinished);
        assert!(run.records[2].ended >= 0.15);
    }

    #[test]
    fn only_a_queue_that_goes_on_growing_is_saturation() {
        let growing: Vec<usize> = (0..40).map(|i| 3 * i).collect();
        assert!(is_saturated(&growing));
        assert!(!is_saturated(&growing[..20]), "too short to say");
        assert!(!is_saturated(&[50; 100]), "long, but steady");
        let hump: Vec<usize> = (0..60).map(|i| if (20..35).contains(&i) { 40 } else { 10 }).collect();
        assert!(!is_saturated(&hump));
        let few: Vec<usize> = (0..40).map(|i| i / 8).collect();
        assert!(!is_saturated(&few), "a handful is no queue");
    }
}
