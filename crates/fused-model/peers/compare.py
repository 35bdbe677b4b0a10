"""Runs every engine of a precision in turns and writes the median speeds, a JSON object a line.

Before anything is timed, the engines that compute in f32 must continue a prompt alike.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
OURS = "fused-model"
# For each precision, the peers and what they call it.
PEERS = {
    "f32": [("llama.cpp", "f32"), ("ctranslate2", "float32"), ("transformers", "f32"), ("onnxruntime", "f32")],
    "f16": [("llama.cpp", "f16")],
    "int8": [("llama.cpp", "q8_0"), ("ctranslate2", "int8"), ("onnxruntime", "int8")],
}
WORKLOADS = ["decode 1", "decode 8", "decode 16", "prompt 512"]
# Tokens that all engines must agree on in f32.
AGREE = 8


class Engine:
    """A process that runs one line at a time."""

    def __init__(self, name, command, threads, log):
        self.name = name
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads), HF_HUB_OFFLINE="1")
        # Some machines name an old kernel here for old libraries; the peers choose their own.
        for variable in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
            environment.pop(variable, None)
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        self.process = subprocess.Popen(command, env=environment, **pipes)
        self.seconds = {workload: [] for workload in WORKLOADS}
        self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended; its log says why")
        return line.strip()

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.read()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def tokens(workload):
    what, number = workload.split()
    return int(number)


def compare(options, precision, threads, log):
    ours = [options.figures, "--turns", precision, str(threads), f"{options.models}/hf"]
    engines = [Engine(OURS, ours, threads, log)]
    for name, kind in PEERS[precision]:
        command = [sys.executable, str(HERE / "engines.py"), name, kind, str(threads), options.models]
        engines.append(Engine(name, command, threads, log))
    if precision == "f32":
        answers = {engine.name: engine.ask(f"greedy {AGREE}") for engine in engines}
        if len(set(answers.values())) != 1:
            raise SystemExit(f"the engines do not compute the same model: {answers}")
    for turn in range(options.turns + 1):
        for workload in WORKLOADS:
            # Another one begins in each turn; what waits may still spin for a moment.
            for engine in engines[turn % len(engines) :] + engines[: turn % len(engines)]:
                time.sleep(0.05)
                seconds = float(engine.ask(workload))
                if turn > 0:  # the first turn warms up
                    engine.seconds[workload].append(seconds)
    for workload in WORKLOADS:
        for engine in engines:
            yield {
                "engine": engine.name,
                "precision": precision,
                "threads": threads,
                "workload": workload,
                "tokens_per_second": tokens(workload) / statistics.median(engine.seconds[workload]),
                "seconds": engine.seconds[workload],
            }
    for engine in engines:
        engine.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--figures", required=True, help="this project's program")
    parser.add_argument("--models", required=True, help="the folder that weights.py made")
    parser.add_argument("--results", required=True, help="the file to write")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--precisions", nargs="+", choices=list(PEERS), default=list(PEERS))
    options = parser.parse_args()
    lines = []
    with open(f"{options.models}/engines.log", "w") as log:
        for precision in options.precisions:
            for threads in options.threads:
                print(f"{precision}, {threads} threads ...", file=sys.stderr, flush=True)
                lines += compare(options, precision, threads, log)
    unfinished = Path(options.results + ".tmp")
    unfinished.write_text("".join(json.dumps(line) + "\n" for line in lines))
    unfinished.replace(options.results)


if __name__ == "__main__":
    main()
