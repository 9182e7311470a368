"""What a node checks before a worker starts there; runs copied from and to it. Without Ray."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from csm_ft.sweep import copying, node
from csm_ft.sweep.copying import Tree, copy
from csm_ft.sweep.node import Need, Node, hash_of_code, pack_code

ROOT = Path(__file__).resolve().parents[3]
CONTENT = b"tokens"


@pytest.fixture
def need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Need:
    """What a sweep on another machine needs of a node with an empty working folder."""
    monkeypatch.setattr(node.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / "mark.txt").write_text("abc")
    digest = hashlib.sha256(CONTENT).hexdigest()
    mark = (str(tmp_path / "mark.txt"), "abc")
    return Need(
        str(ROOT), hash_of_code(ROOT), str(tmp_path), mark, {"d.hdf5": digest}, is_copying=False
    )


def test_shared_folder_with_the_same_data(need: Need, tmp_path: Path) -> None:
    assert Node(need, "a.0").prepare() == "there is no d.hdf5"
    (tmp_path / "d.hdf5").write_bytes(CONTENT)
    assert Node(need, "a.0").prepare() == ""
    (tmp_path / "d.hdf5").write_bytes(b"others")
    assert Node(need, "a.0").prepare().startswith("d.hdf5 has other content there than where")
    (tmp_path / "mark.txt").write_text("another sweep")
    assert "is not shared with it" in Node(need, "a.0").prepare()


def test_node_gets_what_it_lacks(need: Need, tmp_path: Path) -> None:
    here = Node(replace(need, root="/nowhere", is_copying=True), "a.0")
    assert here.prepare() == "missing d.hdf5"
    here.put_piece("d.hdf5", 0, CONTENT[:2], is_last=False)
    assert here.prepare() == "missing d.hdf5"
    here.put_piece("d.hdf5", 2, CONTENT[2:], is_last=True)
    assert here.prepare() == "code"
    here.put_code(pack_code(ROOT, node.CODE))
    assert here.prepare() == ""
    assert here.path_of("d.hdf5").read_bytes() == CONTENT
    assert tmp_path / f"csm-ft-{os.getuid()}" in here.path_of("d.hdf5").parents


def test_copy_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints come and go, drafts stay behind, large files go in pieces."""
    monkeypatch.setattr(copying, "PIECE_BYTES", 10)
    run, there = tmp_path / "run", Tree(tmp_path / "there")
    for step in (1, 2):
        checkpoint = run / "checkpoints" / f"step_{step:06d}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "model.safetensors").write_bytes(bytes(range(25)) * step)
        (run / "metrics.jsonl").write_text(f"{step}\n")
        (run / ".metrics.jsonl.draft").write_text("half")
        (run / "empty").touch()
        assert copy(Tree(run), there)
        assert there.files() == Tree(run).files()
        copied = tmp_path / "there" / "checkpoints" / checkpoint.name / "model.safetensors"
        assert copied.read_bytes() == bytes(range(25)) * step
        (checkpoint / "model.safetensors").unlink()
        checkpoint.rmdir()
    assert copy(Tree(run), there)
    assert sorted(there.files()) == ["empty", "metrics.jsonl"]
    assert not (tmp_path / "there" / "checkpoints").exists()


def test_file_that_is_replaced_meanwhile_changes_nothing(tmp_path: Path) -> None:
    run, there = Tree(tmp_path / "run"), Tree(tmp_path / "there")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a").write_text("new")

    class Vanishing(Tree):
        def read(self, name: str, offset: int) -> bytes:
            (tmp_path / "run" / name).unlink()
            return super().read(name, offset)

    assert not copy(Vanishing(tmp_path / "run"), there)
    assert there.files() == {}
    assert run.files() == {}
