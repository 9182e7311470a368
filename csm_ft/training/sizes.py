"""How large a run is: what it saves, and what of it lies in the device's memory all the time."""

from pathlib import Path

from torch import Tensor

from csm_ft.config.train import TrainConfig
from csm_ft.families import open_family
from csm_ft.families.model import SpeechModel
from csm_ft.families.stores import open_tokens
from csm_ft.runs.checkpoint import weights_bytes
from csm_ft.runs.sizes import Sizes
from csm_ft.training.optim import choose_parameters
from csm_ft.training.precision import cast_weights
from csm_ft.training.resolve import resolve

_STATES = {"adamw": 2, "adamw8bit": 2, "schedulefree": 3}  # tensors per trained weight
_SMALLEST_IN_8_BITS, _BLOCK, _SCALE_BYTES = 4096, 256, 4  # of torchao's optimisers


def measure_sizes(config: TrainConfig) -> Sizes:
    """Return the sizes of a run without its weights; UserError as for the run itself."""
    store = open_tokens(Path(config.data), config.family, in_memory=False)
    family = open_family(config.family)
    config = resolve(config, store, family)
    model = family.empty_model(config, store)
    choose_parameters(model, family, config)
    cast_weights(model, config)
    return sizes_of(model, config)


def sizes_of(model: SpeechModel, config: TrainConfig) -> Sizes:
    """Return the sizes of a run of this model."""
    trained = [p for p in model.parameters() if p.requires_grad]
    trained_bytes = sum(p.numel() * p.element_size() for p in trained)
    optimizer_bytes = sum(_STATES[config.optimizer] * _state_bytes(p, config) for p in trained)
    optimizer_bytes += trained_bytes if config.ema_decay else 0
    all_bytes = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    return Sizes(
        weights_bytes=weights_bytes(model),
        optimizer_bytes=optimizer_bytes,
        memory_bytes=all_bytes + trained_bytes + optimizer_bytes,
    )


def _state_bytes(parameter: Tensor, config: TrainConfig) -> int:
    """Return the bytes of one tensor of the optimiser's state."""
    count = parameter.numel()
    is_8bit = config.optimizer == "adamw8bit"
    if is_8bit and count >= _SMALLEST_IN_8_BITS and count % _BLOCK == 0:
        return count + count // _BLOCK * _SCALE_BYTES
    return count * parameter.element_size()
