//! The server from outside: answers, refusals, overload, and what is left when all clients have gone.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use fused_model::engine::EngineConfig;
use fused_model::{Gpt2, Gpt2Config, Options, Params};
use patchtok::PatchTokenizer;
use serde_json::{Value, json};
use serve::client::{self, get, post};
use serve::server::{Config, Ended, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

/// A server on a free port of this machine.
struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    server: JoinHandle<Ended>,
}

impl Running {
    /// With a random model of the demo tokenizer's vocabulary and 256 tokens of context.
    async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let tokenizer = PatchTokenizer::load(concat!(env!("CARGO_MANIFEST_DIR"), "/../../crates/bench/demo/base"));
        let tokenizer = tokenizer.unwrap();
        let shape = Gpt2Config::new(tokenizer.vocab_size(), 256, 32, 2, 2);
        let model = Gpt2::new(&Params::random(shape, 7), Options::default()).unwrap();
        let mut config = Config::new("tiny");
        config.frame_bytes = 4096;
        config.engine.kept_prefixes = 0;
        config.connections.grace = Duration::from_secs(5);
        change(&mut config);
        let server = Server::start(Box::new(model), tokenizer, config).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            server.run(listener, stopped).await.unwrap()
        });
        Self { address, stop, server }
    }

    async fn end(self) -> Ended {
        self.stop.send(()).unwrap();
        self.server.await.unwrap()
    }

    /// Stops it and checks that it has given every byte back.
    async fn end_clean(self) {
        let ended = self.end().await;
        assert!(ended.in_time);
        assert_eq!((ended.memory.used_bytes, ended.memory.physical_bytes), (0, 0));
    }

    async fn metric(&self, name: &str) -> f64 {
        let text = get(self.address, "/metrics").await.unwrap().body;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("serve_{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// Waits until the engine has nothing to do.
    async fn idle(&self) {
        let start = Instant::now();
        while self.metric("running_samples").await + self.metric("waiting_samples").await > 0.0 {
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "the engine does not come to rest"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Text, finish reason and usage of a stream.
async fn stream(address: SocketAddr, path: &str, mut body: Value) -> (String, String, Value) {
    body["stream"] = true.into();
    body["stream_options"] = json!({"include_usage": true});
    let mut answer = client::open(address, "POST", path, body.to_string().as_bytes())
        .await
        .unwrap();
    assert_eq!(answer.status, 200);
    assert!(
        answer
            .headers
            .iter()
            .any(|header| header.to_lowercase() == "content-type: text/event-stream")
    );
    let (mut text, mut reason, mut usage, mut done) = (String::new(), String::new(), Value::Null, false);
    while let Some(data) = answer.event().await.unwrap() {
        assert!(!done, "an event after [DONE]");
        if data == "[DONE]" {
            done = true;
            continue;
        }
        let event: Value = serde_json::from_str(&data).unwrap();
        let choice = &event["choices"][0];
        let piece = choice["text"].as_str().or(choice["delta"]["content"].as_str());
        text.push_str(piece.unwrap_or(""));
        reason.push_str(choice["finish_reason"].as_str().unwrap_or(""));
        if event["usage"].is_object() {
            usage = event["usage"].clone();
        }
    }
    assert!(done, "no [DONE]");
    (text, reason, usage)
}

#[tokio::test]
async fn whole_and_streamed_answers_agree() {
    let server = Running::start(|_| {}).await;
    let address = server.address;
    let greedy = json!({"prompt": "The table has", "max_tokens": 20, "temperature": 0, "ignore_eos": true});
    let whole = post(address, "/v1/completions", &greedy).await.unwrap();
    assert_eq!(whole.status, 200, "{}", whole.body);
    let whole = whole.json();
    let (text, reason, usage) = stream(address, "/v1/completions", greedy.clone()).await;
    assert_eq!(whole["choices"][0]["text"], text);
    assert_eq!(
        (whole["choices"][0]["finish_reason"].as_str(), reason.as_str()),
        (Some("length"), "length")
    );
    assert_eq!(whole["usage"], usage);
    assert_eq!(usage["completion_tokens"], 20);
    assert_eq!(
        (&whole["object"], &whole["model"]),
        (&json!("text_completion"), &json!("tiny"))
    );

    // A stop string that is in the text ends it before.
    let stop: String = text.chars().skip(5).take(4).collect();
    let mut stopped = greedy.clone();
    stopped["stop"] = stop.as_str().into();
    let (cut, reason, _) = stream(address, "/v1/completions", stopped).await;
    assert_eq!(
        (cut.as_str(), reason.as_str()),
        (&text[..text.find(&stop).unwrap()], "stop")
    );

    // Two samples of a seed, and the same again.
    let sampled = json!({"prompt": "a", "max_tokens": 8, "n": 2, "seed": 3, "logprobs": 2, "ignore_eos": true});
    let first = post(address, "/v1/completions", &sampled).await.unwrap().json();
    let again = post(address, "/v1/completions", &sampled).await.unwrap().json();
    assert_eq!(first["choices"], again["choices"]);
    assert_eq!(first["choices"].as_array().unwrap().len(), 2);
    assert_ne!(first["choices"][0]["text"], first["choices"][1]["text"]);
    assert_eq!(first["usage"]["completion_tokens"], 16);
    let logprobs = &first["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"].as_array().unwrap().len(), 8);
    assert_eq!(logprobs["top_logprobs"][0].as_object().unwrap().len(), 2);

    let chat = json!({
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "What is an index?"}]},
        ],
        "max_tokens": 12, "temperature": 0, "logprobs": true, "top_logprobs": 1,
    });
    let whole = post(address, "/v1/chat/completions", &chat).await.unwrap().json();
    let (text, reason, usage) = stream(address, "/v1/chat/completions", chat).await;
    let choice = &whole["choices"][0];
    assert_eq!(
        (&choice["message"]["content"], &choice["message"]["role"]),
        (&json!(text), &json!("assistant"))
    );
    assert_eq!(
        (choice["finish_reason"].as_str(), &whole["usage"]),
        (Some(reason.as_str()), &usage)
    );
    let tokens = choice["logprobs"]["content"].as_array().unwrap();
    assert_eq!(tokens.len() as u64, usage["completion_tokens"].as_u64().unwrap());
    assert_eq!(tokens[0]["logprob"], tokens[0]["top_logprobs"][0]["logprob"]);
    server.end_clean().await;
}

