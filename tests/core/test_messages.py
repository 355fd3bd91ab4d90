# ruff: noqa: E501
"""What is written by hand or found on a disk, and is wrong: the one line that says so, for each way to be wrong."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from dspy_nb.cli.configuration import find_configuration
from dspy_nb.core.deployment.canary_log import CanaryRules
from dspy_nb.core.deployment.history import EnvironmentState
from dspy_nb.core.deployment.objectives import MonitorSettings, load_settings
from dspy_nb.core.deployment.restrictions import load_restrictions
from dspy_nb.core.errors import DspyNbError
from dspy_nb.core.models.promotion import load_requirements
from dspy_nb.core.models.stages import ModelState
from dspy_nb.core.optimization.presets import list_presets
from dspy_nb.core.pipeline.gate import QualityGate
from dspy_nb.core.pipeline.pipeline import PipelineRules
from dspy_nb.core.storage.entry import Entry, seal, verified
from dspy_nb.core.storage.files import dump_json
from dspy_nb.core.supervision.budget import Budget


@contextlib.contextmanager
def refused(message: str) -> Iterator[None]:
    """Expect an error of our own with exactly this message."""
    with pytest.raises(DspyNbError) as caught:
        yield
    assert str(caught.value) == message


@pytest.fixture
def file(workplace: Path) -> Path:
    """A file that the messages name without a folder."""
    return Path("t.toml")


# -- tables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "message"), [
    ("x = 1", "t.toml: preset 'x' must be a table of optimizer, options, description, recommended_for, not a whole number"),
    ("[x]", "t.toml: preset 'x': optimizer is missing"),
    ("[x]\noptimizer = 3", "t.toml: preset 'x': optimizer must be text, not a whole number"),
    ("[x]\noptimizer = 'COPRO'\nmodel = 1", "t.toml: preset 'x': 'model' is none of optimizer, options, description, recommended_for"),
    ("[x]\noptimizer = 'COPRO'\noptions = 3", "t.toml: preset 'x': options must be a table, not a whole number"),
    ("[x]\noptimizer = 'COPRO'\ndescription = []", "t.toml: preset 'x': description must be text, not a list"),
    ("[x]\noptimizer = 'COPRO'\nrecommended_for = 'all'", "t.toml: preset 'x': recommended_for must be a list, not text"),
    ("[x", "t.toml is not valid TOML: Expected ']' at the end of a table declaration (at end of document)"),
    ("x = 1\nx = 2", "t.toml is not valid TOML: Cannot overwrite a value (at end of document)"),
])  # fmt: skip
def test_presets(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with refused(message):
        list_presets(file)


@pytest.mark.parametrize(("text", "message"), [
    ("promotion = 3", "t.toml: promotion is not a table"),
    ("[promotion.live]\nrequire = []", "t.toml: promotion.live is not a stage: use one of development, staging, production, deprecated, archived"),
    ("[promotion]\nproduction = 3", "t.toml: promotion.production must be a table of require, not a whole number"),
    ("[promotion.production]\nneed = []", "t.toml: promotion.production: 'need' is none of require"),
    ("[promotion.production]\nrequire = 'gate'", "t.toml: promotion.production: require must be a list of evaluation, verdict, gate, ab, not text"),
    ("[promotion.production]\nrequire = ['proof']", "t.toml: promotion.production: require[0]: 'proof' is none of evaluation, verdict, gate, ab"),
    ("[promotion.production]\nrequire = [3]", "t.toml: promotion.production: require[0] must be one of evaluation, verdict, gate, ab, not a whole number"),
    ("[promotion.production]\nrequire = ['gate']\nx = 1", "t.toml: promotion.production: 'x' is none of require"),
    ("environments = 3", "t.toml: environments is not a table"),
    ("[environments.'a/b']\n", "t.toml: environment 'a/b' is not valid: use 1 to 100 letters, digits, '.', '_' or '-', starting with a letter or digit and not ending with '.'"),
    ("[environments]\nproduction = 3", "t.toml: environments.production must be a table of models, stages, lms, not a whole number"),
    ("[environments.staging]\nmodel = ['m']", "t.toml: environments.staging: 'model' is none of models, stages, lms"),
    ("[environments.staging]\nmodels = 'm'", "t.toml: environments.staging: models must be a list or nothing, not text"),
    ("[environments.staging]\nlms = [1]", "t.toml: environments.staging: lms[0] must be text, not a whole number"),
    ("[environments.staging]\nstages = ['live']", "t.toml: environments.staging: stages[0]: 'live' is none of development, staging, production, deprecated, archived"),
    ("monitor = 3", "t.toml: monitor is not a table"),
    ("[monitor.'a/b']\n", "t.toml: environment 'a/b' is not valid: use 1 to 100 letters, digits, '.', '_' or '-', starting with a letter or digit and not ending with '.'"),
    ("[monitor]\nstaging = 3", "t.toml: monitor.staging must be a table of level, margin, false_alarm, max_latency_ms, latency_share, max_error_rate, min_requests, wait_s, rollback, webhook, timeout_s"),
    ("[monitor.staging]\nlevle = 0.9", "t.toml: monitor.staging: 'levle' is none of level, margin, false_alarm, max_latency_ms, latency_share, max_error_rate, min_requests, wait_s, rollback, webhook, timeout_s"),
    ("[monitor.staging]\nlevel = 90", "t.toml: monitor.staging: level must be a finite number in (0, 1), got 90"),
    ("[monitor.production]\nfalse_alarm = 0", "t.toml: monitor.production: false_alarm must be a finite number in (0, 1), got 0"),
    ("[monitor.staging]\nrollback = 'yes'", "t.toml: monitor.staging: rollback must be true or false, got 'yes'"),
    ("[monitor.staging]\nwebhook = 'file:///etc/passwd'", "t.toml: monitor.staging: webhook must be an address such as https://host/path; this one begins with neither http:// nor https://"),
    ("[monitor.staging]\nwebhook = 3", "t.toml: monitor.staging: webhook must be an address such as https://host/path, not a int"),
    ("[monitor.staging]\nmax_latency_ms = -1", "t.toml: monitor.staging: max_latency_ms must be a finite number in (0, inf), got -1"),
    ("[monitor.staging]\nmin_requests = 1.5", "t.toml: monitor.staging: min_requests must be a whole number of at least 0, got 1.5"),
    ("[monitor.staging]\nmargin = '0.1'", "t.toml: monitor.staging: margin must be a finite number in [0, 1], got '0.1'"),
    ("[monitor.staging]\nwait_s = nan", "t.toml: monitor.staging: wait_s must be a finite number in [0, inf], got nan"),
    ("[promotion", "t.toml is not valid TOML: Expected ']' at the end of a table declaration (at end of document)"),
])  # fmt: skip
def test_the_config_of_a_registry(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with refused(message):
        load_requirements(file)
        load_restrictions(file, "production")
        load_settings(file, "production")


@pytest.mark.parametrize(("kind", "given", "message"), [
    (MonitorSettings, {"level": 1}, "level must be a finite number in (0, 1), got 1"),
    (MonitorSettings, {"level": "x"}, "level must be a finite number in (0, 1), got 'x'"),
    (MonitorSettings, {"max_error_rate": 0}, "max_error_rate must be a finite number in (0, 1), got 0"),
    (MonitorSettings, {"false_alarm": 1}, "false_alarm must be a finite number in (0, 1), got 1"),
    (MonitorSettings, {"latency_share": 1.5}, "latency_share must be a finite number in (0, 1), got 1.5"),
    (MonitorSettings, {"margin": -0.1}, "margin must be a finite number in [0, 1], got -0.1"),
    (MonitorSettings, {"max_latency_ms": 0}, "max_latency_ms must be a finite number in (0, inf), got 0"),
    (MonitorSettings, {"min_requests": -1}, "min_requests must be a whole number of at least 0, got -1"),
    (MonitorSettings, {"min_requests": "many"}, "min_requests must be a whole number of at least 0, got 'many'"),
    (MonitorSettings, {"wait_s": math.inf}, "wait_s must be a finite number in [0, inf], got inf"),
    (MonitorSettings, {"timeout_s": 0}, "timeout_s must be a finite number in (0, 600), got 0"),
    (MonitorSettings, {"timeout_s": 601}, "timeout_s must be a finite number in (0, 600), got 601"),
    (MonitorSettings, {"rollback": 1}, "rollback must be true or false, got 1"),
    (MonitorSettings, {"webhook": "ftp://x"}, "webhook must be an address such as https://host/path; this one begins with neither http:// nor https://"),
    (MonitorSettings, {"webhook": b"x"}, "webhook must be an address such as https://host/path, not a bytes"),
    (CanaryRules, {"share": 0}, "share must be a finite number in (0, 1), got 0"),
    (CanaryRules, {"share": "x"}, "share must be a finite number in (0, 1), got 'x'"),
    (CanaryRules, {"steps": []}, "steps must be shares such as 0.25, 0.5, 1, got []"),
    (CanaryRules, {"steps": "abc"}, "steps must be shares such as 0.25, 0.5, 1, got 'abc'"),
    (CanaryRules, {"steps": 3}, "steps must be shares such as 0.25, 0.5, 1, got 3"),
    (CanaryRules, {"steps": [0.5]}, "shares must rise to 1, got 0.05, 0.5"),
    (CanaryRules, {"steps": [0.5, "x"]}, "steps must be a finite number in [0, 1], got 'x'"),
    (CanaryRules, {"steps": [0.5, 2]}, "steps must be a finite number in [0, 1], got 2"),
    (CanaryRules, {"steps": [0.5, 0.25, 1]}, "shares must rise to 1, got 0.05, 0.5, 0.25, 1"),
    (CanaryRules, {"margin": 0}, "margin must be a finite number in (0, 1), got 0"),
    (CanaryRules, {"margin": None}, "margin must be a finite number in (0, 1), got None"),
    (CanaryRules, {"confidence": 1}, "confidence must be a finite number in (0, 1), got 1"),
    (CanaryRules, {"min_requests": 0}, "min_requests must be a whole number of at least 1, got 0"),
    (CanaryRules, {"wait_s": -1}, "wait_s must be a finite number in [0, inf], got -1"),
    (PipelineRules, {"margin": 2}, "margin must be a finite number in [0, 1], got 2"),
    (PipelineRules, {"margin": "x"}, "margin must be a finite number in [0, 1], got 'x'"),
    (PipelineRules, {"confidence": 0}, "confidence must be a finite number in (0, 1), got 0"),
    (PipelineRules, {"inconclusive": "maybe"}, "inconclusive must be 'refuse' or 'ship', got 'maybe'"),
    (PipelineRules, {"inconclusive": None}, "inconclusive must be 'refuse' or 'ship', got None"),
    (PipelineRules, {"staging": "a/b"}, "environment 'a/b' is not valid: use 1 to 100 letters, digits, '.', '_' or '-', starting with a letter or digit and not ending with '.'"),
    (PipelineRules, {"production": 3}, "environment 3 is not valid: use 1 to 100 letters, digits, '.', '_' or '-', starting with a letter or digit and not ending with '.'"),
    (PipelineRules, {"staging": "production"}, "staging and production are both 'production': they must differ"),
    (QualityGate, {}, "a gate needs at least one condition: min_score, max_error_rate, max_latency_p95_ms, max_usd_per_call, min_n, per_class, not_worse_than"),
    (QualityGate, {"min_score": 2}, "min_score must be a finite number in [0, 1], got 2"),
    (QualityGate, {"min_score": "x"}, "min_score must be a finite number in [0, 1], got 'x'"),
    (QualityGate, {"max_error_rate": -1}, "max_error_rate must be a finite number in [0, 1], got -1"),
    (QualityGate, {"margin": 2}, "margin must be a finite number in [0, 1], got 2"),
    (QualityGate, {"max_latency_p95_ms": -1}, "max_latency_p95_ms must be a finite number in [0, inf], got -1"),
    (QualityGate, {"max_usd_per_call": math.inf}, "max_usd_per_call must be a finite number in [0, inf], got inf"),
    (QualityGate, {"min_n": 0}, "min_n must be a whole number of at least 1, got 0"),
    (QualityGate, {"min_n": 1.5}, "min_n must be a whole number of at least 1, got 1.5"),
    (QualityGate, {"on": "all", "min_n": 1}, "on must be 'interval' or 'score', got 'all'"),
    (QualityGate, {"not_worse_than": 3}, "not_worse_than is an Evaluation or a version of a model, not a int"),
    (QualityGate, {"per_class": 3}, "per_class must be a dict such as {'positive': {'recall': 0.7}}, not a int"),
    (QualityGate, {"per_class": {"a": 0.5}}, "per_class['a'] must be a dict of floors, such as {'positive': {'recall': 0.7}}"),
    (QualityGate, {"per_class": {"a": {}}}, "per_class['a'] must be a dict of floors, such as {'positive': {'recall': 0.7}}"),
    (QualityGate, {"per_class": {3: {"f1": 0.5}}}, "per_class[3] must be a dict of floors, such as {'positive': {'recall': 0.7}}"),
    (QualityGate, {"per_class": {"a": {"f2": 0.5}}}, "per_class['a']: there is no 'f2', but precision, recall, f1"),
    (QualityGate, {"per_class": {"a": {"f1": 2}}}, "per_class['a']['f1'] must be a finite number in [0, 1], got 2"),
    (QualityGate, {"per_class": {"a": {"f1": "x"}}}, "per_class['a']['f1'] must be a finite number in [0, 1], got 'x'"),
    (Budget, {"lm_calls": 0}, "budget: lm_calls=0 is not a positive whole number"),
    (Budget, {"lm_calls": 1.5}, "budget: lm_calls=1.5 is not a positive whole number"),
    (Budget, {"lm_calls": True}, "budget: lm_calls=True is not a positive whole number"),
    (Budget, {"seconds": 0}, "budget: seconds=0 is not a positive number"),
    (Budget, {"seconds": "x"}, "budget: seconds='x' is not a positive number"),
    (Budget, {"tokens": -1}, "budget: tokens=-1 is not a positive whole number"),
    (Budget, {"usd": math.nan}, "budget: usd=nan is not a positive number"),
    (Budget, {"call_seconds": False}, "budget: call_seconds=False is not a positive number"),
    (Budget, {"grace": -1}, "budget: grace=-1 is not a number of seconds, 0 or more"),
    (Budget, {"grace": None}, "budget: grace=None is not a number of seconds, 0 or more"),
    (Budget, {"grace": True}, "budget: grace=True is not a number of seconds, 0 or more"),
])  # fmt: skip
def test_settings(kind: type, given: dict[str, Any], message: str) -> None:
    if kind is PipelineRules:
        given = {"gate": QualityGate(min_score=0.5), **given}
    with refused(message):
        canary_rules(**given) if kind is CanaryRules else kind(**given)


def canary_rules(**given: Any) -> CanaryRules:
    usual = {
        "share": 0.05,
        "steps": None,
        "margin": 0.05,
        "confidence": 0.95,
        "min_requests": 20,
        "wait_s": 3600,
    }
    return CanaryRules.checked(**{**usual, **given})


@pytest.mark.parametrize(("text", "message"), [
    ("lr = 1", "t.toml: 'lr': no such key; valid: confidence, inputs, lm, metric, model_id, num_threads, program, registry, seed, test_data, train_data, val_data, [gate], [tune]"),
    ("seed = 'many'", "t.toml: seed: 'many' is not a valid integer."),
    ("[tune]\nsede = 1", "t.toml: 'tune.sede': dspy-nb tune has no such option; valid: seed, option, dry_run, model_id, save_as, bump"),
    ("[gate]\nmax = 1", "t.toml: 'gate.max': dspy-nb gate has no such option; valid: min"),
    ("[tune]\nseed = 'many'", "t.toml: tune.seed: 'many' is not a valid integer."),
    ("[tune]\nseed = [1]", "t.toml: tune.seed: a text or a number, not [1]"),
    ("[tune]\ndry_run = 1", "t.toml: tune.dry_run: true or false, not 1"),
    ("[tune]\nbump = 'huge'", "t.toml: tune.bump: 'huge' is not one of 'minor', 'major'."),
    ("[tune]\nmodel_id = 'a'\nsave-as = 'b'", "t.toml: tune.save-as is given twice"),
    ("[tune]\noption = [[1]]", "t.toml: tune.option: a text or a number, not [1]"),
    ("[tune.option]\na = {}\n[tune.seed]", "t.toml: tune.seed: a text or a number, not {}"),
    ("seed = ", "t.toml is not valid TOML: Invalid value (at end of document)"),
])  # fmt: skip
def test_the_defaults_of_a_command(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    given: list[click.Parameter] = [
        click.Option(["--seed"], type=int),
        click.Option(["--option"], metavar="NAME=VALUE", multiple=True),
        click.Option(["--dry-run"], is_flag=True),
        click.Option(["--model-id", "--save-as"]),
        click.Option(["--bump"], type=click.Choice(["minor", "major"])),
    ]
    commands = {
        "tune": click.Command("tune", params=given),
        "gate": click.Command("gate", params=[click.Option(["--min"])]),
    }
    with refused(message):
        found = find_configuration("t.toml")
        assert found is not None
        found.defaults("tune", commands)


# -- logs -------------------------------------------------------------------------------------------------------

SHA = "0" * 64
FILES = {name: {"sha256": SHA, "size": 1} for name in ("model.json", "metadata.json", "README.md")}
SUMMARY = {
    "score": 0.5, "interval": [0.4, 0.6], "score_kind": "test", "optimizer": None, "base_model": None,
    "created_at": "now", "parent": None,
}  # fmt: skip
REGISTER = {"version": "1.0.0", "files": FILES, "summary": SUMMARY, "reason": None}
PROMOTE = {
    "version": "1.0.0", "from": "development", "to": "staging", "demoted": None, "evidence": None, "forced": False,
    "reason": None,
}  # fmt: skip
ARCHIVE = {"versions": ["1.0.0"], "reason": None}
ATTACH = {"version": "1.0.0", "evidence": {"kind": "gate"}, "reason": None}
DEPLOY = {
    "model_id": "m", "version": "1.0.0", "replaced": None, "steps": None, "evidence": None, "reason": None,
}  # fmt: skip
NEXT = {**DEPLOY, "replaced": "m@1.0.0", "version": "1.1.0"}
BACK = {**DEPLOY, "replaced": "m@1.1.0", "steps": 1}
RULES = CanaryRules().to_dict()
START = {**DEPLOY, "replaced": "m@1.0.0", "candidate": "m@1.1.0", "share": 0.05, "rules": RULES}
STEP = {**START, "rules": None, "share": 0.25}


def without(body: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != name}


@pytest.mark.parametrize(("before", "action", "body", "message"), [
    ([], "add", {}, "the action 'add' is none of register, promote, archive, attach"),
    ([], "register", without(REGISTER, "files"), "files is missing"),
    ([], "register", {**REGISTER, "x": 1}, "'x' is none of reason, version, files, summary"),
    ([], "register", {**REGISTER, "version": "1"}, "version '1' is not valid: write major.minor.patch such as 1.2.0, or 1.2.0-rc.1"),
    ([], "register", {**REGISTER, "version": 1}, "version must be text, not a whole number"),
    ([("register", REGISTER)], "register", REGISTER, "it registers 1.0.0 a second time"),
    ([], "register", {**REGISTER, "files": []}, "files must be a table of model.json, metadata.json, README.md, evaluation.json, not a list"),
    ([], "register", {**REGISTER, "files": without(FILES, "README.md")}, "files.README.md is missing"),
    ([], "register", {**REGISTER, "files": {**FILES, "x.json": FILES["README.md"]}}, "files: 'x.json' is none of model.json, metadata.json, README.md, evaluation.json"),
    ([], "register", {**REGISTER, "files": {**FILES, "model.json": 3}}, "files.model.json must be a table, not a whole number"),
    ([], "register", {**REGISTER, "files": {**FILES, "model.json": {"sha256": SHA, "size": True}}}, "files.model.json.size must be a whole number, not true or false"),
    ([], "register", {**REGISTER, "files": {**FILES, "model.json": {"sha256": 3, "size": 1}}}, "files.model.json.sha256 must be text, not a whole number"),
    ([], "register", {**REGISTER, "summary": 3}, "summary must be a table of score, interval, score_kind, optimizer, base_model, created_at, parent, not a whole number"),
    ([], "register", {**REGISTER, "summary": without(SUMMARY, "score")}, "summary.score is missing"),
    ([], "register", {**REGISTER, "summary": {**SUMMARY, "x": 1}}, "summary: 'x' is none of score, interval, score_kind, optimizer, base_model, created_at, parent"),
    ([], "register", {**REGISTER, "summary": {**SUMMARY, "score": "x"}}, "summary.score must be a number or nothing, not text"),
    ([], "register", {**REGISTER, "summary": {**SUMMARY, "score": True}}, "summary.score must be a number or nothing, not true or false"),
    ([], "register", {**REGISTER, "summary": {**SUMMARY, "score": 1e15}}, "summary.score must be a number < 1000000000000000.0"),
    ([], "register", {**REGISTER, "summary": {**SUMMARY, "interval": [0.1]}}, "summary.interval must be a list of length 2, not 1"),
    ([], "register", {**REGISTER, "summary": {**SUMMARY, "interval": [0.1, None]}}, "summary.interval[1] must be a number, not nothing"),
    ([], "register", {**REGISTER, "summary": {**SUMMARY, "created_at": None}}, "summary.created_at must be text, not nothing"),
    ([], "register", {**REGISTER, "summary": {**SUMMARY, "parent": 3}}, "summary.parent must be text or nothing, not a whole number"),
    ([], "register", {**REGISTER, "reason": 3}, "reason must be text or nothing, not a whole number"),
    ([], "promote", PROMOTE, "it names the version '1.0.0', which was not registered before"),
    ([("register", REGISTER)], "promote", {**PROMOTE, "version": 3}, "version must be text, not a whole number"),
    ([("register", REGISTER)], "promote", {**PROMOTE, "to": "live"}, "to: 'live' is none of development, staging, production, deprecated, archived"),
    ([("register", REGISTER)], "promote", {**PROMOTE, "to": 3}, "to must be one of development, staging, production, deprecated, archived, not a whole number"),
    ([("register", REGISTER)], "promote", {**PROMOTE, "from": "staging"}, "it promotes 1.0.0 from development to 'staging'"),
    ([("register", REGISTER)], "promote", {**PROMOTE, "to": "development"}, "it promotes 1.0.0 from development to 'development'"),
    ([("register", REGISTER)], "promote", {**PROMOTE, "demoted": "1.0.0"}, "it demotes 1.0.0, but None is in production"),
    ([("register", REGISTER)], "promote", {**PROMOTE, "forced": 1}, "forced must be true or false, not a whole number"),
    ([("register", REGISTER)], "promote", {**PROMOTE, "evidence": 3}, "evidence must be a table or nothing, not a whole number"),
    ([("register", REGISTER)], "promote", {**PROMOTE, "reason": []}, "reason must be text or nothing, not a list"),
    ([("register", REGISTER)], "archive", {**ARCHIVE, "versions": []}, "it archives nothing"),
    ([("register", REGISTER)], "archive", {**ARCHIVE, "versions": 3}, "versions must be a list, not a whole number"),
    ([("register", REGISTER)], "archive", {**ARCHIVE, "versions": [3]}, "versions[0] must be text, not a whole number"),
    ([("register", REGISTER)], "archive", {**ARCHIVE, "versions": ["2.0.0"]}, "it names the version '2.0.0', which was not registered before"),
    ([("register", REGISTER)], "archive", {**ARCHIVE, "versions": ["1.0.0", "1.0.0"]}, "it archives a version twice"),
    ([("register", REGISTER), ("archive", ARCHIVE)], "archive", ARCHIVE, "it archives 1.0.0, which is in archived"),
    ([("register", REGISTER)], "attach", {**ATTACH, "evidence": None}, "evidence must be a table, not nothing"),
    ([("register", REGISTER)], "attach", {**ATTACH, "version": "2.0.0"}, "it names the version '2.0.0', which was not registered before"),
    ([("register", REGISTER)], "attach", {**ATTACH, "reason": 3}, "reason must be text or nothing, not a whole number"),
    ([], "push", DEPLOY, "the action 'push' is none of deploy, rollback, canary-start, canary-step, canary-finish, canary-rollback, canary-abort"),
    ([], "deploy", without(DEPLOY, "steps"), "steps is missing"),
    ([], "deploy", {**DEPLOY, "x": 1}, "'x' is none of model_id, version, replaced, steps, evidence, reason"),
    ([], "deploy", {**DEPLOY, "model_id": "a/b"}, "model id 'a/b' is not valid: use 1 to 100 letters, digits, '.', '_' or '-', starting with a letter or digit and not ending with '.'"),
    ([], "deploy", {**DEPLOY, "version": 1}, "version must be text, not a whole number"),
    ([], "deploy", {**DEPLOY, "replaced": "m@1.0.0"}, "it does not replace what was live before"),
    ([("deploy", DEPLOY)], "deploy", {**NEXT, "version": "1.0.0"}, "m@1.0.0 cannot follow m@1.0.0"),
    ([("deploy", DEPLOY)], "deploy", {**NEXT, "steps": 1}, "m@1.1.0 cannot follow m@1.0.0"),
    ([], "deploy", {**DEPLOY, "reason": 3}, "reason must be text or nothing, not a whole number"),
    ([], "deploy", {**DEPLOY, "evidence": []}, "evidence must be a table or nothing, not a list"),
    ([("deploy", DEPLOY), ("deploy", NEXT)], "rollback", {**BACK, "steps": 2}, "m@1.0.0 cannot follow m@1.1.0"),
    ([("deploy", DEPLOY), ("deploy", NEXT)], "rollback", {**BACK, "steps": True}, "steps must be a whole number or nothing, not true or false"),
    ([("deploy", DEPLOY), ("deploy", NEXT)], "rollback", {**BACK, "steps": None}, "m@1.0.0 cannot follow m@1.1.0"),
    ([], "canary-start", {**START, "replaced": None}, "a canary needs a version that is live"),
    ([("deploy", DEPLOY)], "canary-start", {**START, "share": 0.06}, "canary-start of m@1.1.0 with share 0.06 cannot follow"),
    ([("deploy", DEPLOY)], "canary-start", {**START, "share": 'x'}, "share must be a number, not text"),
    ([("deploy", DEPLOY)], "canary-start", {**START, "candidate": 'm@1.0.0'}, "canary-start of m@1.0.0 with share 0.05 cannot follow"),
    ([("deploy", DEPLOY)], "canary-start", {**START, "candidate": '../x'}, "model id '../x' is not valid: use 1 to 100 letters, digits, '.', '_' or '-', starting with a letter or digit and not ending with '.'"),
    ([("deploy", DEPLOY)], "canary-start", {**START, "candidate": None}, "candidate must be text, not nothing"),
    ([("deploy", DEPLOY)], "canary-start", {**START, "version": '1.1.0'}, "canary-start of m@1.1.0 with share 0.05 cannot follow"),
    ([("deploy", DEPLOY)], "canary-start", {**START, "replaced": 'm@1.2.0'}, "it does not replace what was live before"),
    ([("deploy", DEPLOY)], "canary-start", {**START, "steps": 1}, "a canary needs a version that is live"),
    ([("deploy", DEPLOY)], "canary-start", {**START, "rules": None}, "no canary was running"),
    ([("deploy", DEPLOY)], "canary-start", {**START, "rules": {}}, "these are no rules of a canary"),
    ([("deploy", DEPLOY)], "canary-start", {**START, "reason": 3}, "reason must be text or nothing, not a whole number"),
    ([("deploy", DEPLOY)], "canary-start", {**START, "rules": {**RULES, "plan": []}}, "share must be a finite number in (0, 1), got None"),
    ([("deploy", DEPLOY)], "canary-start", {**START, "rules": {**RULES, "plan": [0.05, 'x']}}, "steps must be a finite number in [0, 1], got 'x'"),
    ([("deploy", DEPLOY)], "canary-start", {**START, "rules": {**RULES, "plan": [0.05]}}, "steps must be shares such as 0.25, 0.5, 1, got []"),
    ([("deploy", DEPLOY)], "canary-start", {**START, "rules": {**RULES, "margin": None}}, "margin must be a finite number in (0, 1), got None"),
    ([("deploy", DEPLOY)], "canary-start", {**START, "rules": {**RULES, "min_requests": 0}}, "min_requests must be a whole number of at least 1, got 0"),
    ([("deploy", DEPLOY)], "canary-start", {**START, "rules": without(RULES, "margin")}, "these are no rules of a canary"),
    ([("deploy", DEPLOY)], "canary-step", STEP, "no canary was running"),
    ([("deploy", DEPLOY)], "canary-abort", {**STEP, "share": 0}, "no canary was running"),
    ([("deploy", DEPLOY), ("canary-start", START)], "deploy", NEXT, "a canary was running"),
    ([("deploy", DEPLOY), ("canary-start", START)], "canary-start", START, "a canary was running"),
    ([("deploy", DEPLOY), ("canary-start", START)], "canary-step", {**STEP, "share": 0.5}, "canary-step of m@1.1.0 with share 0.5 cannot follow"),
    ([("deploy", DEPLOY), ("canary-start", START)], "canary-step", {**STEP, "candidate": "m@1.2.0"}, "canary-step of m@1.2.0 with share 0.25 cannot follow"),
    ([("deploy", DEPLOY), ("canary-start", START)], "canary-finish", {**STEP, "share": 1.0, "version": "1.1.0"}, "canary-finish of m@1.1.0 with share 1 cannot follow"),
    ([("deploy", DEPLOY), ("canary-start", START)], "canary-abort", {**STEP, "share": 0, "version": "1.1.0"}, "canary-abort of m@1.1.0 with share 0 cannot follow"),
])  # fmt: skip
def test_entries_of_logs(before: list[Any], action: str, body: dict[str, Any], message: str) -> None:
    state = EnvironmentState() if "model_id" in body else ModelState()
    for number, (verb, what) in enumerate(before, 1):
        earlier = Entry(number, verb, "now", "me", what, "")
        state.check(earlier)
        state.apply(earlier)
    with refused(
        f"log entry {len(before) + 1} cannot be right: {message}: restore the log from git or a backup"
    ):
        state.check(Entry(len(before) + 1, action, "now", "me", body, ""))


@pytest.mark.parametrize(("change", "message"), [
    ({"torn": True}, "t.json is torn or was edited: restore it from git or a backup"),
    ({"schema_version": None}, "t.json is not a log entry: schema_version must be a whole number, not nothing"),
    ({"schema_version": 0}, "t.json is not a log entry: schema_version must be a whole number >= 1"),
    ({"schema_version": "1"}, "t.json is not a log entry: schema_version must be a whole number, not text"),
    ({"schema_version": 2}, "t.json was written by a newer dspy_nb (schema 2, this reads 1): upgrade"),
    ({"number": 2}, "t.json says that it is entry 2: it was renamed or copied"),
    ({"number": True}, "t.json is not a log entry: number must be a whole number, not true or false"),
    ({"number": "1"}, "t.json is not a log entry: number must be a whole number, not text"),
    ({"previous": "x"}, "t.json does not continue the entry before it: two histories were mixed, keep one branch's log"),
    ({"previous": None}, "t.json is not a log entry: previous must be text, not nothing"),
    ({"action": 3}, "t.json is not a log entry: action must be text, not a whole number"),
    ({"at": None}, "t.json is not a log entry: at must be text, not nothing"),
    ({"by": []}, "t.json is not a log entry: by must be text, not a list"),
])  # fmt: skip
def test_files_of_entries(change: dict[str, Any], message: str) -> None:
    content, _ = seal(1, "", "add", "now", "me", {})
    values = {**json.loads(content), **change}
    values.pop("checksum")
    content = content[:-3] if change.pop("torn", False) else sealed(values)
    with refused(message):
        verified(content, "t.json", 1, "")


def sealed(values: Any) -> bytes:
    text = dump_json(values, "it").removesuffix(b"\n}\n")
    return text + b',\n "checksum": "' + hashlib.sha256(text).hexdigest().encode() + b'"\n}\n'
