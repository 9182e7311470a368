"""A synthetic sweep folder with the files that sweep.py leaves: plausible curves, audible samples."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

SAMPLE_RATE_HZ = 8000  # encoded fast
SENTENCES = {
    "5e1f0a": ("The birch canoe slid on the smooth planks.", "anna"),
    "9b22c4": ("Glue the sheet to the dark blue background.", "anna"),
}
STATES = (
    "completed",
    "completed",
    "stopped",
    "completed",
    "diverged",
    "stopped",
    "completed",
    "infeasible",
    "poison",
    "stopped",
)
RANKED = "val_loss ranks trials by word errors (wer): rho 0.70 [0.20, 0.90], 12 trials."
REASONS = {
    "stopped": "rung 1 (160 examples): 4.91 is behind the cut 4.52",
    "diverged": "loss is not finite at step 34 (learning_rate 0.003)",
    "infeasible": "out of memory at micro-batch 1 with checkpointing",
    "poison": "2 workers died in this trial",
}


def make_sweep(
    out: Path,
    *,
    num_trials: int = 6,
    sentences: dict[str, tuple[str, str]] = SENTENCES,
    samples: bool = True,
    text_only: bool = False,
) -> dict[str, Any]:
    """Write a finished sweep of `num_trials` trials into `out`; `text_only`: of a transcriber.

    Return what stands in summary.json, for tests to change and write again.
    """
    rng = np.random.default_rng(0)
    unit = "nats per text token" if text_only else "nats per frame"
    make_run(
        out / "baseline",
        sentences if samples else {},
        curve=[],
        last_step=0,
        quality=0.1,
        rng=rng,
        references=samples and not text_only,
        text_only=text_only,
    )
    trials = [
        _make_trial(out, number, sentences if samples else {}, rng, text_only=text_only)
        for number in range(num_trials)
    ]
    done = [t for t in trials if t["state"] == "completed"]
    best = min(done, key=lambda t: t["value"], default=None)
    gain = round(trials[0]["value"] - best["value"], 3) if best else 0.0
    summary = {
        "study": "demo-dictation" if text_only else "demo-voice",
        "created": "2026-03-01T10:00:00+00:00",
        "updated": "2026-03-01T10:04:31+00:00",
        "state": "finished",
        "data": "data/demo.hdf5",
        "objective": f"lowest validation loss ({unit}) from the first rung on",
        "objective_metric": "val_loss",
        "unit": unit,
        "formula": "the text of all segments" if text_only else "codebook 0 + mean of the others",
        "n_trials": num_trials,
        "n_workers": 2,
        "device": "cpu",
        "horizon_examples": 1440,
        "rungs": [160, 480, 1440],
        "baseline": {
            "value": 7.812,
            "dir": "baseline",
            "metrics": {"val_loss": 7.812, **parts(7.812)},
        },
        "trials": trials,
        "best": best["number"] if best else None,
        "verdict": (
            {
                "text": (
                    f"Trial {best['number']} beats the default by {gain} {unit}, more than"
                    " twice the noise between seeds (0.02)."
                ),
                "tie": False,
                "gain_over_default": gain,
                "standard_error": 0.02,
            }
            if best
            else None
        ),
        "importance": {
            "PED-ANOVA": {
                "learning_rate": 0.58,
                "batch_size": 0.21,
                "warmup_steps": 0.13,
                "lr_decay": 0.08,
            },
            "MDI": {
                "learning_rate": 0.71,
                "batch_size": 0.09,
                "warmup_steps": 0.12,
                "lr_decay": 0.08,
            },
        },
    }
    write_summary(out, summary)
    if best:
        (out / "best").mkdir()
        (out / "best" / "model.safetensors").write_bytes(b"weights")
        (out / "best.yaml").write_text("data: data/demo.hdf5\n")
    (out / "trials.csv").write_text("number,state,value\n")
    return summary


def add_judged(out: Path, summary: dict[str, Any]) -> None:
    """Let judges have heard every trial at each third, and trial 3 violate a constraint."""
    for trial in summary["trials"]:
        path = out / trial["dir"] / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            if row["kind"] == "val" and row["examples"] and row["examples"] % 480 == 0:
                row |= judged_numbers(row["val_loss"], trial["number"])
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        if trial["metrics"]:
            trial["metrics"] |= judged_numbers(trial["value"], trial["number"])
    summary["baseline"]["metrics"] |= judged_numbers(7.812, 0)
    summary["constraints"] = ["wer<=0.45", "seconds>=0.5"]
    summary["judges"] = {"words": "faster-whisper 1.2.1, tiny.en"}
    summary["judges_missing"] = ["no DNSMOS: speechmos is not installed"]
    summary["rankings"] = [
        {"metric": "wer", "rho": 0.7, "low": 0.2, "high": 0.9, "num_trials": 12, "text": RANKED}
    ]
    if len(summary["trials"]) > 3:
        summary["trials"][3] |= {
            "state": "infeasible",
            "violated": ["wer<=0.45"],
            "reason": "wer is 0.5, wer<=0.45 is asked for",
        }
        done = [t for t in summary["trials"] if t["state"] == "completed"]
        summary["best"] = min(done, key=lambda t: t["value"])["number"]
    write_summary(out, summary)


def judged_numbers(loss: float, number: int) -> dict[str, float]:
    """Return what judges may have said."""
    wer = round(loss / 10, 4)
    similarity = round(0.9 - number / 20, 4)
    return {"wer": wer, "similarity": similarity, "seconds": 2.0, "f0_mean_st": 4.0}


def as_old(summary: dict[str, Any]) -> dict[str, Any]:
    """Return a summary as it was before units, formulas and further metrics stood in it."""
    new = ("objective_metric", "unit", "formula")
    old = {name: value for name, value in summary.items() if name not in new}
    old["baseline"] = {"value": 7.812, "dir": "baseline"}
    old["trials"] = [
        {name: value for name, value in trial.items() if name != "metrics"}
        for trial in summary["trials"]
    ]
    return old


def parts(value: float) -> dict[str, float]:
    """Further metrics of a validation."""
    return {"val_first": round(0.4 * value, 4), "val_rest": round(0.6 * value, 4)}


def write_summary(out: Path, summary: dict[str, Any]) -> None:
    """Write summary.json."""
    (out / "summary.json").write_text(json.dumps(summary))


def make_run(
    folder: Path,
    sentences: dict[str, tuple[str, str]],
    *,
    curve: list[tuple[int, float]],
    last_step: int,
    quality: float,
    rng: np.random.Generator,
    references: bool = False,
    text_only: bool = False,
) -> None:
    """Write one run folder: a `curve` of (examples, val_loss), samples at the half and the end."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\n")
    rows: list[dict[str, Any]] = [
        {"kind": "val", "step": 0, "examples": 0, "epoch": 0.0, "val_loss": 7.812}
    ]
    for examples, value in curve:
        where = {"step": examples // 8, "examples": examples, "epoch": examples / 288}
        rows.append({"kind": "train", **where, "loss": value - 0.1, "lr": 1e-4})
        rows.append({"kind": "val", **where, "val_loss": value, **parts(value)})
    for prompt, (text, speaker) in sentences.items():
        for step in sorted({last_step // 2, last_step}):
            stopped = quality > 0.3
            facts = {
                "text": text,
                "speaker": speaker,
                "step": step,
                "examples": step * 8,
                "is_complete": stopped,
            }
            stem = folder / "samples" / prompt / f"step_{step:06d}"
            if text_only:
                write_answer(stem, f"{text.lower()} as heard at {step}", facts | {"speaker": ""})
            else:
                write_take(
                    stem, speech(len(text) * (0.06 if stopped else 0.1), quality, rng), facts
                )
            rows.append({"kind": "sample", "step": step, "prompt": prompt, "text": text})
    if references:
        for index, (text, _) in enumerate(sentences.values()):
            wave = speech(len(text) * 0.058, 1.0, rng)
            write_take(
                folder / "samples" / "reference" / f"clip{index}",
                wave,
                {"text": text, "clip_id": f"clip{index}"},
            )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_answer(stem: Path, answer: str, facts: dict[str, Any]) -> None:
    """Write one sample whose answer is text as a run does."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps({**facts, "answer": answer}))


def write_take(stem: Path, wave: np.ndarray, facts: dict[str, Any]) -> None:
    """Write one recording and its facts as a run does."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(stem.with_suffix(".wav"), wave, SAMPLE_RATE_HZ, subtype="PCM_16")
    measured = {
        "seconds": len(wave) / SAMPLE_RATE_HZ,
        "sec_per_char": len(wave) / SAMPLE_RATE_HZ / max(1, len(facts["text"])),
        "silence_share": float(np.mean(np.abs(wave) < 0.01)),
        "peak": float(np.abs(wave).max()),
    }
    stem.with_suffix(".json").write_text(json.dumps({**facts, **measured}))


def speech(seconds: float, quality: float, rng: np.random.Generator) -> np.ndarray:
    """Return a babble of syllables over two formants, noisier the lower `quality` in 0..1 is."""
    t = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    syllables = (
        np.clip(
            np.sin(2 * np.pi * 2.1 * t + rng.uniform(0, 6)) + 0.4 * np.sin(2 * np.pi * 0.7 * t),
            0,
            1,
        )
        ** 0.6
    )
    pitch_hz = 120 * (1 + 0.15 * np.sin(2 * np.pi * 0.9 * t))
    voice = sum(
        np.sin(np.cumsum(pitch_hz) * 2 * np.pi * k / SAMPLE_RATE_HZ) / k for k in (1, 2, 3, 5, 8)
    )
    wave = quality * syllables * voice + (1 - quality) * 0.4 * rng.standard_normal(len(t))
    return (0.7 * wave / max(1e-6, float(np.abs(wave).max()))).astype(np.float32)


def _make_trial(
    out: Path,
    number: int,
    sentences: dict[str, tuple[str, str]],
    rng: np.random.Generator,
    *,
    text_only: bool,
) -> dict[str, Any]:
    state = STATES[number % len(STATES)]
    learning_rate = 3e-5 if number == 0 else float(10 ** rng.uniform(-5.5, -2.5))
    params = {
        "learning_rate": learning_rate,
        "batch_size": int(rng.choice([4, 8, 16])) if number else 8,
        "warmup_steps": str(rng.choice(["2%", "5%", "10%"])) if number else "5%",
        "lr_decay": str(rng.choice(["linear", "cosine", "constant"])) if number else "linear",
        "weight_decay": float(10 ** rng.uniform(-4, -1)) if number else 0.002,
    }
    floor = 4.2 + 0.16 * (math.log10(learning_rate) + 3.7) ** 2
    last = {"completed": 1440, "stopped": 160, "diverged": 240}.get(state, 0)
    curve = [
        (
            e,
            round(
                floor
                + 3.4 * math.exp(-e / 260)
                + 0.25 * (e / 1440) ** 4
                + float(rng.normal(0, 0.01)),
                4,
            ),
        )
        for e in range(80, last + 1, 80)
    ]
    if state == "diverged":
        curve[-1] = (curve[-1][0], 31.7)
    best_at, value = min(curve, key=lambda point: point[1], default=(None, None))
    if state in ("diverged", "infeasible", "poison"):
        best_at, value = None, 11.7
    folder = f"trials/{number:04d}"
    make_run(
        out / folder,
        sentences if last else {},
        curve=curve,
        last_step=last // 8,
        quality=0.9 if last == 1440 else 0.25,
        rng=rng,
        text_only=text_only,
    )
    return {
        "number": number,
        "state": state,
        "reason": REASONS.get(state),
        "value": value,
        "final_value": curve[-1][1] if curve else None,
        "best_examples": best_at,
        "best_epoch": best_at / 288 if best_at else None,
        "params": params,
        "attempts": 2 if number == 3 else 1,
        "seconds": 20.0 + last / 20,
        "slot": number % 2,
        "dir": folder,
        "is_default": number == 0,
        "metrics": {"val_loss": value, **parts(value)} if best_at else {},
    }
