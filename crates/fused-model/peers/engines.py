"""One engine as one side of compare.py: engines.py ENGINE KIND THREADS MODELS.

It says `ready`, then answers each line of its input with one line, as `figures --turns` does:
`greedy N` with the ids that follow a fixed prompt; `decode BATCH` with seconds of a step of that many sequences after 128
tokens each, the median of 16; `prompt TOKENS` with seconds from the prompt to the logits of its last token.
"""

import ctypes
import statistics
import sys
import time

CONTEXT, STEPS, VOCAB = 128, 16, 50257


def ids(count):
    return [i * 37 % 50000 for i in range(count)]


class Transformers:
    def __init__(self, _kind, threads, models):
        import torch
        from transformers import GPT2LMHeadModel

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.torch = torch
        self.model = GPT2LMHeadModel.from_pretrained(models + "/hf").eval()
        self.caches = {}

    def forward(self, rows, cache):
        tokens = self.torch.tensor(rows)
        return self.model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)

    def greedy(self, count):
        rows, cache, out = [ids(CONTEXT)], None, []
        for _ in range(count):
            result = self.forward(rows, cache)
            cache = result.past_key_values
            out.append(int(result.logits[0, -1].argmax()))
            rows = [[out[-1]]]
        return out

    def decode(self, batch):
        cache = self.caches.get(batch)
        if cache is None:
            cache = self.caches[batch] = self.forward([ids(CONTEXT)] * batch, None).past_key_values
        seconds = []
        for _ in range(STEPS):
            start = time.perf_counter()
            self.forward([[7]] * batch, cache)
            seconds.append(time.perf_counter() - start)
        cache.crop(-STEPS)
        return statistics.median(seconds)

    def prompt(self, count):
        start = time.perf_counter()
        self.forward([ids(count)], None)
        return time.perf_counter() - start


class CTranslate2:
    """It has no call for one step; steps are timed by its callback for each token."""

    def __init__(self, kind, threads, models):
        import ctranslate2

        self.generator = ctranslate2.Generator(
            f"{models}/ct2-{kind}", device="cpu", compute_type=kind, inter_threads=1, intra_threads=threads
        )

    def generate(self, rows, count, callback=None):
        return self.generator.generate_batch(
            [[f"<{token}>" for token in row] for row in rows],
            max_length=count,
            min_length=count,
            include_prompt_in_result=False,
            callback=callback,
        )

    def greedy(self, count):
        return self.generate([ids(CONTEXT)], count)[0].sequences_ids[0]

    def decode(self, batch):
        ends = {}

        def note(result):
            ends[result.step] = time.perf_counter()
            return False

        self.generate([ids(CONTEXT)] * batch, STEPS + 1, note)
        times = [ends[step] for step in sorted(ends)]
        assert len(times) == STEPS + 1, f"{len(times)} steps"
        return statistics.median(after - before for before, after in zip(times, times[1:]))

    def prompt(self, count):
        start = time.perf_counter()
        self.generate([ids(count)], 1)
        return time.perf_counter() - start


class LlamaCpp:
    """Only llama_decode and the reading of its result are timed, not the choice of a token in Python."""

    def __init__(self, kind, threads, models):
        import llama_cpp
        import numpy

        self.lib, self.numpy, self.threads = llama_cpp, numpy, threads
        self.log = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.log, ctypes.c_void_p())
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(f"{models}/{kind}.gguf".encode(), params)
        assert self.model, "the model does not load"
        self.contexts = {}

    def context(self, sequences, tokens):
        params = self.lib.llama_context_default_params()
        params.n_ctx = sequences * tokens
        params.n_batch = params.n_ubatch = max(512, sequences)
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = self.threads
        params.kv_unified = False
        context = self.lib.llama_init_from_model(self.model, params)
        assert context, "no context"
        return context

    def forward(self, context, rows, position):
        """Tokens of each sequence at a position, logits of the last of each."""
        batch = self.lib.llama_batch_init(sum(map(len, rows)), 0, 1)
        at = 0
        for sequence, row in enumerate(rows):
            for offset, token in enumerate(row):
                batch.token[at] = token
                batch.pos[at] = position + offset
                batch.n_seq_id[at] = 1
                batch.seq_id[at][0] = sequence
                batch.logits[at] = offset == len(row) - 1
                at += 1
        batch.n_tokens = at
        start = time.perf_counter()
        status = self.lib.llama_decode(context, batch)
        logits = self.lib.llama_get_logits_ith(context, at - 1)
        seconds = time.perf_counter() - start
        assert status == 0 and logits, f"llama_decode gives {status}"
        self.lib.llama_batch_free(batch)
        return seconds, logits

    def forget(self, context, sequence, position):
        self.lib.llama_memory_seq_rm(self.lib.llama_get_memory(context), sequence, position, -1)

    def greedy(self, count):
        context = self.context(1, 256)
        row, position, out = ids(CONTEXT), 0, []
        for _ in range(count):
            _, logits = self.forward(context, [row], position)
            position += len(row)
            out.append(int(self.numpy.ctypeslib.as_array(logits, (VOCAB,)).argmax()))
            row = [out[-1]]
        self.lib.llama_free(context)
        return out

    def decode(self, batch):
        context = self.contexts.get(batch)
        if context is None:
            context = self.contexts[batch] = self.context(batch, 256)
            # A prompt is fed to one sequence after the other: together they may exceed a batch.
            for sequence in range(batch):
                self.forward(context, [[]] * sequence + [ids(CONTEXT)], 0)
        seconds = [self.forward(context, [[7]] * batch, CONTEXT + step)[0] for step in range(STEPS)]
        for sequence in range(batch):
            self.forget(context, sequence, CONTEXT)
        return statistics.median(seconds)

    def prompt(self, count):
        context = self.contexts.get("prompt") or self.context(1, 1024)
        self.contexts["prompt"] = context
        seconds, _ = self.forward(context, [ids(count)], 0)
        self.forget(context, 0, 0)
        return seconds


