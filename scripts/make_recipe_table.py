"""Write into docs/scaling.md on which GPU CSM-1B trains with which options, as predicted.

`--check` says by its exit code whether the page is current, and writes nothing.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.clips import split_of  # noqa: E402
from benchmarks.counts import CSM_1B  # noqa: E402
from csm_ft.data.batches import fill  # noqa: E402
from csm_ft.families.base import Draw  # noqa: E402
from csm_ft.families.csm.arrange import arrange  # noqa: E402
from csm_ft.families.csm.config import CsmConfig  # noqa: E402
from csm_ft.families.csm.data import CsmBatch, collate  # noqa: E402
from csm_ft.families.csm.family import CsmFamily  # noqa: E402
from csm_ft.families.csm.model import empty_model  # noqa: E402
from csm_ft.training.dry_run import describe_card  # noqa: E402
from csm_ft.training.memory import measure_step, prepare  # noqa: E402

PAGE = ROOT / "docs/scaling.md"
BEGIN, END = "<!-- recipes: written by scripts/make_recipe_table.py -->", "<!-- end -->"
CHECKPOINTING = "--activation_checkpointing full"
RECIPES = (
    ("--dtype bf16 --micro_batch_tokens 16384", 16384),
    ("--dtype bf16 --micro_batch_tokens 4096", 4096),
    (f"--dtype bf16 --micro_batch_tokens 4096 {CHECKPOINTING}", 4096),
    (f"--dtype bf16 --optimizer adamw8bit --micro_batch_tokens 1024 {CHECKPOINTING}", 1024),
    (f"--dtype fp16 --optimizer adamw8bit --micro_batch_tokens 1024 {CHECKPOINTING}", 1024),
    (f"--dtype bf16_pure --optimizer adamw8bit --micro_batch_tokens 4096 {CHECKPOINTING}", 4096),
    ("--method lora --dtype bf16 --micro_batch_tokens 4096", 4096),
    (f"--method lora --dtype fp16 --micro_batch_tokens 4096 {CHECKPOINTING}", 4096),
    (f"--method lora --dtype bf16_pure --micro_batch_tokens 4096 {CHECKPOINTING}", 4096),
)


def batch_of(positions: int) -> CsmBatch:
    """Make the largest micro-batch of read sentences within so many padded positions."""
    config = CsmConfig()
    examples = arrange(split_of("lj", 400, CSM_1B), config, evaluate=False)
    order = sorted(range(len(examples)), key=lambda row: int(examples.costs[row]))
    indices = max(fill(order, examples.costs, positions), key=len)
    return collate(examples, indices, depth_fraction=config.depth_fraction, draw=Draw(0, 0))


def rows() -> Iterator[str]:
    """Yield the table."""
    yield "| options | weights | gradients | averages | activations | all | fits on |"
    yield "|---|---|---|---|---|---|---|"
    for words, positions in RECIPES:
        pairs = words.replace("--", "").split()
        options = dict(zip(pairs[::2], pairs[1::2], strict=True))
        config = CsmConfig.model_validate({"device": "cpu", **options})
        model = empty_model(CSM_1B)
        prepare(model, CsmFamily(), config)
        found = measure_step(model, batch_of(positions), CsmFamily().loss_terms(config), config)
        parts = (found.weights, found.gradients, found.optimizer, found.activations, found.total)
        sizes = " | ".join(f"{size / 1e9:.1f} GB" for size in parts)
        yield f"| `{words}` | {sizes} | {describe_card(found)} |"


def make_page(page: str) -> str:
    """Return the page with the table between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    table = "\n".join(rows())
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


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
