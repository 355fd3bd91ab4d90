"""Files that are written whole or not at all, and that others may read as they may read any other."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from dspy_nb.core.storage.files import replace_file, write_file


@pytest.fixture
def umask():
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_a_replaced_file_may_be_read_by_whom_the_umask_lets(
    tmp_path: Path, umask, mask: int, mode: int
) -> None:
    umask(mask)
    write_file(tmp_path / "created", b"1")
    replace_file(tmp_path / "replaced", b"1")
    replace_file(tmp_path / "replaced", b"2")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"created": mode, "replaced": mode}
    assert (tmp_path / "replaced").read_bytes() == b"2"


def test_what_cannot_be_replaced_stays_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "taken"
    folder.mkdir()
    with pytest.raises(OSError, match="taken"):
        replace_file(folder, b"1")
    assert list(tmp_path.iterdir()) == [folder]
