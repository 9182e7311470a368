"""Tiny transformers models with random weights, in folders as the hub has them."""

import json
from collections.abc import Sequence
from pathlib import Path

import transformers

_SIZE = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": (8, 8),
    "conv_stride": (5, 4),
    "conv_kernel": (10, 8),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}


def write_xvector(folder: Path) -> Path:
    """Write an x-vector model."""
    config = transformers.Wav2Vec2Config(
        **_SIZE, tdnn_dim=(8, 8), tdnn_kernel=(3, 1), tdnn_dilation=(1, 1), xvector_output_dim=8
    )
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    transformers.Wav2Vec2ForXVector(config).save_pretrained(folder)
    return folder


def write_classifier(folder: Path, labels: Sequence[str]) -> Path:
    """Write a classifier of sound."""
    config = transformers.Wav2Vec2Config(
        **_SIZE, classifier_proj_size=8, num_labels=len(labels), id2label=dict(enumerate(labels))
    )
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    transformers.Wav2Vec2ForSequenceClassification(config).save_pretrained(folder)
    return folder


def write_recogniser(folder: Path) -> Path:
    """Write a CTC recogniser of the letters a and b."""
    folder.mkdir()
    letters = {"<pad>": 0, "<unk>": 1, "|": 2, "a": 3, "b": 4}
    (folder / "vocab.json").write_text(json.dumps(letters))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(
        str(folder / "vocab.json"), pad_token="<pad>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    config = transformers.Wav2Vec2Config(**_SIZE, vocab_size=5, pad_token_id=0)
    transformers.Wav2Vec2ForCTC(config).save_pretrained(folder)
    return folder
