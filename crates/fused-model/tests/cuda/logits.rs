//! Logits and texts against the same model on the processor, and against transformers.

use fused_model::kv::{KvError, KvStore, VirtualKv};
use fused_model::{Activation, CausalLm, Chunk, Gpt2, Logits, ModelError, Options, Params, Request, generate};
use safetensors::SafeTensors;

use crate::emulator::{Emulator, MODES};
use crate::{assert_close, ids, odd, on_cpu, on_device, run, tiny};

/// Prompts in pieces beside sequences that decode, across the borders of frames.
fn passes(vocab: usize) -> Vec<Vec<Vec<u32>>> {
    let mut passes = vec![
        vec![ids(13, 1, vocab), Vec::new(), ids(1, 2, vocab)],
        vec![ids(1, 3, vocab), ids(9, 4, vocab), ids(1, 5, vocab)],
    ];
    passes.extend((0..20).map(|step| (0..3).map(|seq| ids(1, 10 + 3 * step + seq, vocab)).collect()));
    passes.push(vec![ids(2, 6, vocab), ids(7, 7, vocab), ids(1, 8, vocab)]);
    passes
}

fn check(params: &Params, mode: &str) {
    let emulator = Emulator::new(mode);
    let vocab = params.config().vocab_size();
    for wanted in [Logits::All, Logits::Last] {
        let ((mut cuda, mut rows), (mut cpu, mut kv)) = (on_device(params, 3), on_cpu(params, 3));
        let (ours, theirs) = (
            [(); 3].map(|()| rows.open().unwrap()),
            [(); 3].map(|()| kv.open().unwrap()),
        );
        let got = run(&mut cuda, &mut rows, &ours, &passes(vocab), wanted);
        let want = run(&mut cpu, &mut kv, &theirs, &passes(vocab), wanted);
        assert_close(&got, &want, &format!("{mode} {wanted:?}"));
        for (a, b) in ours.into_iter().zip(theirs) {
            let len = kv.len(b).unwrap();
            assert_eq!(rows.len(a).unwrap(), len);
            for layer in 0..params.config().layers() {
                let (k, v) = kv.rows(b, layer).unwrap();
                for (side, want) in [(vattn::Side::K, k), (vattn::Side::V, v)] {
                    let want = want.to_vec();
                    let got = rows.read(a, layer, side, 0..len).unwrap();
                    assert_close(&got, &want, &format!("{mode} rows {side:?} of layer {layer}"));
                }
            }
        }
    }
    emulator.assert_no_leaks();
    emulator.assert_no_refusals();
}

#[test]
fn gpt2_tiny_is_the_same_as_on_the_processor() {
    for mode in MODES {
        check(&tiny(), mode);
    }
}

#[test]
fn odd_shapes_and_the_exact_gelu_are_too() {
    let params = odd(5);
    check(&params, MODES[3]);
    let mut config = params.config().gpt2().unwrap().clone();
    config.activation_function = Activation::GeluErf;
    config.tie_word_embeddings = false;
    check(&Params::random(config, 6), MODES[3]);
}

#[test]
fn gpt2_tiny_gives_what_transformers_gives() {
    let emulator = Emulator::new(MODES[3]);
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gpt2-tiny");
    let golden = std::fs::read(dir.join("golden.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let text = std::fs::read_to_string(dir.join("golden.json")).unwrap();
    let text: serde_json::Value = serde_json::from_str(&text).unwrap();
    let (mut model, mut rows) = on_device(&tiny(), 3);
    for case in ["len1", "len7", "len24"] {
        let ids: Vec<u32> = serde_json::from_value(text[case]["ids"].clone()).unwrap();
        let want = golden.tensor(&format!("{case}.logits")).unwrap();
        let (want, _) = want.data().as_chunks::<4>();
        let want: Vec<f32> = want.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let sequence = rows.open().unwrap();
        let chunk = Chunk { sequence, ids: &ids };
        let got = model.forward(&mut rows, &[chunk], Logits::All).unwrap();
        assert_close(got, &want, case);
        rows.free(sequence).unwrap();
    }
    drop((model, rows));
    emulator.assert_no_leaks();
    emulator.assert_no_refusals();
}

#[test]
fn the_engine_serves_from_it() {
    let emulator = Emulator::new(MODES[3]);
    let params = tiny();
    let requests: Vec<_> = (1..6).map(|n| Request::greedy(ids(3 * n, n as u32, 300), 8)).collect();
    let mut cpu = Gpt2::new(
        &params,
        Options {
            threads: 1,
            ..Options::default()
        },
    )
    .unwrap();
    let mut host = VirtualKv::new(&cpu.kv_geometry(3), 4096, 1 << 20).unwrap();
    let want = generate(&mut cpu, &mut host, &requests, 3, &mut |_| {}).unwrap();
    // Room for two and a half sequences: some wait, or are taken back and computed again.
    let (mut cuda, _) = on_device(&params, 1);
    let mut rows = cuda.store(3, 10 * 8192).unwrap();
    let got = generate(&mut cuda, &mut rows, &requests, 3, &mut |_| {}).unwrap();
    assert_eq!(got, want);
    assert_eq!(rows.memory().used_bytes, 0);
    drop((cuda, rows));
    emulator.assert_no_leaks();
    emulator.assert_no_refusals();
}

#[test]
fn what_does_not_fit_together_says_so() {
    let emulator = Emulator::new(MODES[0]);
    let params = odd(1);
    let (mut cuda, mut rows) = on_device(&params, 1);
    let (mut cpu, mut kv) = on_cpu(&params, 1);
    let (ours, theirs) = (rows.open().unwrap(), kv.open().unwrap());
    let chunk = |sequence| Chunk { sequence, ids: &[1, 2] };
    let error = cuda.forward(&mut kv, &[chunk(theirs)], Logits::Last).unwrap_err();
    assert!(error.to_string().contains("needs a store on its device"), "{error}");
    assert_eq!(kv.len(theirs).unwrap(), 0);
    let error = cpu.forward(&mut rows, &[chunk(ours)], Logits::Last).unwrap_err();
    assert!(matches!(error, ModelError::Kv(KvError::OnDevice)), "{error}");
    let wide = Params::random(fused_model::Gpt2Config::new(8, 8, 130, 1, 1), 1);
    let error = fused_model::CudaGpt2::new(&wide, &candle_core::Device::new_cuda(0).unwrap()).unwrap_err();
    assert!(error.to_string().contains("heads of 130 columns"), "{error}");
    assert!(fused_model::CudaGpt2::new(&params, &candle_core::Device::Cpu).is_err());
    drop((cuda, rows));
    emulator.assert_no_leaks();
}
