//! A server with OpenAI's interface as a target: `POST /v1/completions`, streamed, one thread and one connection a request.
//!
//! A server cannot be made to give a certain reply, so it is made to give as much text: it is asked for one token
//! more than the reply has bytes, and the connection is closed when that many bytes have come. Both arms so give the same number of bytes;
//! a server that ends sooner, as one does that takes no notice of `ignore_eos`, has failed the request.

use std::io::{BufRead, BufReader, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::record::Outcome;
use super::target::{Heard, Port, Target, is_abandoned};
use crate::cli::Server;
use crate::error::BenchError;
use crate::workload::Text;

/// Requests at once; more are refused here, before they cost a thread.
const MOST_AT_ONCE: usize = 1_000;
/// How long a server may say nothing before a request has failed: as long as the first requests, for which it may have to load or
/// compile something, are waited for.
const SILENCE: Duration = Duration::from_secs(super::fleet::WARM_UP_SECONDS);
/// Longest line of a stream; a longer one has failed the request.
const LINE_BYTES: u64 = 1 << 20;

/// A server.
#[derive(Debug)]
pub struct HttpTarget {
    server: Server,
    model: String,
    agent: ureq::Agent,
}

impl HttpTarget {
    /// Asks the server for its first model.
    ///
    /// # Errors
    ///
    /// [`BenchError::Input`] when it does not answer as OpenAI's interface does.
    pub fn connect(server: &Server) -> Result<Self, BenchError> {
        Self::connect_patiently(server, SILENCE)
    }

    fn connect_patiently(server: &Server, silence: Duration) -> Result<Self, BenchError> {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(silence))
            .timeout_per_read(Some(silence))
            .max_idle_connections(0)
            .build();
        let agent = ureq::Agent::new_with_config(config);
        let url = format!("{}/v1/models", server.url);
        let fail = |why: String| BenchError::Input(format!("{url}: {why}"));
        let mut answer = agent.get(&url).call().map_err(|error| fail(error.to_string()))?;
        let status = answer.status();
        let body = answer
            .body_mut()
            .read_to_string()
            .map_err(|error| fail(error.to_string()))?;
        let models: Value = serde_json::from_str(&body).unwrap_or_default();
        let model = models["data"][0]["id"].as_str().map(str::to_owned);
        let model = model.ok_or_else(|| fail(format!("status {status}, and no list of models in the answer")))?;
        Ok(Self {
            server: server.clone(),
            model,
            agent,
        })
    }

    /// The model it serves.
    pub fn model(&self) -> &str {
        &self.model
    }
}

impl Target for HttpTarget {
    fn name(&self) -> &str {
        &self.server.name
    }

    fn serve(
        &mut self,
        texts: &[Text],
        abandon_every: usize,
        drive: &mut dyn FnMut(Port<'_>),
    ) -> Result<(), BenchError> {
        let (send, jobs) = mpsc::channel::<usize>();
        let (tell, heard) = mpsc::channel();
        let over = &AtomicBool::new(false);
        let this = &*self;
        thread::scope(|scope| {
            scope.spawn(move || {
                let mut open: Vec<thread::ScopedJoinHandle<'_, ()>> = Vec::new();
                for request in jobs {
                    open.retain(|thread| !thread.is_finished());
                    let call = Call {
                        target: this,
                        text: &texts[request % texts.len()],
                        request,
                        abandon_every,
                        over,
                    };
                    let told = tell.clone();
                    let started = if open.len() < MOST_AT_ONCE {
                        let thread = thread::Builder::new().stack_size(256 << 10);
                        thread.spawn_scoped(scope, move || call.run(&told)).ok()
                    } else {
                        None
                    };
                    match started {
                        Some(thread) => open.push(thread),
                        None => end(&tell, request, Outcome::Refused),
                    }
                }
            });
            drive(Port {
                send: &send,
                heard: &heard,
            });
            over.store(true, Ordering::Relaxed);
            drop(send);
        });
        Ok(())
    }
}

fn end(tell: &Sender<Heard>, request: usize, outcome: Outcome) {
    // Nobody listens once the run is over.
    let _ = tell.send(Heard::End {
        request,
        at: Instant::now(),
        outcome,
        prompt_tokens: None,
    });
}

/// One request.
struct Call<'a> {
    target: &'a HttpTarget,
    text: &'a Text,
    request: usize,
    abandon_every: usize,
    over: &'a AtomicBool,
}

