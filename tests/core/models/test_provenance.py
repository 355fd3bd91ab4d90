from __future__ import annotations

import subprocess
from pathlib import Path

import dspy

from dspy_nb.core.models.submission import git_commit, package_versions


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_commit_is_the_one_that_git_says(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    (folder / "deep").mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    assert git_commit(folder) is None  # no commit yet
    git(folder, "commit", "-q", "--allow-empty", "-m", "one")
    commit = git(folder, "rev-parse", "HEAD")
    assert git_commit(folder / "deep") == commit
    git(folder, "pack-refs", "--all")
    assert git_commit(folder) == commit
    git(folder, "worktree", "add", "-q", "-b", "other", str(tmp_path / "other"))
    assert git_commit(tmp_path / "other") == commit
    git(folder, "checkout", "-q", "--detach")
    assert git_commit(folder) == commit


def test_what_is_no_repository_has_no_commit(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    assert git_commit(tmp_path) is None
    (tmp_path / ".git" / "HEAD").write_bytes(b"\xff\xfe")
    assert git_commit(tmp_path) is None
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/main")
    assert git_commit(tmp_path) is None


def test_the_packages_that_decide_how_a_program_behaves_are_named() -> None:
    versions = package_versions()
    assert set(versions) == {"python", "dspy", "dspy_nb", "pydantic"}
    assert versions["dspy"] == dspy.__version__
