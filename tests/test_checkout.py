import subprocess
from pathlib import Path

from clinreadnet.checkout import git_commit


def test_the_commit_is_that_of_the_checkout(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "one"], check=True)
    commit = git_commit(tmp_path)
    assert commit is not None and len(commit) == 40
