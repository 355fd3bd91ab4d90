"""The registry beside MLflow's, in one run on one disk, with every flush to the disk on.

    python benchmarks/registry.py [--sizes 10 1000 10000] [--repeat 20]

MLflow comes with the extra ``bench``; install that in an environment of its own, without constraints.txt, because
MLflow wants older versions of some packages. It keeps its registry in SQLite and its artifacts in a local folder.
Where it is not installed, only our own column is shown. Both do the same work in turn, in one process:

- register: three small files and the entry that makes them a version. Ours checks the program, renders the
  three files (model.json, metadata.json, README.md), hashes and flushes them and appends to the log. MLflow's is
  the shortest way that its client has: ``create_run``, ``log_artifacts`` of three files of that size, ready on
  the disk, and ``create_model_version``. It neither builds a model nor hashes nor flushes the files, and the run
  is left open. The row "register, in a run" is what its documentation shows: ``start_run`` around
  ``log_artifacts``, which ends the run too.
- promote: one version takes another one's place in production, there the alias "production" moves.
- get by stage, list: what is in production; all versions of the model, as objects, warm.
- list, opened anew: the same by a registry, or a client, that has read nothing yet; ours reads the snapshot that
  the writers have left. list, no snapshot: the same where there is none, as after a clone; it leaves one.
- import: in a new process that has imported dspy already; first use: from there until the first version of the
  first model is registered in an empty folder.
- check: of every hash of every version; MLflow has nothing like it.

The versions that are there before are written without flushes on our side, and as rows without files on the
side of MLflow, copied within the database: no work that is timed later is spared by that.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy

from dspy_nb.core.registry.registry import Registry

Calls = dict[str, Callable[[], object]]
FEW = ("list", "list, opened anew", "list, no snapshot")

FIRST_OF_OURS = """
import time, dspy
start = time.perf_counter()
import dspy_nb
registry = dspy_nb.Registry("registry")
imported = time.perf_counter()
registry.register(dspy.Predict("review -> sentiment"), "m")
"""
FIRST_OF_THEIRS = """
import time, dspy, logging
from pathlib import Path
logging.disable(logging.CRITICAL)
for name in ("model.json", "metadata.json", "README.md"):
    Path("files").mkdir(exist_ok=True)
    Path("files", name).write_text("x" * 700)
start = time.perf_counter()
from mlflow import MlflowClient
imported = time.perf_counter()
client = MlflowClient("sqlite:///first.db", "sqlite:///first.db")
client.create_registered_model("m")
run = client.create_run(client.create_experiment("first", Path("artifacts").absolute().as_uri())).info
client.log_artifacts(run.run_id, "files", "model")
client.create_model_version("m", run.artifact_uri + "/model", run.run_id)
"""


def ours(folder: Path, size: int) -> Calls:
    registry = Registry(folder / "registry")
    made = dspy.Predict("review -> sentiment")
    made.demos = [{"review": "nice", "sentiment": "good"}, {"review": "dull", "sentiment": "bad"}]
    flush, os.fsync = os.fsync, lambda _: None  # only while filling
    for _ in range(size):
        registry.register(made, "m", bump="patch")
    os.fsync = flush
    candidates = ["m@1.0.0", "m@1.0.1"]

    def promote() -> None:
        candidates.reverse()
        registry.promote(candidates[0], "production", force=True, reason="benchmark")

    def list_without_snapshot() -> None:
        shutil.rmtree(registry.root / "snapshots", ignore_errors=True)
        Registry(registry.root).list("m")

    return {
        "register": lambda: registry.register(made, "m", bump="patch"),
        "promote": promote,
        "get by stage": lambda: registry.get("m@production"),
        "list": lambda: registry.list("m"),
        "list, opened anew": lambda: Registry(registry.root).list("m"),
        "list, no snapshot": list_without_snapshot,
        "check": registry.check,
    }


def theirs(folder: Path, size: int) -> Calls:
    logging.disable(logging.CRITICAL)
    import mlflow

    uri = f"sqlite:///{folder}/mlflow.db"
    client = mlflow.MlflowClient(uri, uri)
    experiment = client.create_experiment("benchmark", (folder / "artifacts").as_uri())
    client.create_registered_model("m")
    files = folder / "files"
    files.mkdir()
    for name in ("model.json", "metadata.json", "README.md"):
        (files / name).write_text(json.dumps({"content": "x" * 700}))
    client.create_model_version("m", files.as_uri())
    fill(folder / "mlflow.db", size)
    mlflow.set_tracking_uri(uri)
    candidates = ["1", "2"]

    def register() -> None:
        run = client.create_run(experiment).info
        client.log_artifacts(run.run_id, str(files), "model")
        client.create_model_version("m", f"{run.artifact_uri}/model", run.run_id)

    def register_in_a_run() -> None:
        with mlflow.start_run(experiment_id=experiment) as run:
            mlflow.log_artifacts(str(files), "model")
        client.create_model_version("m", f"{run.info.artifact_uri}/model", run.info.run_id)

    def promote() -> None:
        candidates.reverse()
        client.set_registered_model_alias("m", "production", candidates[0])

    return {
        "register": register,
        "register, in a run": register_in_a_run,
        "promote": promote,
        "get by stage": lambda: client.get_model_version_by_alias("m", "production"),
        "list": lambda: everything(client),
        "list, opened anew": lambda: everything(mlflow.MlflowClient(uri, uri)),
    }


def fill(database: Path, size: int) -> None:
    """Copy the one version of MLflow's model until there are ``size``."""
    with sqlite3.connect(database) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(model_versions)")]
        others = ", ".join(name for name in columns if name != "version")
        connection.execute(
            "WITH RECURSIVE numbers(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?) "
            f"INSERT INTO model_versions (version, {others}) "
            f"SELECT n, {others} FROM model_versions, numbers WHERE version = 1",
            (size,),
        )
    connection.close()


