"""No file holds what a language model was made with: twenty arguments, a server that echoes them, every file."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import nbclient
import nbformat
import pytest

import dspy_nb as nb
from dspy_nb.core.optimization.replay import describe_lm, describe_program
from dspy_nb.core.pipeline.pipeline import PipelineRules, run_pipeline
from dspy_nb.views.rendering.html import to_html
from tests.scripted import classifier, reviews

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]  # litellm has its own

NAMES = [
    *(
        "azure_ad_token",
        "client_secret",
        "password",
        "aws_secret_access_key",
        "aws_session_token",
        "user",
        "pin",
    ),
    *(
        "vertex_credentials",
        "azure_username",
        "azure_password",
        "custom",
        "hf_token",
        "private_key",
        "credentials",
    ),
    *("api_key", "tenant_id", "organization"),
]
MADE_WITH: dict[str, Any] = {name: f"LEAK-{name}" for name in NAMES}
MADE_WITH["extra_body"] = {"inner": "LEAK-inner", "deep": [{"api_key": "LEAK-deep"}]}
MADE_WITH["headers"] = {"X-Gate": "LEAK-gate", "Authorization": "Bearer LEAK-bearer"}
METRIC = nb.exact_match("sentiment")


class Server(http.server.ThreadingHTTPServer):
    """Answers like OpenAI, and refuses every fourth request by saying what came with it."""

    calls = 0
    refuses = True


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        said = self.rfile.read(int(self.headers["content-length"])).decode() + str(self.headers) + self.path
        self.server.calls += 1
        if self.server.refuses and self.server.calls % 4 == 0:
            found = " ".join(sorted({*re.findall(r"LEAK-\w+", said + json.dumps(MADE_WITH))}))
            return self.answer(401, {"error": {"message": f"bad key: {found}", "code": "invalid_api_key"}})
        message = {"role": "assistant", "content": "[[ ## sentiment ## ]]\npositive\n\n[[ ## completed ## ]]"}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        found = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        return self.answer(200, {**found, "usage": usage})

    def answer(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    with Server(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


def lm_of(server: Server, user: str = "LEAK-user:LEAK-pass", **changes: Any) -> dspy.LM:
    address = f"http://{user}@127.0.0.1:{server.server_port}/v1?sig=LEAK-sig"
    options = {"cache": False, "num_retries": 0, "api_base": address, **MADE_WITH, **changes}
    return dspy.LM("openai/m", **options)


def leaks(folder: Path) -> dict[str, set[bytes]]:
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found = {str(path): set(re.findall(rb"LEAK-\w+", content)) for path, content in files.items()}
    return {path: values for path, values in found.items() if values}


def test_whatever_is_left_behind_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    monkeypatch.chdir(tmp_path)
    lm = lm_of(server)
    program = dspy.Predict("review -> sentiment", temperature=0.5, auth_token="LEAK-config")
    sets = {"trainset": reviews(5, "t"), "valset": reviews(4, "v")}
    with dspy.context(lm=lm):
        run = nb.optimize(
            program, **sets, metric=METRIC, optimizer="BootstrapFewShotWithRandomSearch", run_dir="run",
            options={"num_candidate_programs": 1, "teacher_settings": {"lm": lm, "api_key": "LEAK-option"}},
            log_file="events.jsonl",
        )  # fmt: skip
        assert "LMAuthError" in str(run.errors)
        registry = nb.Registry("registry")
        registry.register(
            run, "m", metadata={"client_secret": "LEAK-metadata", "url": "http://u:LEAK-x@host"}
        )
        evaluation = nb.evaluate(run.program, reviews(6, "e"), METRIC)
        assert evaluation.errors.count
        evaluation.save("report.json")
        found = nb.compare(program, run.program, reviews(4, "c"), METRIC)
        Path("comparison.json").write_text(json.dumps(found.to_dict()), encoding="utf-8")
        experiment = nb.Experiment("e", a=program, b=run.program, registry=registry)
        task = nb.Task(
            program=classifier(), trainset=reviews(4, "p"), testset=reviews(4, "q"), metric=METRIC,
            optimizer="LabeledFewShot",
        )  # fmt: skip
        rules = PipelineRules(gate=nb.QualityGate(min_score=0.0, max_error_rate=1.0), margin=1.0)
        run_pipeline(task, "p", rules, registry=registry, folder="pipeline")
        for number in range(8):
            try:
                experiment.predict(unit=f"u{number}", review="good")
            except dspy.LMError:
                continue
        Path("shown.txt").write_text(
            f"{evaluation.report()} {run.errors} {evaluation.errors}", encoding="utf-8"
        )
        Path("shown.html").write_text(to_html(evaluation) + to_html(run), encoding="utf-8")
    assert leaks(tmp_path) == {}
    manifest = json.loads(Path("run/manifest.json").read_text(encoding="utf-8"))
    assert manifest["models"][0]["model"] == "openai/m"
    assert manifest["program"][0]["predictors"]["self"]["config"] == {"temperature": "0.5"}


_CELLS = """
import dspy, json, os, dspy_nb as nb
%load_ext dspy_nb
data = [dspy.Example(review=f"r {i}", sentiment="positive").with_inputs("review") for i in range(8)]
program = dspy.Predict("review -> sentiment")
dspy.configure(lm=dspy.LM("openai/m", **json.loads(os.environ["MADE_WITH"])))