#[tokio::test]
async fn the_other_paths() {
    let server = Running::start(|_| {}).await;
    let address = server.address;
    let models = get(address, "/v1/models").await.unwrap().json();
    assert_eq!(
        (&models["data"][0]["id"], &models["object"]),
        (&json!("tiny"), &json!("list"))
    );
    assert_eq!(get(address, "/v1/models/tiny").await.unwrap().status, 200);
    assert_eq!(get(address, "/v1/models/org/other").await.unwrap().status, 404);
    assert_eq!(get(address, "/health").await.unwrap().status, 200);
    let text = "naïve 🦀 table";
    let tokens = post(address, "/tokenize", &json!({"prompt": text}))
        .await
        .unwrap()
        .json();
    assert_eq!(tokens["count"], tokens["tokens"].as_array().unwrap().len());
    let back = post(address, "/detokenize", &json!({"tokens": tokens["tokens"]}))
        .await
        .unwrap()
        .json();
    assert_eq!(back["prompt"], text);
    post(
        address,
        "/v1/completions",
        &json!({"prompt": text, "max_tokens": 3, "ignore_eos": true}),
    )
    .await
    .unwrap();
    server.idle().await;
    let metrics = get(address, "/metrics").await.unwrap().body;
    for name in [
        "serve_kv_used_bytes 0",
        "serve_kv_mapped_bytes 0",
        "serve_kv_budget_bytes 268435456",
        "serve_time_to_first_token_seconds_count 1",
        "serve_inter_token_seconds_count 2",
        "serve_output_tokens_total 3",
        "serve_samples_total{outcome=\"Length\"} 1",
    ] {
        assert!(metrics.contains(name), "{name:?} is not in {metrics}");
    }
    server.end_clean().await;
}

