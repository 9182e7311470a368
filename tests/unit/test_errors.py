"""Errors that a user can cause are told as such; a bug keeps its traceback."""

import ast
import inspect
from pathlib import Path

import pytest

from csm_ft import errors
from csm_ft.cli import run_program
from csm_ft.errors import Diverged, SweepAborted, UserError

ROOT = Path(__file__).resolve().parents[2]
NOT_A_USERS = {Diverged, SweepAborted}
CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_what_a_user_causes_is_user_error(kind: type[Exception]) -> None:
    assert issubclass(kind, UserError) != (kind in NOT_A_USERS)
    assert kind.__doc__
    assert kind is UserError or kind in NOT_A_USERS or kind.__name__ in str(errors.__doc__)


def test_all_errors_are_defined_together() -> None:
    """No module has a kind of user error of its own."""
    known = {"ValueError", "OSError", *(kind.__name__ for kind in CLASSES)}
    for path in [*ROOT.glob("*.py"), *(ROOT / "csm_ft").rglob("*.py")]:
        if path.name == "errors.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            bases = [ast.unparse(base) for base in getattr(node, "bases", [])]
            assert not known & set(bases), f"{path.name}: {ast.unparse(node)[:60]}"


@pytest.mark.parametrize(
    "kind", [kind for kind in CLASSES if kind not in NOT_A_USERS], ids=lambda kind: kind.__name__
)
def test_a_users_error_is_one_line(
    kind: type[UserError], capsys: pytest.CaptureFixture[str]
) -> None:
    def program() -> int:
        raise kind("batch_size 0 is not above 0")

    assert run_program(program) == 2
    assert capsys.readouterr().err == "error: batch_size 0 is not above 0\n"


@pytest.mark.parametrize("bug", [KeyError("x"), ValueError("x"), OSError(2, "x"), TypeError("x")])
def test_a_bug_keeps_its_traceback(bug: Exception) -> None:
    def program() -> int:
        raise bug

    with pytest.raises(type(bug)) as caught:
        run_program(program)
    assert caught.value is bug
    assert caught.traceback[-1].name == "program"


def test_ctrl_c_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    def program() -> int:
        raise KeyboardInterrupt

    assert run_program(program) == 130
    assert capsys.readouterr().err == ""
    assert run_program(lambda: 7) == 7


def test_diverged_names_the_step_before() -> None:
    error = Diverged(5, "loss of c0")
    assert str(error).startswith("step 5: the loss of c0 is not finite; the weights are those of")
    assert "step 4." in str(error)
    assert error.step == 5