impl Call<'_> {
    fn run(&self, tell: &Sender<Heard>) {
        let outcome = self.stream(tell).unwrap_or(Outcome::Failed);
        end(tell, self.request, outcome);
    }

    /// Reads the events of the answer until it has said enough; the connection ends with this call.
    fn stream(&self, tell: &Sender<Heard>) -> Option<Outcome> {
        let wanted = self.text.reply.len();
        let body = json!({
            "model": self.target.model, "prompt": self.text.prompt, "max_tokens": wanted + 1, "temperature": 0,
            "ignore_eos": true, "stream": true,
        });
        let url = format!("{}/v1/completions", self.target.server.url);
        let answer = self
            .target
            .agent
            .post(&url)
            .header("content-type", "application/json")
            .send(body.to_string());
        let mut answer = answer.ok()?;
        match answer.status().as_u16() {
            200 => {}
            429 | 503 => return Some(Outcome::Refused),
            _ => return None,
        }
        let mut said = 0;
        let mut lines = BufReader::new(answer.body_mut().as_reader());
        let mut line = String::new();
        while !self.over.load(Ordering::Relaxed) {
            next_line(&mut lines, &mut line)?;
            let Some(data) = line.strip_prefix("data:").map(str::trim) else {
                continue;
            };
            if data == "[DONE]" {
                return None;
            }
            let event: Value = serde_json::from_str(data).ok()?;
            let Some(text) = event["choices"][0]["text"].as_str().filter(|text| !text.is_empty()) else {
                continue;
            };
            said += text.len();
            let (bytes, chars) = (text.len(), text.chars().count());
            tell.send(Heard::Piece {
                request: self.request,
                at: Instant::now(),
                bytes,
                chars,
            })
            .ok()?;
            if is_abandoned(self.request, self.abandon_every) {
                return Some(Outcome::Abandoned);
            }
            if said >= wanted {
                return Some(Outcome::Complete);
            }
        }
        Some(Outcome::Unfinished)
    }
}