class OnnxRuntime:
    """Inputs, logits, keys and values are bound once and stay where they are, so that a step copies none of them."""

    def __init__(self, kind, threads, models):
        import numpy
        import onnxruntime

        self.numpy, self.onnxruntime = numpy, onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(f"{models}/{kind}.onnx", options, ["CPUExecutionProvider"])
        self.caches = {}

    def cache(self, batch, room):
        """Empty memory for keys and values, bound to what reads and what extends it."""
        binding, bound = self.session.io_binding(), []
        for node in self.session.get_inputs():
            if node.name.startswith("past"):
                _, heads, _, width = node.shape
                rows = self.numpy.zeros((batch, heads, room, width), self.numpy.float32)
                bound.append(self.onnxruntime.OrtValue.ortvalue_from_numpy(rows))
                binding.bind_ortvalue_input(node.name, bound[-1])
                binding.bind_ortvalue_output(node.name.replace("past", "present"), bound[-1])
        logits = self.onnxruntime.OrtValue.ortvalue_from_numpy(self.numpy.zeros((batch, 1, VOCAB), self.numpy.float32))
        binding.bind_ortvalue_output("logits", logits)
        return binding, logits, bound

    def forward(self, cache, rows, start):
        """Tokens of each sequence after `start` others; logits of the last of each."""
        binding, logits, _ = cache
        total = start + len(rows[0])
        inputs = {
            "ids": self.numpy.array(rows),
            "positions": self.numpy.array([range(start, total)] * len(rows)),
            "last": self.numpy.full(len(rows), total - 1, self.numpy.int32),
            "total": self.numpy.array([total], self.numpy.int32),
        }
        for name, value in inputs.items():
            binding.bind_cpu_input(name, value)
        begin = time.perf_counter()
        self.session.run_with_iobinding(binding)
        return time.perf_counter() - begin, logits

    def greedy(self, count):
        cache, row, start, out = self.cache(1, 256), ids(CONTEXT), 0, []
        for _ in range(count):
            _, logits = self.forward(cache, [row], start)
            start += len(row)
            out.append(int(logits.numpy()[0, 0].argmax()))
            row = [out[-1]]
        return out

    def decode(self, batch):
        cache = self.caches.get(batch)
        if cache is None:
            cache = self.caches[batch] = self.cache(batch, 256)
            self.forward(cache, [ids(CONTEXT)] * batch, 0)
        return statistics.median(self.forward(cache, [[7]] * batch, CONTEXT + step)[0] for step in range(STEPS))

    def prompt(self, count):
        cache = self.caches["prompt"] = self.caches.get("prompt") or self.cache(1, 1024)
        return self.forward(cache, [ids(count)], 0)[0]


ENGINES = {
    "transformers": Transformers,
    "ctranslate2": CTranslate2,
    "llama.cpp": LlamaCpp,
    "onnxruntime": OnnxRuntime,
}


def main():
    engine, kind, threads, models = sys.argv[1:]
    # Libraries talk on stdout too: the answers keep it, everything else goes to stderr.
    answers, sys.stdout = sys.stdout, sys.stderr
    subject = ENGINES[engine](kind, int(threads), models)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        what, number = line.split()
        result = getattr(subject, what)(int(number))
        print(*result if isinstance(result, list) else [result], file=answers, flush=True)


if __name__ == "__main__":
    main()
