"""Further columns that a text template names: whether rows have them, and how often each value."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from csm_ft.console import shorten
from csm_ft.errors import ConfigError
from csm_ft.pretokenize.clips import Span

FEW_CLIPS = 100  # of a value of a tag, below which models tend to ignore it


def check_columns(columns: Sequence[str], tags: Sequence[Mapping[str, str]]) -> None:
    """Raise ConfigError for a column that no training row has a word in."""
    found = Counter(name for row in tags for name in row)
    for name in columns:
        if not found[name]:
            others = f"; the rows have {shorten(found)}" if found else ""
            raise ConfigError(
                f"--text_template names {name}, but no row of --train_data has a word in a column"
                f" of that name{others}; correct the template, or add the column"
            )


def describe_tags(columns: Sequence[str], spans: Sequence[Span]) -> Iterator[str]:
    """Yield how many training clips have each value of a column, and which values have few."""
    for name in columns:
        counts = Counter(span.row.tags.get(name, "") for span in spans)
        untagged = counts.pop("", 0)
        shown = [f"{value} {count}" for value, count in counts.most_common()]
        without = f"; {untagged} clips without it" if untagged else ""
        yield f"{name:10} {shorten(shown)}{without}"
        few = [f"{value} ({count})" for value, count in counts.items() if count < FEW_CLIPS]
        if few:
            yield (
                f"warning: fewer than {FEW_CLIPS} clips of {shorten(few)}: models tend to ignore"
                f" what they rarely hear; add clips, or merge values of {name}"
            )