#[tokio::test]
async fn hostile_requests_are_refused() {
    let server = Running::start(|config| {
        config.limits.body_bytes = 16 << 10;
        config.limits.body_time = Duration::from_millis(300);
        config.connections.head_time = Duration::from_millis(300);
    })
    .await;
    let address = server.address;
    let deep = format!("{{\"prompt\": {}1{}}}", "[".repeat(5_000), "]".repeat(5_000));
    let long = json!({"prompt": "word ".repeat(300)}).to_string();
    let huge = json!({"prompt": "a".repeat(20 << 10)}).to_string();
    let completions: &[(&[u8], u16)] = &[
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[1, 2]", 400),
        (deep.as_bytes(), 400),
        (huge.as_bytes(), 413),
        (long.as_bytes(), 400),
        (br#"{"prompt": 7}"#, 400),
        (br#"{"prompt": [99999999]}"#, 400),
        (br#"{"prompt": [-1]}"#, 400),
        (br#"{"prompt": ["a", "b"]}"#, 400),
        (br#"{"prompt": "a", "model": "other"}"#, 404),
        (br#"{"prompt": "a", "max_tokens": 0}"#, 400),
        (br#"{"prompt": "a", "max_tokens": 1e9}"#, 400),
        (br#"{"prompt": "a", "max_tokens": 18446744073709551615}"#, 400),
        (br#"{"prompt": "a", "n": 1000000}"#, 400),
        (br#"{"prompt": "a", "n": 0}"#, 400),
        (br#"{"prompt": "a", "temperature": -1}"#, 400),
        (br#"{"prompt": "a", "temperature": 1e39}"#, 400),
        (br#"{"prompt": "a", "top_p": 7}"#, 400),
        (br#"{"prompt": "a", "logprobs": 1000}"#, 400),
        (br#"{"prompt": "a", "stop": ""}"#, 400),
        (
            br#"{"prompt": "a", "stop": ["a","a","a","a","a","a","a","a","a","a","a","a","a","a","a","a","a"]}"#,
            400,
        ),
        (br#"{"prompt": "a", "logit_bias": {"1": 5}}"#, 400),
        (br#"{"prompt": "a", "presence_penalty": 1}"#, 400),
    ];
    for &(body, want) in completions {
        let answer = client::open(address, "POST", "/v1/completions", body).await.unwrap();
        let answer = answer.whole().await.unwrap();
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]);
        assert_eq!(answer.status, want, "{shown}: {}", answer.body);
        assert!(
            answer.json()["error"]["message"].is_string(),
            "{shown}: {}",
            answer.body
        );
    }
    for body in [
        json!({}),
        json!({"messages": []}),
        json!({"messages": [{"role": "wizard", "content": "x"}]}),
        json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}),
        json!({"messages": [{"role": "user", "content": "x"}], "top_logprobs": 3}),
        json!({"messages": [{"role": "user", "content": "x"}], "tools": [{}]}),
    ] {
        let answer = post(address, "/v1/chat/completions", &body).await.unwrap();
        assert_eq!(answer.status, 400, "{body}: {}", answer.body);
    }
    assert_eq!(
        post(address, "/detokenize", &json!({"tokens": [99999999]}))
            .await
            .unwrap()
            .status,
        400
    );
    assert_eq!(get(address, "/v1/completions").await.unwrap().status, 405);
    assert_eq!(get(address, "/nothing").await.unwrap().status, 404);

    // A body that never comes, a head that never ends, and no HTTP at all.
    for (sent, want) in [
        (
            "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{",
            "HTTP/1.1 408",
        ),
        ("POST /v1/completions HTTP/1.1\r\nhost: x\r\n", ""),
        ("\u{16}\u{3}\u{1}garbage\r\n\r\n", "HTTP/1.1 400"),
    ] {
        let mut connection = TcpStream::connect(address).await.unwrap();
        connection.write_all(sent.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(10), connection.read_to_end(&mut answer));
        let _ = read.await.expect("the server keeps a connection that says nothing");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(want), "{sent:?}: {answer}");
    }
    let special = json!({"prompt": "<|endoftext|>", "add_special_tokens": false});
    let special = post(address, "/tokenize", &special).await.unwrap().json();
    assert!(special["count"].as_u64().unwrap() > 1);
    assert_eq!(
        server.metric("steps_total").await,
        0.0,
        "nothing of all this came to the model"
    );
    server.end_clean().await;
}

#[tokio::test]
async fn overload_is_answered_429() {
    let server = Running::start(|config| {
        config.engine = EngineConfig {
            max_batch: 1,
            max_waiting: 2,
            ..config.engine
        };
    })
    .await;
    let address = server.address;
    let mut clients = JoinSet::new();
    for _ in 0..24 {
        let body = json!({"prompt": "a b c", "max_tokens": 60, "ignore_eos": true});
        clients.spawn(async move { post(address, "/v1/completions", &body).await.unwrap() });
    }
    let answers = clients.join_all().await;
    let count = |status| answers.iter().filter(|answer| answer.status == status).count();
    // The two that wait are served at least; when all come before the first step, nobody else is.
    assert!(count(200) >= 2 && count(429) > 0, "{} and {}", count(200), count(429));
    assert_eq!(count(200) + count(429), 24);
    let busy = answers.iter().find(|answer| answer.status == 429).unwrap();
    assert_eq!(busy.json()["error"]["type"], "rate_limit_error");
    assert!(
        busy.headers
            .iter()
            .any(|header| header.to_lowercase() == "retry-after: 1")
    );
    server.end_clean().await;
}

/// Many clients for some seconds over a budget that holds few of them: some read to the end, some go away in the middle,
/// some ask nonsense.
async fn load(kept_prefixes: usize) {
    let server = Running::start(|config| {
        config.engine = EngineConfig {
            max_batch: 8,
            prompt_chunk: 16,
            max_waiting: 16,
            kept_prefixes,
            // One of the two loads keeps the rows of samples that are put back.
            swap_bytes: if kept_prefixes == 0 { 1 << 20 } else { 0 },
        };
        // Four sequences of the full context: 8 regions' worth of pages each.
        config.kv_budget_bytes = 4 * 4 * (256 * 32 * 4);
    })
    .await;
    let address = server.address;
    let end = Instant::now() + Duration::from_secs(4);
    let mut clients = JoinSet::new();
    for client in 0..32u64 {
        clients.spawn(async move {
            let (mut complete, mut busy) = (0, 0);
            let mut turn = client;
            while Instant::now() < end {
                turn += 1;
                let body = json!({
                    "prompt": format!("{} {turn}", "shared words of every prompt".repeat(turn as usize % 6)),
                    "max_tokens": 5 + turn % 60, "n": 1 + turn % 3 / 2, "seed": turn, "stream": turn % 5 != 0,
                    "ignore_eos": true,
                });
                let path = if turn % 11 == 0 {
                    "/v1/nonsense"
                } else {
                    "/v1/completions"
                };
                let Ok(mut answer) = client::open(address, "POST", path, body.to_string().as_bytes()).await else {
                    continue;
                };
                match answer.status {
                    200 => {}
                    429 => {
                        busy += 1;
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    }
                    status => {
                        assert!(turn % 11 == 0 && status == 404, "{status}");
                        continue;
                    }
                }
                if turn % 3 == 0 {
                    // Gone after the first event.
                    let _ = answer.event().await;
                    continue;
                }
                let body = answer.whole().await.unwrap().body;
                assert!(!body.contains("\"error\""), "{body}");
                complete += 1;
            }
            (complete, busy)
        });
    }
    let (mut complete, mut busy) = (0, 0);
    for (whole, refused) in clients.join_all().await {
        complete += whole;
        busy += refused;
    }
    server.idle().await;
    assert!(complete > 0, "no answer in all that time");
    let cancelled = server.metric("samples_total{outcome=\"Cancelled\"}").await;
    assert!(cancelled > 0.0, "no client went away");
    if kept_prefixes == 0 {
        assert_eq!(server.metric("kv_used_bytes").await, 0.0);
        assert_eq!(server.metric("kv_mapped_bytes").await, 0.0);
    } else {
        assert!(server.metric("shared_tokens_total").await > 0.0);
    }
    let preemptions = server.metric("preemptions_total").await;
    eprintln!("{complete} complete, {busy} refused, {cancelled} gone, {preemptions} preemptions");
    server.end_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_is_back_after_the_load() {
    load(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_is_back_after_the_load_with_kept_prefixes() {
    load(4).await;
}

#[tokio::test]
async fn a_deadline_is_an_error() {
    let server = Running::start(|config| config.limits.request_time = Duration::ZERO).await;
    let body = json!({"prompt": "a", "max_tokens": 200, "ignore_eos": true});
    let answer = post(server.address, "/v1/completions", &body).await.unwrap();
    assert_eq!(answer.status, 504, "{}", answer.body);
    server.end_clean().await;
}

#[tokio::test]
async fn stopping_lets_open_answers_end() {
    let server = Running::start(|_| {}).await;
    let address = server.address;
    let body = json!({"prompt": "a", "max_tokens": 150, "ignore_eos": true, "stream": true});
    let mut answer = client::open(address, "POST", "/v1/completions", body.to_string().as_bytes())
        .await
        .unwrap();
    answer.event().await.unwrap().unwrap();
    let ending = tokio::spawn(server.end());
    let rest = answer.whole().await.unwrap().body;
    assert!(rest.contains("[DONE]"), "{rest}");
    let ended = ending.await.unwrap();
    assert!(ended.in_time);
    assert_eq!(ended.memory.physical_bytes, 0);
    assert!(get(address, "/health").await.is_err(), "still listening");
}

#[tokio::test]
async fn stopping_breaks_answers_that_take_too_long() {
    let server = Running::start(|config| config.connections.grace = Duration::ZERO).await;
    let body = json!({"prompt": "a", "max_tokens": 250, "n": 16, "ignore_eos": true, "stream": true});
    let mut answer = client::open(server.address, "POST", "/v1/completions", body.to_string().as_bytes())
        .await
        .unwrap();
    answer.event().await.unwrap().unwrap();
    let ending = tokio::spawn(server.end());
    let rest = answer.whole().await.unwrap().body;
    let ended = ending.await.unwrap();
    assert!(rest.contains("server_error") || rest.contains("[DONE]"), "{rest}");
    assert_eq!(ended.memory.physical_bytes, 0);
}

/// The official client of OpenAI, where there is a Python with it: `PYTHON`, else `python3`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_python_client_works() {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let probe = tokio::task::spawn_blocking({
        let python = python.clone();
        move || {
            std::process::Command::new(python)
                .args(["-c", "import openai"])
                .output()
        }
    });
    if !probe.await.unwrap().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: {python} has no module openai");
        return;
    }
    let server = Running::start(|_| {}).await;
    let url = format!("http://{}/v1", server.address);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openai_client.py");
    let run = tokio::task::spawn_blocking(move || std::process::Command::new(python).arg(script).arg(url).output());
    let output = run.await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    server.end_clean().await;
}
