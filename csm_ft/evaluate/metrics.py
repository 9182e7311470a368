"""The judged numbers: their names, units, and which direction is better. Imports no torch."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from csm_ft.errors import ConfigError
from csm_ft.schedule import Duration


class Metric(NamedTuple):
    """How a metric is shown."""

    title: str
    unit: str
    better: Literal["low", "high", ""]  # "" = neither
    meaning: str
    judge: str = ""  # the one that measures it; "" = none is needed


METRICS: Mapping[str, Metric] = {
    "wer": Metric(
        "Word errors", "", "low", "word error rate: errors of all clips / all words", "words"
    ),
    "cer": Metric("Letter errors", "", "low", "character error rate, blanks included", "words"),
    "similarity": Metric(
        "Own voice", "", "high", "cosine to the speaker's reference clips", "voice"
    ),
    "similarity_others": Metric(
        "Other voices", "", "", "highest cosine to another speaker's", "voice"
    ),
    "wrong_voice": Metric(
        "Wrong voice", "", "low", "share nearer to another speaker's voice", "voice"
    ),
    "dnsmos": Metric("DNSMOS", "", "high", "DNSMOS P.835 overall, 1 to 5", "quality"),
    "dnsmos_signal": Metric("DNSMOS signal", "", "high", "DNSMOS P.835 of the speech", "quality"),
    "dnsmos_background": Metric(
        "DNSMOS noise", "", "high", "DNSMOS P.835 of the background", "quality"
    ),
    "stopped": Metric("Stopped", "", "high", "share that the model ended by itself"),
    "duration_ratio": Metric("Duration", "×", "", "length / that of the recording or by the rate"),
    "missing_words": Metric(
        "Missing", "words", "low", "words in missing stretches of 3 or more", "words"
    ),
    "repeated_words": Metric(
        "Repeated", "words", "low", "words in repeated stretches of 3 or more", "words"
    ),
    "silence_start_sec": Metric("Start silence", "s", "", "silence before the first sound"),
    "longest_pause_sec": Metric("Longest pause", "s", "", "longest silence between sounds"),
    "silence_end_sec": Metric("End silence", "s", "", "silence after the last sound"),
    "seconds": Metric("Length", "s", "", "seconds of sound"),
    "level_dbfs": Metric("Level", "dBFS", "", "rms level"),
    "clipped_share": Metric("Clipped", "", "low", "share of samples at full scale"),
    "bandwidth_hz": Metric("Bandwidth", "Hz", "", "frequency below which 99 % of the energy lies"),
    "f0_mean_st": Metric("Pitch", "st", "", "mean F0, semitones over 100 Hz", "pitch"),
    "f0_range_st": Metric("Pitch range", "st", "", "5-95 % range of F0", "pitch"),
    "f0_variance_st2": Metric("Pitch variance", "st²", "", "variance of F0", "pitch"),
    "energy_mean_db": Metric("Energy", "dB", "", "mean level of sounding windows"),
    "energy_range_db": Metric("Energy range", "dB", "", "5-95 % range of that level"),
    "letters_per_sec": Metric("Rate", "letters/s", "", "letters per second from first to last"),
    "pause_share": Metric("Pauses", "", "", "share of pauses of 150 ms or more"),
    "moved_right": Metric(
        "Moves right", "", "high", "share of measures that emotions move as people move them"
    ),
    "tags_obeyed": Metric(
        "Tags obeyed", "", "high", "share of emotions that move every measure as people move it"
    ),
    "expression_distance": Metric(
        "Expression", "", "low", "mean distance of emotions to people's, in spreads of their clips"
    ),
    "emotion_right": Metric(
        "Emotion heard", "", "high", "share in which the classifier hears the emotion", "emotion"
    ),
    "emotion_probability": Metric(
        "Emotion prob.", "", "high", "what the classifier gives the emotion", "emotion"
    ),
}
# What tables show first.
MAIN = (
    *("wer", "cer", "similarity", "dnsmos", "stopped", "duration_ratio", "longest_pause_sec"),
    *("moved_right", "tags_obeyed", "expression_distance", "emotion_right"),
)


# How the metrics of validation begin, those of every family, and those of the second set.
VALIDATION, CANARY = "val_", "val_canary_"

# Of a loss that was estimated on a share of the targets: its standard error and, beside the loss on
# all targets, what the estimate had been. Nothing is chosen by them.
ERROR, ESTIMATE = "val_loss_se", "val_loss_estimate"


def canary_name(name: str) -> str:
    """Return what a metric of validation is called on the canary: val_wer, val_canary_wer."""
    return CANARY + name.removeprefix(VALIDATION)


def is_higher_better(name: str) -> bool:
    """Tell whether the best value of a metric is its highest; no metric of validation is so."""
    return name in METRICS and METRICS[name].better == "high"


def as_cost(name: str, value: float) -> float:
    """Return the value of a metric so that lower is better; twice, it is the value again."""
    return -value if is_higher_better(name) else value


def cost_of(name: str, metrics: Mapping[str, Any]) -> float:
    """Return a metric among others so that lower is better."""
    return as_cost(name, metrics[name])


def is_judged(metrics: Mapping[str, Any]) -> bool:
    """Tell whether judged numbers are among the metrics of a validation."""
    return not METRICS.keys().isdisjoint(metrics)


def check_judged(name: str, *, what: str, judge_every: str) -> None:
    """Raise ConfigError for a judged number where nothing is judged; `what` names it."""
    if name in METRICS and not Duration.parse(judge_every).amount:
        raise ConfigError(
            f"{what}: {name} is a judged number, and nothing is judged with judge_every"
            f" {judge_every}; add --judge_every 1/3"
        )


def check_best_by(name: str, *, judge_every: str) -> None:
    """Raise ConfigError for a judged number that is not measured, or that has no best.

    Other names are those of a family's validation, and known once it has run.
    """
    what = f"best_by {name}"
    if name in (ERROR, ESTIMATE):
        raise ConfigError(f"{what}: it says how near val_loss is; choose val_loss")
    check_judged(name, what=what, judge_every=judge_every)
    if name in METRICS and METRICS[name].judge == "emotion":
        raise ConfigError(
            f"{what}: a classifier of emotions is a second opinion, and nothing is chosen by it"
            " alone; choose expression_distance or moved_right"
        )
    if name in METRICS and not METRICS[name].better:
        with_best = [name for name, metric in METRICS.items() if metric.better]
        raise ConfigError(
            f"{what}: neither a low nor a high {name} is better; choose among"
            f" {', '.join(with_best)}, or a metric of validation"
        )
