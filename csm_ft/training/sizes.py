"""How large a run is: what it saves, and what of it lies in the device's memory all the time."""

from pathlib import Path

from csm_ft.config.train import TrainConfig
from csm_ft.families import open_family
from csm_ft.families.model import SpeechModel
from csm_ft.families.stores import open_tokens
from csm_ft.runs.checkpoint import weights_bytes
from csm_ft.runs.sizes import Sizes
from csm_ft.training.optim import choose_parameters
from csm_ft.training.resolve import resolve

_STATES = {"adamw": 2, "schedulefree": 3}  # tensors per trained weight that a checkpoint keeps
_FP32_BYTES = 4


def measure_sizes(config: TrainConfig) -> Sizes:
    """Return the sizes of a run without its weights; UserError as for the run itself."""
    store = open_tokens(Path(config.data), config.family, in_memory=False)
    family = open_family(config.family)
    config = resolve(config, store, family)
    model = family.empty_model(config, store)
    choose_parameters(model, family, config)
    return sizes_of(model, config)


def sizes_of(model: SpeechModel, config: TrainConfig) -> Sizes:
    """Return the sizes of a run of this model."""
    trained = [p for p in model.parameters() if p.requires_grad]
    trained_bytes = sum(p.numel() for p in trained) * _FP32_BYTES
    optimizer_bytes = trained_bytes * _STATES[config.optimizer]
    all_bytes = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    return Sizes(
        weights_bytes=weights_bytes(model),
        optimizer_bytes=optimizer_bytes,
        memory_bytes=all_bytes + trained_bytes + optimizer_bytes,
    )