%dspy_optimize program --train data --metric exact_match:sentiment -o run

%dspy_evaluate program --data data --metric exact_match:sentiment
""".strip().split("\n\n")


def test_an_executed_notebook_holds_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    lm = lm_of(server)
    options = {"cache": False, "num_retries": 0, "api_base": lm.kwargs["api_base"], **MADE_WITH}
    monkeypatch.setenv("MADE_WITH", json.dumps(options))
    monkeypatch.chdir(tmp_path)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in _CELLS])
    nbclient.NotebookClient(notebook, kernel_name="python3", allow_errors=True).execute()
    nbformat.write(notebook, tmp_path / "executed.ipynb")
    assert [cell.execution_count for cell in notebook.cells] == [1, 2, 3]
    assert server.calls >= 10
    assert "LMAuthError" in nbformat.writes(notebook)
    assert leaks(tmp_path) == {}


def optimized(run_dir: Path, server: Server, **changes: Any) -> nb.OptimizationRun:
    server.refuses = False
    with dspy.context(lm=lm_of(server, **changes)):
        return nb.optimize(
            classifier(), trainset=reviews(4), metric=METRIC, optimizer="BootstrapFewShot", run_dir=run_dir
        )


def test_another_endpoint_is_another_run_and_another_key_is_not(tmp_path: Path, server: Server) -> None:
    optimized(tmp_path, server)
    optimized(
        tmp_path, server, user="LEAK-user:LEAK-other", api_key="LEAK-new", headers={"X-Gate": "LEAK-new"}
    )
    with pytest.raises(nb.InputError, match="models changed"):
        optimized(tmp_path, server, api_base="http://127.0.0.1:1/v1")
    with pytest.raises(nb.InputError, match="models changed"):
        optimized(tmp_path, server, extra_body={"inner": "LEAK-inside"})
    assert leaks(tmp_path) == {}


def test_a_run_of_an_earlier_version_goes_on_and_its_manifest_loses_what_it_held_in_clear(
    tmp_path: Path, server: Server
) -> None:
    made_with = {"temperature": 0.7, "extra_body": {"inner": "LEAK-inner"}}
    optimized(tmp_path, server, **made_with)
    file, lm = tmp_path / "manifest.json", lm_of(server, **made_with)
    manifest = json.loads(file.read_text(encoding="utf-8"))
    clear = {
        name: str(value) for name, value in lm.kwargs.items() if "key" not in name and "header" not in name
    }
    models = [{"model": "openai/m", "engine": "auto", "parameters": clear}]
    earlier = {**manifest, "schema_version": 1, "models": models}
    file.write_text(json.dumps(earlier), encoding="utf-8")
    assert leaks(tmp_path) != {}
    calls = server.calls
    optimized(tmp_path, server, **made_with)
    assert server.calls == calls
    assert leaks(tmp_path) == {}
    assert json.loads(file.read_text(encoding="utf-8")) == manifest
    file.write_text(json.dumps({**earlier, "models": 3}), encoding="utf-8")
    with pytest.raises(nb.InputError, match="damaged"):
        optimized(tmp_path, server, **made_with)


def test_descriptions_hold_sampling_options_alone() -> None:
    described = json.dumps(describe_lm(dspy.LM("openai/m", temperature=0.3, **MADE_WITH)))
    described += json.dumps(describe_program(dspy.Predict("q -> a", auth_token="LEAK-config", top_p=0.5)))
    assert "LEAK" not in described
    assert '"temperature": "0.3"' in described
    assert '"top_p": "0.5"' in described
