"""Serving while versions are deployed and rolled back: no request fails, and none sees two versions."""

from __future__ import annotations

import json
import os
import random
import re
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import dspy
import httpx
import pytest
from dspy.lm15 import Message, Request, Response, Usage

import dspy_nb as nb
from tests import ROOT
from tests.children import Children
from tests.moments import HANG_S
from tests.scripted import scripted_lm

NOTICED_WITHIN_S = 1.0  # a deployment by another process; what Environment.load promises


class Pair(dspy.Module):
    """Asks twice, so that a request could see two versions."""

    def __init__(self) -> None:
        super().__init__()
        self.one = dspy.Predict("review -> answer")
        self.two = dspy.Predict("review -> answer")

    def forward(self, review: str) -> dspy.Prediction:
        first = self.one(review=review).answer
        time.sleep(0)  # lets the others go on in between
        return dspy.Prediction(answers=(first, self.two(review=review).answer))


class Echo:
    """Answers with the version that the instructions name."""

    def __deepcopy__(self, memo):
        return self

    def complete(self, request: Request) -> Response:
        version = re.search(r"version (\w+)", str(request.system))[1]
        text = json.dumps({"answer": version, "sentiment": version})
        return Response(
            id="echo",
            model=request.model,
            message=Message.assistant(text),
            finish_reason="stop",
            usage=Usage(input_tokens=1, output_tokens=1, total_tokens=2),
        )


@dataclass(frozen=True)
class Served:
    """What a request was served, and when it began and ended."""

    ref: str
    began: float
    ended: float


@dataclass(frozen=True)
class Made:
    """What a deployment or a roll-back made live, and when the call began and ended."""

    ref: str
    began: float
    ended: float


def instructed(program: dspy.Module, version: str) -> dspy.Module:
    for predictor in program.predictors():
        predictor.signature = predictor.signature.with_instructions(f"You are version {version}.")
    return program


def deploy_many(environment: nb.Environment, refs: list[str], n: int, pause_s: float = 0.0) -> list[Made]:
    """Deploy and roll back n times."""
    choose = random.Random(0)
    made = []
    for _ in range(n):
        current = environment.current
        back = environment.history()[-1].rollback_available if current else False
        began = time.monotonic()
        if back and choose.random() < 0.4:
            deployment = environment.rollback()
        else:
            deployment = environment.deploy(
                choose.choice([ref for ref in refs if not current or ref != current.ref])
            )
        made.append(Made(deployment.ref, began, time.monotonic()))
        time.sleep(pause_s)
    return made


def was_live(served: Served, made: list[Made], late_s: float = 0.0) -> bool:
    """Whether what a request was served was live at some moment of it."""
    ends = [following.ended + late_s for following in made[1:]] + [float("inf")]
    return any(
        deployment.ref == served.ref and deployment.began <= served.ended and served.began <= end
        for deployment, end in zip(made, ends, strict=True)
    )


def registered(registry: nb.Registry, make) -> list[str]:
    with dspy.context(adapter=dspy.JSONAdapter()):  # which serves them, too
        return [
            registry.register(instructed(make(), f"v{i}"), "pair", version=f"1.{i}.0").ref for i in range(4)
        ]


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("threads", "deployments"),
    [(8, 30), pytest.param(50, 200, marks=pytest.mark.slow)],
    ids=["short", "whole"],
)
def test_every_request_is_served_by_one_version_that_was_live_during_it(
    tmp_path: Path, threads: int, deployments: int
) -> None:
    registry = nb.Registry(tmp_path / "registry")
    refs = registered(registry, Pair)
    environment = registry.environment("live", create=True)
    made = deploy_many(environment, refs, 1)
    over = threading.Event()
    lm = scripted_lm(Echo())

    def serve() -> list[Served]:
        found = []
        with dspy.context(lm=lm, adapter=dspy.JSONAdapter()):
            while not over.is_set() or not found:
                began = time.monotonic()
                program = environment.load(Pair)
                first, second = program(review="Nice.").answers
                found.append(Served(f"pair@1.{first.removeprefix('v')}.0", began, time.monotonic()))
                assert first == second
        return found

    with ThreadPoolExecutor(threads) as pool:
        requests = [pool.submit(serve) for _ in range(threads)]
        try:
            made += deploy_many(environment, refs, deployments - 1)
        finally:
            over.set()
        served = [one for request in requests for one in request.result()]  # raises what a request raised
    assert len(served) >= threads
    assert len(environment.history()) == deployments
    assert [one for one in served if not was_live(one, made)] == []
    assert registry.check() == []


def serve_the_example_app(root: Path, environment: str, port: int) -> None:
    os.environ |= {"DSPY_NB_REGISTRY": str(root), "ENVIRONMENT": environment}
    sys.path.insert(0, str(ROOT / "notebooks/serving"))
    dspy.configure(lm=scripted_lm(Echo()), adapter=dspy.JSONAdapter())
    import app
    import uvicorn

    uvicorn.run(app.app, host="127.0.0.1", port=port, log_level="error")


def test_the_example_app_notices_deployments_of_another_process(tmp_path: Path, children: Children) -> None:
    registry = nb.Registry(tmp_path / "registry")
    refs = registered(registry, lambda: dspy.Predict("review -> sentiment"))
    environment = registry.environment("development")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    server = children(serve_the_example_app, registry.root, environment.name, port)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=HANG_S) as client:
            while True:
                try:
                    assert client.get("/health").status_code == 503
                    break
                except httpx.ConnectError:
                    assert server.running, server.errors
                    time.sleep(0.1)
            made = deploy_many(environment, refs, 1)
            over = threading.Event()
            everyone_served = threading.Barrier(5, timeout=HANG_S)
            change_served = threading.Event()

            def serve() -> list[Served]:
                found: list[Served] = []
                while not over.is_set():
                    began = time.monotonic()
                    answer = client.post("/sentiment", json={"review": "Nice."}).raise_for_status().json()
                    version = answer["sentiment"].removeprefix("v")
                    found.append(Served(f"pair@1.{version}.0", began, time.monotonic()))
                    if len(found) == 1:
                        everyone_served.wait()
                    if found[-1].ref != found[0].ref:
                        change_served.set()
                return found

            with ThreadPoolExecutor(4) as pool:
                requests = [pool.submit(serve) for _ in range(4)]
                try:
                    everyone_served.wait()
                    made += deploy_many(environment, refs, 4, pause_s=0.2)
                    assert made[-1].ref != made[0].ref
                    assert change_served.wait(HANG_S)  # as late as the machine makes it
                    made += deploy_many(environment, refs, 4, pause_s=0.2)
                finally:
                    over.set()
                served = [one for request in requests for one in request.result()]
            assert client.get("/health").json()["live"] == made[-1].ref
    finally:
        server.terminate()
        assert server.status is not None  # it has ended
    assert [one for one in served if not was_live(one, made, late_s=NOTICED_WITHIN_S)] == []
    assert len({one.ref for one in served}) > 1
