"""The first group of options of train.py: data, weights, folder and machine of a run."""

from typing import Literal, Self

from pydantic import model_validator

from csm_ft.config.base import Options, option


class RunOptions(Options):
    """What is trained from what, where."""

    data: str = option(
        "./data/tokens.hdf5",
        "Token file written by pretokenize.py.",
        group="run",
        path=True,
        trains=False,
    )
    output_dir: str = option(
        "auto",
        "Run folder; an existing run in it is resumed. auto = exp/<data>-<hash of the config>.",
        group="run",
        path=True,
        trains=False,
    )
    family: str = option("auto", "Model family; auto = that of the token file.", group="run")
    model_name_or_checkpoint_path: str = option(
        "auto",
        "Weights to start from: hub name, folder, run folder or file; auto = the base model for the"
        " token file.",
        group="run",
        path=True,
    )
    train_from_scratch: bool = option(
        False, "Start from random weights of the chosen size.", group="run"
    )
    resume: bool = option(
        True,
        "Resume from the last checkpoint in output_dir; false = rename the old run's folder and"
        " start a new run.",
        group="run",
        trains=False,
    )
    profile: int = option(
        0,
        "Trace so many steps after the first ones with torch's profiler, into profile/ of the run"
        " folder; 0 = none.",
        group="run",
        trains=False,
        ge=0,
    )
    dry_run: bool = option(
        False,
        "Only tell what the run would need: steps, hours, disk, memory, and on which GPU it fits"
        " with which options. Loads no weights, starts and writes nothing.",
        group="run",
        trains=False,
    )
    dry_run_gpus: int = option(
        0,
        "With dry_run: GPUs that share the run, by --parallel; 0 = as many as torchrun starts.",
        group="run",
        trains=False,
        ge=0,
    )
    data_fraction: float = option(
        1.0,
        "Share of the training data to use, the same of each speaker, conversations whole. It is"
        " drawn by seed, and is a part of every larger share; validation stays as it is.",
        group="run",
        gt=0,
        le=1,
    )
    replay: str = option(
        "",
        "DATA:SHARE, as general.hdf5:0.5: add training examples of another token file to every"
        " step, this share of them all, against forgetting. Epochs and examples are of --data.",
        group="run",
        path=True,
    )
    canary: str = option(
        "",
        "Another token file, whose validation split is scored at every validation, too, as"
        " val_canary_loss and so on: what the model forgets is seen there.",
        group="run",
        path=True,
        trains=False,
    )
    partial_data_loading: bool = option(
        False,
        "Read tokens from the mapped file as needed, with constant memory, instead of loading all.",
        group="run",
        trains=False,
    )
    seed: int = option(
        0, "Seed of data order, random draws, initialisation and samples.", group="run"
    )
    device: str = option(
        "auto", "cpu, cuda or cuda:N; auto = cuda if available.", group="run", trains=False
    )
    parallel: Literal["auto", "off", "ddp", "fsdp"] = option(
        "auto",
        "With torchrun: ddp = all weights on each GPU; fsdp = weights, gradients and optimiser"
        " sharded over all of them; auto = ddp. The gradient is that of one process.",
        group="run",
        trains=False,
    )
    dtype: Literal["auto", "fp32", "fp16", "bf16", "bf16_pure"] = option(
        "auto",
        "Precision: bf16 = autocast over fp32 weights; fp16 = the same with a scaled loss, for GPUs"
        " without bf16; bf16_pure = bf16 weights, which are rounded at random (of lora: only the"
        " frozen ones); auto = bf16 where the hardware supports it, else fp32.",
        group="run",
    )
    val_dtype: Literal["auto", "fp32", "fp16", "bf16"] = option(
        "auto",
        "Precision of validation, whatever dtype trains (weights in bf16 are not measured in fp32):"
        " autocast, or fp32; auto = bf16 where the hardware supports it, else fp32. One for all"
        " validations of a run, and for all trials of a sweep.",
        group="run",
        trains=False,
    )
    activation_checkpointing: Literal["off", "selective", "full"] = option(
        "off",
        "Memory of activations: selective = layers keep only the results of matrix products and"
        " attention; full = only their inputs. The rest is computed again in the backward pass; the"
        " gradient stays the same.",
        group="run",
        trains=False,
    )
    compile: Literal["auto", "on", "off"] = option(
        "auto",
        "Compile the layers with torch.compile: fewer and larger kernels, the same loss within"
        " rounding; auto = on a GPU, for runs that are long enough to repay it.",
        group="run",
        trains=False,
    )
    threads: int = option(
        0,
        "CPU threads of torch; 0 = all cores available to this process.",
        group="run",
        trains=False,
        ge=0,
    )

    @property
    def can_compile(self) -> bool:
        """Whether the other options let layers be compiled."""
        return self.activation_checkpointing != "selective"

    @model_validator(mode="after")
    def _compiles_whole_layers(self) -> Self:
        if self.compile == "on" and self.activation_checkpointing == "selective":
            raise ValueError(
                "compile on: torch itself chooses what compiled layers keep for the backward pass,"
                " not activation_checkpointing selective; use off or full, or --compile off"
            )
        return self
