"""The registry beside MLflow's, in one run on one disk, with every flush to the disk on.

    python benchmarks/registry.py [--sizes 10 1000] [--repeat 20]

MLflow (sqlite backend, local artifacts) must be installed; without it only our own column is shown. Its
versions are filled in as rows without files, which is its fastest way, so that large sizes are reached soon;
what is timed is a registration with the same three small files as ours.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy

from dspy_nb.core.registry import Registry


def median_ms(call: Callable[[], object], repeat: int) -> float:
    durations = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        durations.append(time.perf_counter() - start)
    return statistics.median(durations) * 1000


def program() -> dspy.Predict:
    made = dspy.Predict("review -> sentiment")
    made.demos = [{"review": "nice", "sentiment": "good"}, {"review": "dull", "sentiment": "bad"}]
    return made


def ours(folder: Path, size: int, repeat: int) -> dict[str, float]:
    registry, made = Registry(folder / "registry"), program()
    flush, os.fsync = os.fsync, lambda _: None  # only while filling
    for _ in range(size):
        registry.register(made, "m", bump="patch")
    os.fsync = flush
    return {
        "register": median_ms(lambda: registry.register(made, "m", bump="patch"), repeat),
        "promote": median_ms(lambda: toggle(registry), repeat),
        "get by stage": median_ms(lambda: registry.get("m@production"), repeat),
        "list": median_ms(lambda: registry.list("m"), max(3, repeat // 4)),
        "list, first time": median_ms(lambda: Registry(registry.root).list("m"), 1),
        "check": median_ms(registry.check, 1),
    }


def toggle(registry: Registry) -> None:
    """Promote the version that is not in production: each call is one append to the log."""
    current = registry.production("m")
    other = "1.0.1" if current is not None and current.version == "1.0.0" else "1.0.0"
    registry.promote(f"m@{other}", "production", force=True, reason="benchmark")


def theirs(folder: Path, size: int, repeat: int) -> dict[str, float]:
    logging.disable(logging.CRITICAL)
    from mlflow import MlflowClient

    start = time.perf_counter()
    uri = f"sqlite:///{folder}/mlflow.db"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.create_experiment("benchmark", artifact_location=(folder / "artifacts").as_uri())
    first_use = (time.perf_counter() - start) * 1000
    client.create_registered_model("m")
    files = folder / "files"
    files.mkdir()
    for name in ("model.json", "metadata.json", "README.md"):
        (files / name).write_text(json.dumps({"content": "x" * 700}))
    for _ in range(size):
        client.create_model_version("m", files.as_uri())
    versions: dict[str, Any] = {}

    def register() -> None:
        run = client.create_run(experiment).info
        client.log_artifacts(run.run_id, str(files), "model")
        versions["last"] = client.create_model_version("m", f"{run.artifact_uri}/model", run.run_id)

    return {
        "register": median_ms(register, repeat),
        "promote": median_ms(
            lambda: client.set_registered_model_alias("m", "production", versions["last"].version), repeat
        ),
        "get by stage": median_ms(lambda: client.get_model_version_by_alias("m", "production"), repeat),
        "list": median_ms(lambda: everything(client), max(3, repeat // 4)),
        "first use": first_use,
    }


def everything(client: Any) -> list[Any]:
    found: list[Any] = []
    token = None
    while True:
        page = client.search_model_versions("name='m'", max_results=10_000, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--repeat", type=int, default=20)
    options = parser.parse_args()
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as name:
            mine = ours(Path(name), size, options.repeat)
            other = theirs(Path(name), size, options.repeat) if importlib.util.find_spec("mlflow") else {}
        print(f"\n{size:,} versions          dspy_nb ms    MLflow ms    times faster")
        for what in [*mine, *(what for what in other if what not in mine)]:
            a, b = mine.get(what), other.get(what)
            columns = [f"{value:10.2f}" if value is not None else " " * 10 for value in (a, b)]
            print(f"{what:20} {columns[0]}   {columns[1]}" + (f"   {b / a:10.1f}" if a and b else ""))


if __name__ == "__main__":
    main()
