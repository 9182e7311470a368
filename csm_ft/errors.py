"""Every error that a user can cause: programs catch UserError, print it, and exit.

                                                                                     fault
UserError                        the message names the value, the rule, the way out  options
    ConfigError                  an option, a YAML key, or a combination of them
        WeightsError             weights to start from                               data
        PromptError              a prompt, or a clip of its context
    DataError                    what is given as data                               data
        MetadataError            a metadata file that cannot be read as a whole
        AudioError               a sound file, or a span of one
        StoreError               a token file
        TooManyRejectedError     more rejected rows than allowed
        NotesError               implausible clips where none are allowed
    EncoderError                 what turns sound and text into tokens               data
        CodecError               an audio codec
        TokenizerError           a text tokenizer
    HubError                     a file of a model hub                               machine
        GatedError               a repository whose terms have not been accepted
    SweepError                   a sweep that cannot start or resume like this
    ReportError                  a folder that holds no sweep
        VotesError               a file of votes
    ExportError                  an export that cannot be written
        CheckError               an export that another program reads differently
    MachineError                 the machine: its disk, its devices                  machine
        RankLostError            another process that trains the same model is gone
        OutOfMemoryError         a training step does not fit into the memory

A fault of the data or the machine is not that of a trial that meets it: a sweep stops and keeps the
trial open. Diverged and SweepAborted are not a user's doing. Everything else is a bug, and keeps
its traceback.
"""

from typing import ClassVar, Literal

Fault = Literal["options", "data", "machine"]


class UserError(ValueError):
    """An error that a user can cause; the message names the value, the rule and the way out."""

    fault: ClassVar[Fault] = "options"  # whose it is; a sweep decides by it, never by the message


class ConfigError(UserError):
    """A mistake in a flag, a YAML key or a combination of them."""


class WeightsError(ConfigError):
    """Weights to start from that are missing, damaged, or of another model."""

    fault = "data"


class PromptError(ConfigError):
    """A prompt, or a clip of its context, that cannot be used; the message names where it is."""


class DataError(UserError):
    """Something wrong with what is given as data."""

    fault = "data"


class MetadataError(DataError):
    """A metadata file that cannot be read as a whole."""


class AudioError(DataError):
    """A sound file, or a span of one, that cannot be used; the message names the file."""


class StoreError(DataError):
    """A token file that is missing, damaged, or of another kind, family or version."""


class TooManyRejectedError(DataError):
    """More rows were rejected than allowed; nothing was written."""


class NotesError(DataError):
    """Clips are implausible and --strict_notes allows none; nothing was written."""


class EncoderError(UserError):
    """An encoder that cannot be opened, or is not the one that made the tokens."""

    fault = "data"


class CodecError(EncoderError):
    """An audio codec that cannot be opened, or is not the one that made the tokens."""


class TokenizerError(EncoderError):
    """A text tokenizer that cannot be opened or does not fit."""


class HubError(UserError):
    """A file that the model hub does not give."""

    fault = "machine"


class GatedError(HubError):
    """A repository of the hub whose terms have not been accepted."""


class SweepError(UserError):
    """A sweep that cannot start or resume like this."""


class ReportError(UserError):
    """A folder that holds no sweep that can be shown."""


class VotesError(ReportError):
    """A file of votes that is damaged, or of another study; the message names the vote."""


class ExportError(UserError):
    """An export that cannot be written; nothing of it is left behind."""


class CheckError(ExportError):
    """An export that another program does not read, or reads differently."""


class MachineError(UserError):
    """A fault of the machine: a full disk, missing permissions, no such device."""

    fault = "machine"


class RankLostError(MachineError):
    """Another process that trains the same model is gone, for a reason that this one cannot see."""


class OutOfMemoryError(MachineError):
    """A training step that does not fit into the device's memory."""

    def __init__(self, message: str, positions: int = 0) -> None:
        """`positions`: of the micro-batch, with padding; 0 where a smaller one is no help."""
        super().__init__(message)
        self.positions = positions


NEEDS_LESS_MEMORY = (
    "less memory is needed by --method lora, --dtype bf16, shorter clips or, in a sweep, fewer"
    " --trials_per_gpu or --packed_lora"
)


class Diverged(RuntimeError):
    """The loss or the gradient is not finite; raised before the weights are updated."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(
            f"step {step}: the {what} is not finite; the weights are those of step {step - 1}."
            " Lower learning_rate or max_grad_norm"
        )
        self.step = step


class SweepAborted(RuntimeError):
    """The sweep cannot continue, through no fault of its options; the message has the traceback."""


def first_line(error: BaseException) -> str:
    """Return the first line of another program's error, or its class where it has no text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
