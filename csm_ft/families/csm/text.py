"""CSM's text: `[speaker]text` between BOS and EOS, by any tokenizer.json that has Llama 3's two special tokens."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
TEMPLATE = "[{speaker}]{text}"
EMBEDDED_TOKENIZER = Path(__file__).resolve().parents[3] / "demo" / "tokenizer.json"
HUB_NAMES = ("sesame/csm-1b", "meta-llama/Llama-3.2-1B", "unsloth/Llama-3.2-1B")  # the same vocabulary; the last one is open to all
MAX_TRAVELLING_BYTES = 1_000_000


class TextError(ValueError):
    """A tokenizer that cannot be had or does not fit; the message names the ways out."""
