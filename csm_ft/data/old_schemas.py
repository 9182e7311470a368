"""What token files of earlier versions lack, or have elsewhere.

Schema 1 had no `conversation` and `turn`. Up to schema 2 the arrays were those of CSM, and the
facts of its encoder were attributes of their own. Earlier files of schema 3 lack later columns.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csm_ft.data.split import (
    LATER_NUMBER_COLUMNS,
    LATER_TEXT_COLUMNS,
    MEASURE_COLUMNS,
    ArrayKind,
    StoreInfo,
)

_FACTS_OF_SCHEMA_2 = (
    *("codec", "codec_source", "codec_fingerprint", "num_codebooks", "codec_vocab_size"),
    *("sample_rate_hz", "frame_samples"),
    *("tokenizer", "tokenizer_fingerprint", "text_vocab_size", "template"),
)


def info_of_schema_2(attributes: Mapping[str, Any]) -> StoreInfo:
    """Convert the attributes of schemas 1 and 2, which had the arrays and encoder of CSM only."""
    return StoreInfo(
        family=attributes["family"],
        arrays={
            "codes": ArrayKind("<u2", attributes["num_codebooks"]),
            "text_tokens": ArrayKind("<u4"),
        },
        sample_rate_hz=attributes["sample_rate_hz"],
        frame_sec=attributes["frame_samples"] / attributes["sample_rate_hz"],
        audio_fingerprint=attributes["codec_fingerprint"],
        text_fingerprint=attributes["tokenizer_fingerprint"],
        facts={name: attributes[name] for name in _FACTS_OF_SCHEMA_2},
        content_fingerprint=attributes["content_fingerprint"],
        schema_version=attributes["schema_version"],
    )


def missing_columns(group: Any, version: int, num_clips: int) -> dict[str, NDArray[Any]]:
    """Return the columns that the group of a split lacks, as the present schema has them."""
    unmeasured = np.full(num_clips, np.nan, np.float32)
    columns: dict[str, NDArray[Any]] = dict.fromkeys(MEASURE_COLUMNS.keys() - group, unmeasured)
    for name in LATER_NUMBER_COLUMNS.keys() - group:
        dtype, value = LATER_NUMBER_COLUMNS[name]
        columns[name] = np.full(num_clips, value, dtype)
    for name in set(LATER_TEXT_COLUMNS) - group.keys():
        columns[name] = np.zeros(0, np.uint8)
        columns[f"{name}_offsets"] = np.zeros(num_clips + 1, np.int64)
    if version == 1:
        columns |= _missing_in_schema_1(num_clips)
    return columns


def _missing_in_schema_1(num_clips: int) -> dict[str, NDArray[Any]]:
    """Return the columns that files of schema 1 lack: no clip is in a conversation."""
    return {
        "conversation": np.zeros(0, np.uint8),
        "conversation_offsets": np.zeros(num_clips + 1, np.int64),
        "turn": np.zeros(num_clips, np.int32),
    }
