"""The code that loads an export, for its model card; THIS_FOLDER stands for where it lies."""

from collections.abc import Mapping
from typing import Any

from csm_ft.console import shorten
from csm_ft.data.split import Store
from csm_ft.data.tags import count_tags
from csm_ft.families.csm.size import MAX_POSITIONS, CsmSize, TransformerSize
from csm_ft.families.template import TextTemplate

FOLDER = "THIS_FOLDER"
_WITH_OURS = f"""\
With csm-ft: `python -m csm_ft.generate --model {FOLDER} --text "Hello."` generates speech, and
`python train.py --data tokens.hdf5 --model_name_or_checkpoint_path {FOLDER}` fine-tunes further."""
_NO_MIMI = (
    "Its codes are not Mimi's: the code above gives codes, and only csm-ft, which has their codec,"
    " turns them into sound.\n\n"
)
_SESAME_GENERATES = """\
# from generator import Generator
audio = Generator(model).generate(text="Hello.", speaker=0, context=[], max_audio_length_ms=10_000)
"""
_TRANSFORMERS_GENERATES = """\
inputs = processor("[0]Hello.", add_special_tokens=True, return_tensors="pt").to(model.device)
processor.save_audio(model.generate(**inputs, output_audio=True), "hello.wav")
"""


def sesame(size: CsmSize, config: Mapping[str, Any], *, has_mimi: bool) -> str:
    """Return the Markdown for weights in Sesame's layout, with this config.json."""
    custom = {name: getattr(size, name) for name in ("backbone", "decoder") if name in config}
    lines = ["import models"]
    if custom:
        lines += ["from torchtune.models import llama3_2", ""]
    lines += [_flavour(config[f"{name}_flavor"], custom[name]) for name in custom]
    lines.append(f'model = models.Model.from_pretrained("{FOLDER}")')
    code = "\n".join(lines) + "\n" + (_SESAME_GENERATES if has_mimi else "")
    where = "In a checkout of [Sesame's code](https://github.com/SesameAILabs/csm):"
    return f"{where}\n\n{_block(code)}\n\n{_ours(has_mimi=has_mimi)}"


def transformers(*, has_mimi: bool) -> str:
    """Return the Markdown for a folder of transformers."""
    processor = (
        f'processor = AutoProcessor.from_pretrained("{FOLDER}")  # or "sesame/csm-1b", if its files'
        " are not in this folder\n"
    )
    code = f"""\
from transformers import AutoProcessor, CsmForConditionalGeneration

model = CsmForConditionalGeneration.from_pretrained("{FOLDER}")
{processor + _TRANSFORMERS_GENERATES if has_mimi else ""}"""
    return f"{_block(code)}\n\n{_ours(has_mimi=has_mimi)}"


def adapter(base: str, *, is_published: bool, has_mimi: bool) -> str:
    """Return the Markdown for adapters of peft.

    A base that is not published has to be exported, too.
    """
    name = base if is_published else "BASE_FOLDER"
    processor = f'processor = AutoProcessor.from_pretrained("{name}")\n'
    code = f"""\
from peft import PeftModel
from transformers import AutoProcessor, CsmForConditionalGeneration

base = CsmForConditionalGeneration.from_pretrained("{name}")
model = PeftModel.from_pretrained(base, "{FOLDER}")
{processor + _TRANSFORMERS_GENERATES if has_mimi else ""}"""
    hint = ""
    if not is_published:
        hint = (
            f"`{name}` is the base in this layout: `python -m csm_ft.export BASE --format"
            f" transformers --output {name}`.\n\n"
        )
    return f"{_block(code)}\n\n{hint}{_ours(has_mimi=has_mimi)}"


def tags(store: Store | None) -> str:
    """Return what to write for tags, and which ones the model heard; "" if it reads none."""
    if store is None:
        return ""
    template = TextTemplate(store.info.facts["template"])
    if not template.columns:
        return ""
    train = store.splits.get("train")
    counts = count_tags(train) if train is not None else store.info.facts.get("tags", {})
    heard = {name: counts[name] for name in template.columns if counts.get(name)}
    example = template.render("Hello.", "0", {name: next(iter(heard[name])) for name in heard})
    words = "; ".join(f"{name} {shorten(values)}" for name, values in heard.items())
    return (
        f"\n\nIt was trained with tags, which stand in the text: `{example}` by the template"
        f" `{template.pattern}`. It heard {words or 'none that are known'}."
    )


def _ours(*, has_mimi: bool) -> str:
    return _WITH_OURS if has_mimi else _NO_MIMI + _WITH_OURS


def _flavour(name: str, size: TransformerSize) -> str:
    """Return the line that tells Sesame's code a size it does not know."""
    return (
        f'models.FLAVORS["{name}"] = lambda: llama3_2.llama3_2(vocab_size=1,'
        f" num_layers={size.layers}, num_heads={size.heads}, num_kv_heads={size.kv_heads},"
        f" embed_dim={size.dim}, max_seq_len={MAX_POSITIONS}, intermediate_dim={size.ffn_dim},"
        " norm_eps=1e-5, rope_base=500_000, scale_factor=32)"
    )


def _block(code: str) -> str:
    return f"```python\n{code}```"