def everything(client: Any) -> list[Any]:
    found: list[Any] = []
    token = None
    while True:
        page = client.search_model_versions("name='m'", max_results=10_000, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def measured(sides: list[Calls], repeat: int) -> list[dict[str, float]]:
    """Return the median of each call in ms, the sides taking turns."""
    medians: list[dict[str, float]] = [{} for _ in sides]
    for what in dict.fromkeys(name for side in sides for name in side):
        times = 1 if what == "check" else max(3, repeat // 4) if what in FEW else repeat
        durations: list[list[float]] = [[] for _ in sides]
        for _ in range(times):
            for side, taken in zip(sides, durations, strict=True):
                if what in side:
                    start = time.perf_counter()
                    side[what]()
                    taken.append(time.perf_counter() - start)
        for found, taken in zip(medians, durations, strict=True):
            if taken:
                found[what] = statistics.median(taken) * 1000
    return medians


def first_times(programs: list[str]) -> list[dict[str, float]]:
    """Return how long import and first use take in ms, in processes of their own, the sides taking turns."""
    runs: list[list[list[float]]] = [[] for _ in programs]
    for _ in range(3):
        for program, found in zip(programs, runs, strict=True):
            with tempfile.TemporaryDirectory() as folder:
                code = f"{program}\nprint(imported - start, time.perf_counter() - imported)"
                done = subprocess.run(
                    [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
                )
                found.append([float(word) * 1000 for word in done.stdout.split()])
    medians = [[statistics.median(column) for column in zip(*found, strict=True)] for found in runs]
    return [dict(zip(("import", "first use"), pair, strict=True)) for pair in medians]


def show(title: str, columns: list[dict[str, float]]) -> None:
    mine, other = [*columns, {}][:2]
    print(f"\n{title:20}    ours ms    MLflow ms    times faster")
    for what in dict.fromkeys([*mine, *other]):
        a, b = mine.get(what, mine.get(what.split(",")[0])), other.get(what)
        left, right = (f"{value:10.2f}" if value is not None else " " * 10 for value in (a, b))
        print(f"{what:20} {left}   {right}" + (f"   {b / a:13.1f}" if a and b else ""), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 1000, 10_000])
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument(
        "--json", action="store_true", help="print the milliseconds of each size as JSON instead"
    )
    options = parser.parse_args()
    both = importlib.util.find_spec("mlflow") is not None
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    if not options.json:
        show("a new process", first_times([FIRST_OF_OURS, FIRST_OF_THEIRS][: 1 + both]))
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as name:
            sides = [make(Path(name), size) for make in (ours, theirs)[: 1 + both]]
            found = measured(sides, options.repeat)
            if options.json:
                print(json.dumps(found))
            else:
                show(f"{size:,} versions", found)


if __name__ == "__main__":
    main()
