"""Files and folders are there whole or not at all, and errors of the disk are told."""

import errno
from pathlib import Path

import pytest

from csm_ft.atomic import (
    append_line,
    appending,
    describe_disk,
    disk_errors,
    exclusive,
    recover,
    whole_file,
    whole_folder,
    write_whole,
)
from csm_ft.errors import ConfigError, MachineError


def test_a_failure_leaves_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "best"
    with whole_folder(path) as draft:
        (draft / "a").write_text("old")

    def fail() -> None:
        with whole_folder(path) as draft:
            (draft / "a").write_text("new")
            raise OSError(errno.ENOSPC, "disk full")

    with pytest.raises(MachineError, match="disk full"):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["best"]
    assert (path / "a").read_text() == "old"


@pytest.mark.parametrize("moment", ["draft written", "old moved away", "new in place"])
def test_a_kill_leaves_old_or_new(tmp_path: Path, moment: str) -> None:
    path, draft, old = tmp_path / "best", tmp_path / ".best.draft", tmp_path / ".best.old"
    for folder, text in ((path, "old"), (draft, "new")):
        folder.mkdir()
        (folder / "a").write_text(text)
    if moment != "draft written":
        path.rename(old)
    if moment == "new in place":
        draft.rename(path)
    recover(path)
    assert [p.name for p in tmp_path.iterdir()] == ["best"]
    assert (path / "a").read_text() == ("new" if moment == "new in place" else "old")


def test_text_is_written_whole(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", "one")
    write_whole(tmp_path / "a.txt", "two")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "two")]


def test_a_failed_file_leaves_the_old_one(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", "old")

    def fail() -> None:
        with whole_file(tmp_path / "a.txt") as draft:
            draft.write_text("new")
            raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        fail()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "old")]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_disk_errors_name_the_disk(tmp_path: Path, number: int) -> None:
    path = tmp_path / "not" / "there" / "tokens.hdf5"
    with pytest.raises(MachineError) as error, disk_errors(path):
        raise OSError(number, "what the system says")
    assert str(error.value).startswith(
        f"{path} could not be written: what the system says ({describe_disk(tmp_path)[:6]}"
    )
    mount = next(folder for folder in tmp_path.parents if folder.is_mount())
    assert f"disk {mount}, " in str(error.value)
    assert "MB free" in str(error.value)
    assert isinstance(error.value.__cause__, OSError)


def test_library_errors_are_not_the_disks(tmp_path: Path) -> None:
    """Hub and model libraries raise OSError without a number for a missing file of a model."""
    with pytest.raises(OSError, match="no file named") as error, disk_errors(tmp_path):
        raise OSError("no file named model.safetensors")
    assert not isinstance(error.value, MachineError)


@pytest.mark.parametrize("error", [FileNotFoundError(2, "no such file"), KeyError("a bug")])
def test_other_errors_stay_as_they_are(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)), disk_errors(tmp_path):
        raise error


def test_a_folder_is_held_once(tmp_path: Path) -> None:
    lock = tmp_path / "new" / ".lock"
    held = pytest.raises(ConfigError, match="held already")
    with exclusive(lock, "held already"), held, exclusive(lock, "held already"):
        pass
    with exclusive(lock, "held already"):
        assert lock.exists()


def test_a_lock_in_a_forbidden_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", forbidden)
    with pytest.raises(MachineError, match="Permission denied"), exclusive(tmp_path / "l", "held"):
        pass


FULL = Path("/dev/full")  # every write to it fails as on a full disk


def test_what_a_full_disk_took_of_a_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append_line(path, "whole")

    def fail() -> None:
        with appending(path), path.open("a") as file:
            file.write("tor")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(MachineError, match=r"lines could not be written: No space left .*disk /"):
        fail()
    assert path.read_text() == "whole\n"
    append_line(path, "älso whole")
    assert path.read_text(encoding="utf-8") == "whole\nälso whole\n"


def test_a_line_for_a_full_disk_names_it(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.symlink_to(FULL)
    with pytest.raises(MachineError, match=r"lines could not be written: No space left .*disk /"):
        append_line(path, "line")