/// Reads a line of at most [`LINE_BYTES`]; `None` at the end of the stream and where a line does not end.
fn next_line(stream: &mut impl BufRead, line: &mut String) -> Option<()> {
    line.clear();
    stream.by_ref().take(LINE_BYTES).read_line(line).ok()?;
    line.ends_with('\n').then_some(())
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write, repeat};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::serve::arrivals::Schedule;
    use crate::serve::drive::{Run, drive};

    /// How long the tests wait for a silent server.
    const PATIENCE: Duration = Duration::from_secs(2);

    /// A server that answers every connection with the same stream, and names a model. After the last event it says nothing
    /// for `silence`.
    fn serve_stream(status: &'static str, events: &'static [&'static str], silence: Duration) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        thread::spawn(move || {
            for connection in listener.incoming() {
                let Ok(connection) = connection else { return };
                thread::spawn(move || answer(connection, status, events, silence));
            }
        });
        Server {
            name: "fake".to_owned(),
            url,
        }
    }

    fn answer(mut connection: TcpStream, status: &str, events: &[&str], silence: Duration) -> Option<()> {
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") {
            connection.read_exact(&mut byte).ok()?;
            request.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&request).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.and_then(|length| length.trim().parse().ok()).unwrap_or(0)];
        connection.read_exact(&mut body).ok()?;
        if head.starts_with("get /v1/models ") {
            let body = r#"{"data": [{"id": "tiny"}]}"#;
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            return connection.write_all(answer.as_bytes()).ok();
        }
        let asked: Value = serde_json::from_slice(&body).ok()?;
        assert_eq!(
            (asked["model"].as_str(), asked["stream"].as_bool()),
            (Some("tiny"), Some(true))
        );
        let start = format!("HTTP/1.1 {status}\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n");
        connection.write_all(start.as_bytes()).ok()?;
        for event in events {
            connection.write_all(format!("data: {event}\n\n").as_bytes()).ok()?;
        }
        thread::sleep(silence);
        Some(())
    }

    fn run(status: &'static str, events: &'static [&'static str], abandon_every: usize) -> Run {
        run_against(&serve_stream(status, events, Duration::ZERO), abandon_every)
    }

    /// Three requests for seven bytes each.
    fn run_against(server: &Server, abandon_every: usize) -> Run {
        let mut target = HttpTarget::connect_patiently(server, PATIENCE).expect("connects");
        assert_eq!(target.model(), "tiny");
        let texts = [Text {
            prompt: "one".to_owned(),
            reply: "seven b".to_owned(),
        }];
        let mut run = Run::default();
        let schedule = Schedule::At(vec![0.0; 3]);
        let served = target.serve(&texts, abandon_every, &mut |port| {
            run = drive(&port, &schedule, &texts, 20.0)
        });
        served.expect("serves");
        run
    }

    #[test]
    fn text_is_taken_from_the_events_until_it_is_enough() {
        let events = &[
            r#"{"choices": [{"text": "fünf"}]}"#,
            r#"{"choices": [{"text": ""}]}"#,
            r#"{"choices": [{"text": "und"}]}"#,
            r#"{"choices": [{"text": "never read"}]}"#,
        ];
        let run = run("200 OK", events, 0);
        for record in &run.records {
            assert_eq!(
                (record.outcome, record.reply_bytes(), record.reply_chars),
                (Outcome::Complete, 8, 7)
            );
            assert_eq!(record.reply_tokens, 2);
        }
    }

    #[test]
    fn every_end_has_its_outcome() {
        let whole = &[
            r#"{"choices": [{"text": "five"}]}"#,
            r#"{"choices": [{"text": "six"}]}"#,
        ];
        let outcomes = run("200 OK", whole, 3)
            .records
            .iter()
            .map(|r| r.outcome)
            .collect::<Vec<_>>();
        assert_eq!(outcomes, [Outcome::Complete, Outcome::Complete, Outcome::Abandoned]);
        for (status, events, outcome) in [
            ("429 Too Many Requests", &[][..], Outcome::Refused),
            ("500 Internal Server Error", &[], Outcome::Failed),
            ("200 OK", &[r#"{"choices": [{"text": "cut"}]}"#], Outcome::Failed),
            // An end that is announced, but sooner than the tokens that were asked for.
            (
                "200 OK",
                &[r#"{"choices": [{"text": "five", "finish_reason": "stop"}]}"#, "[DONE]"],
                Outcome::Failed,
            ),
            ("200 OK", &["no json"], Outcome::Failed),
        ] {
            let run = run(status, events, 0);
            assert!(
                run.records.iter().all(|record| record.outcome == outcome),
                "{status}: {:?}",
                run.records
            );
        }
    }

    #[test]
    fn a_server_that_falls_silent_within_a_reply_has_failed_it() {
        let events = &[r#"{"choices": [{"text": "five"}]}"#];
        let started = Instant::now();
        let run = run_against(&serve_stream("200 OK", events, Duration::from_secs(60)), 0);
        assert!(run.records.iter().all(|record| record.outcome == Outcome::Failed));
        assert!(run.records.iter().all(|record| record.reply_bytes() == 4));
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    }

    #[test]
    fn a_line_without_an_end_is_not_read_without_an_end() {
        let mut line = String::new();
        assert_eq!(next_line(&mut BufReader::new(repeat(b'x')), &mut line), None);
        assert_eq!(line.len() as u64, LINE_BYTES);
        let mut stream = Cursor::new("data: a\ndata: cut");
        assert!(next_line(&mut stream, &mut line).is_some() && line == "data: a\n");
        assert_eq!(next_line(&mut stream, &mut line), None);
    }

    #[test]
    fn a_server_that_is_not_there_is_named() {
        let server = Server {
            name: "gone".to_owned(),
            url: "http://127.0.0.1:1".to_owned(),
        };
        let error = HttpTarget::connect(&server).expect_err("nobody listens").to_string();
        assert!(error.contains("http://127.0.0.1:1/v1/models"), "{error}");
    }
}
