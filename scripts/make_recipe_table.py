"""Write into docs/scaling.md on which GPU CSM-1B and Moshi train with which options, as predicted.

`--check` says by its exit code whether the page is current, and writes nothing.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks.counts import CSM_1B  # noqa: E402
from benchmarks.full import largest_batch  # noqa: E402
from csm_ft.families.base import Family  # noqa: E402
from csm_ft.families.csm.config import CsmConfig  # noqa: E402
from csm_ft.families.csm.data import CsmBatch  # noqa: E402
from csm_ft.families.csm.family import CsmFamily  # noqa: E402
from csm_ft.families.csm.model import CsmModel, empty_model  # noqa: E402
from csm_ft.families.model import Batch, SpeechModel  # noqa: E402
from csm_ft.families.moshi import data as moshi_data  # noqa: E402
from csm_ft.families.moshi import model as moshi_model  # noqa: E402
from csm_ft.families.moshi.family import MoshiFamily  # noqa: E402
from csm_ft.families.moshi.size import MoshiSize, published_delays  # noqa: E402
from csm_ft.training.dry_run import describe_card  # noqa: E402
from csm_ft.training.memory import measure_step, prepare  # noqa: E402

PAGE = ROOT / "docs/scaling.md"
BEGIN, END = "<!-- {}: written by scripts/make_recipe_table.py -->", "<!-- end of {} -->"
CHECKPOINTING = "--activation_checkpointing full"
CSM_RECIPES = (
    ("--dtype bf16 --micro_batch_tokens 16384", 16384),
    ("--dtype bf16 --micro_batch_tokens 4096", 4096),
    (f"--dtype bf16 --micro_batch_tokens 4096 {CHECKPOINTING}", 4096),
    (f"--dtype bf16 --micro_batch_tokens 2048 {CHECKPOINTING}", 2048),
    (f"--dtype bf16 --optimizer adamw8bit --micro_batch_tokens 1024 {CHECKPOINTING}", 1024),
    (f"--dtype fp16 --optimizer adamw8bit --micro_batch_tokens 1024 {CHECKPOINTING}", 1024),
    (f"--dtype bf16_pure --optimizer adamw8bit --micro_batch_tokens 4096 {CHECKPOINTING}", 4096),
    ("--method lora --dtype bf16 --micro_batch_tokens 4096", 4096),
    (f"--method lora --dtype fp16 --micro_batch_tokens 4096 {CHECKPOINTING}", 4096),
    (f"--method lora --dtype bf16_pure --micro_batch_tokens 4096 {CHECKPOINTING}", 4096),
)

PURE = "--dtype bf16_pure"
MOSHI_RECIPES = (  # and windows of 100 s in a micro-batch
    ("--lora_rank 128 --dtype bf16", 1),
    (f"--lora_rank 128 --dtype bf16 {CHECKPOINTING}", 1),
    (f"--lora_rank 128 {PURE} {CHECKPOINTING}", 4),
    (f"--lora_rank 128 {PURE} {CHECKPOINTING}", 1),
    (f"--lora_rank 32 {PURE} {CHECKPOINTING}", 1),
    (f"--method full --dtype bf16 {CHECKPOINTING}", 1),
    (f"--method full {PURE} --optimizer adamw8bit {CHECKPOINTING}", 1),
)
NUM_READ_TEXT_IDS = 16384  # different text tokens in the data, of 128,256
MOSHI = MoshiSize(delays=published_delays(8))
WINDOW_FRAMES = 1250


class Table(NamedTuple):
    """A table of the page."""

    name: str
    family: Family
    recipes: Sequence[tuple[str, int]]  # options, and what fills a micro-batch
    make_model: Callable[[], SpeechModel]
    make_batch: Callable[[int], Batch]
    amounts: str = ""  # heading of what fills a micro-batch, where no option says it


def windows(count: int) -> Batch:
    """Make a micro-batch of full windows of dialogues."""
    rows = np.random.default_rng(0).integers(0, MOSHI.card, (count, MOSHI.num_rows, WINDOW_FRAMES))
    layout = moshi_data.Layout(
        MOSHI.delays, MOSHI.num_own, MOSHI.text_padding_id, MOSHI.text_end_id
    )
    return moshi_data.make_batch(list(rows), layout, WINDOW_FRAMES)


def batch_of(positions: int) -> CsmBatch:
    """Make the largest micro-batch of read sentences within so many padded positions."""
    return largest_batch(CSM_1B, CsmConfig(micro_batch_tokens=positions))


def csm_1b() -> CsmModel:
    """Build CSM-1B without weights, for a data set of NUM_READ_TEXT_IDS tokens."""
    model = empty_model(CSM_1B)
    model.read_rows = {"text_embeddings": torch.arange(NUM_READ_TEXT_IDS)}
    return model


TABLES = (
    Table("recipes", CsmFamily(), CSM_RECIPES, csm_1b, batch_of),
    Table(
        "recipes of Moshi",
        MoshiFamily(),
        MOSHI_RECIPES,
        lambda: moshi_model.empty_model(MOSHI),
        windows,
        amounts=" windows |",
    ),
)


def rows(table: Table) -> Iterator[str]:
    """Yield a table."""
    heading = f"| options |{table.amounts} weights | gradients | averages | activations | all |"
    yield f"{heading} fits on |"
    yield "|" + "---|" * heading.count("|")
    for words, amount in table.recipes:
        pairs = words.replace("--", "").split()
        options: dict[str, Any] = dict(zip(pairs[::2], pairs[1::2], strict=True))
        config = table.family.train_config.model_validate({"device": "cpu", **options})
        model = table.make_model()
        prepare(model, table.family, config)
        terms = table.family.loss_terms(config)
        found = measure_step(model, table.make_batch(amount), terms, config)
        parts = (found.weights, found.gradients, found.optimizer, found.activations, found.total)
        sizes = " | ".join(f"{size / 1e9:.1f} GB" for size in parts)
        count = f" {amount} |" if table.amounts else ""
        yield f"| `{words}` |{count} {sizes} | {describe_card(found)} |"


def make_page(page: str) -> str:
    """Return the page with the tables between their marks."""
    for table in TABLES:
        begin, end = BEGIN.format(table.name), END.format(table.name)
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        lines = "\n".join(rows(table))
        page = f"{before}{begin}\n\n{lines}\n\n{end}{after}"
    return page


def main() -> int:
    """Write the page, or check it."""
    page = PAGE.read_text(encoding="utf-8")
    current = make_page(page)
    if "--check" in sys.argv:
        return int(page != current)
    PAGE.write_text(current, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
