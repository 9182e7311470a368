"""Tags of prompts: what was asked for against what the model was trained with."""

from collections.abc import Callable, Mapping, Sequence

from csm_ft.config.generate import SpokenGenerateConfig
from csm_ft.console import console, shorten
from csm_ft.errors import PromptError
from csm_ft.families.prompts import AskedPrompt, ContextClip
from csm_ft.families.template import TextTemplate

Counts = Mapping[str, Mapping[str, int]]  # column -> value -> clips


def given_tags(config: SpokenGenerateConfig) -> dict[str, str]:
    """Return the tags of --emotion and --tag; PromptError for one that is no key=value."""
    tags = {"emotion": config.emotion.strip()} if config.emotion.strip() else {}
    for pair in config.tag:
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not (name and equals and value):
            raise PromptError(f"--tag {pair!r}: write it as column=value, such as style=whisper")
        if tags.setdefault(name.lower(), value) != value:
            raise PromptError(f"--tag {pair!r}: {name} is {tags[name.lower()]!r} already; keep one")
    return tags


def check_tags(
    asked: Sequence[AskedPrompt], template: TextTemplate, heard: Callable[[], Counts]
) -> None:
    """Raise PromptError for a tag that the model cannot read, or never heard in training.

    `heard` returns what it heard; it is called only where there are tags. Prompts without a tag
    that every clip of the training had are told.
    """
    for one in (*asked, *(clip for prompt in asked for clip in prompt.context)):
        for name in one.tags:
            if name not in template.columns:
                raise PromptError(_no_column(one, name, template))
        problem = template.unwritable(one.tags)
        if problem:
            raise PromptError(f"{one.where}: {problem}")
        if one.tags:
            _check_heard(one, heard())
    missing = [name for name in template.needed if any(name not in one.tags for one in asked)]
    if missing:
        console.print(
            f"warning: the model read {', '.join(missing)} with every clip, and some prompts name"
            f" none (--emotion, --tag): expect any; it heard {_describe(heard(), missing)}",
            style="yellow",
            markup=False,
        )


def _no_column(one: AskedPrompt | ContextClip, name: str, template: TextTemplate) -> str:
    reads = "no tags"
    if template.columns:
        reads = shorten(template.columns)
    return (
        f"{one.where}: {name} {one.tags[name]!r}: the model reads {reads}, by its template"
        f" {template.pattern!r}; a prompt has text, speaker, context, name and these"
    )


def _check_heard(one: AskedPrompt | ContextClip, heard: Counts) -> None:
    for name, value in one.tags.items():
        if name in heard and value not in heard[name]:
            raise PromptError(
                f"{one.where}: {name} {value!r}: the model was never trained on it, but on"
                f" {_describe(heard, [name])}"
            )


def _describe(heard: Counts, names: Sequence[str]) -> str:
    """Return `angry (120 clips), calm (80 clips)` for columns."""
    values = [
        f"{value} ({count} clips)" for name in names for value, count in heard.get(name, {}).items()
    ]
    return shorten(values) or "none that is known"
