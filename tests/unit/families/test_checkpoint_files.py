"""State folders of DeepSpeed are answered with the command that converts them."""

from pathlib import Path

import pytest

from csm_ft.errors import WeightsError
from csm_ft.families.checkpoint_files import locate


@pytest.mark.parametrize(
    "names",
    [
        ["zero_to_fp32.py", "latest", "global_step10/mp_rank_00_model_states.pt"],
        ["pytorch_model/zero_pp_rank_0_mp_rank_00_optim_states.pt"],
        ["mp_rank_00_model_states.pt"],
    ],
)
def test_state_folder_names_its_converter(tmp_path: Path, names: list[str]) -> None:
    folder = tmp_path / "step_10"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    command = f"python {folder}/zero_to_fp32.py {folder} {folder}-weights --safe_serialization"
    with pytest.raises(WeightsError, match="a state folder of DeepSpeed") as error:
        locate(str(folder))
    assert command in str(error.value)


def test_converted_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "zero_to_fp32.py").write_text("")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert locate(str(tmp_path)).files == (tmp_path / "model.safetensors",)


def test_folder_of_others_is_none_of_deepspeed(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(WeightsError, match="none of model"):
        locate(str(tmp_path))
