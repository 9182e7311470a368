"""W&B's own sweep YAML, as rows of a search space and options of sweep.py.

https://docs.wandb.ai/guides/sweeps/sweep-config-keys. What has no counterpart here is an error that
names the way out, or is named as not used.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from csm_ft.errors import ConfigError
from csm_ft.evaluate.metrics import METRICS, is_higher_better

_SAMPLERS = {"bayes": "tpe", "random": "random", "grid": "grid"}
_NOT_USED = ("program", "command", "entity", "name", "description", "controller", "job", "queue")
_RANGES: Mapping[str, Callable[[Any, Any, Any], dict[str, Any]]] = {
    "uniform": lambda low, high, _: {"type": "float", "min": low, "max": high},
    "int_uniform": lambda low, high, _: {"type": "int", "min": low, "max": high},
    "log_uniform_values": lambda low, high, _: {
        **{"type": "float", "min": low, "max": high, "log": True}
    },
    "log_uniform": lambda low, high, _: {
        **{"type": "float", "min": math.exp(low), "max": math.exp(high), "log": True}
    },
    "q_uniform": lambda low, high, q: {
        **{"type": "int" if _are_whole(low, high, q) else "float"},
        **{"min": low, "max": high, "step": q},
    },
}


def is_wandb(document: Any) -> bool:
    """Tell whether a YAML file is a sweep of W&B."""
    return isinstance(document, dict) and isinstance(document.get("parameters"), dict)


def rows_of(path: Path, document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters as rows; ConfigError for what no row can say."""
    return {
        str(name): _row(f"{path}: parameters.{name}", parameter)
        for name, parameter in document["parameters"].items()
    }


def options_of(path: Path, document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what else the file says, as options of sweep.py, which flags win over."""
    options: dict[str, Any] = {"pruner": "none"}  # as at W&B, without early_terminate
    for key, value in document.items():
        match key:
            case "parameters":
                pass
            case "method":
                options["sampler"] = _sampler(path, value)
            case "metric":
                options["best_by"] = _metric(path, value)
            case "early_terminate":
                options |= _early_terminate(path, value)
            case "run_cap":
                options["n_trials"] = value
            case "project":
                options["wandb_project"] = value
            case _ if key not in _NOT_USED:
                known = "method, metric, parameters, early_terminate, run_cap and project"
                raise ConfigError(f"{path}: {key} is no key that is understood here; {known} are")
    return options


def not_used(document: Mapping[str, Any]) -> list[str]:
    """Return the keys that mean nothing here."""
    return [key for key in document if key in _NOT_USED]


def _sampler(path: Path, method: Any) -> str:
    if method not in _SAMPLERS:
        raise ConfigError(f"{path}: method {method!r}: choose among {', '.join(_SAMPLERS)}")
    return _SAMPLERS[method]


def _metric(path: Path, metric: Any) -> str:
    if not isinstance(metric, dict) or "name" not in metric:
        raise ConfigError(f"{path}: metric {metric!r}: write {{name: val_loss, goal: minimize}}")
    name = str(metric["name"])
    if name.startswith("val/"):  # as in W&B's charts: val/val_loss, val/wer
        name = name.removeprefix("val/")
        name = name if name in METRICS or name.startswith("val_") else f"val_{name}"
    wanted = "maximize" if is_higher_better(name) else "minimize"
    if metric.get("goal", "minimize") != wanted:
        raise ConfigError(
            f"{path}: metric.goal {metric.get('goal', 'minimize')!r}: of {name}, the best is the"
            f" {'highest' if wanted == 'maximize' else 'lowest'}; write goal: {wanted}"
        )
    return name


def _early_terminate(path: Path, rule: Any) -> dict[str, Any]:
    """Map successive halving; W&B's brackets are our rungs, its s the number of them."""
    where = f"{path}: early_terminate"
    if not isinstance(rule, dict) or rule.get("type") != "hyperband":
        raise ConfigError(f"{where}: {rule!r}: only type: hyperband is understood; or drop it")
    eta, rungs = rule.get("eta", 3), rule.get("s")
    if not isinstance(eta, int) or not isinstance(rungs, int) or rungs < 1:
        raise ConfigError(
            f"{where}: iterations are counted in validations there, and in shares of the run here:"
            " write max_iter and s (s rungs, at 1/eta of the run, 1/eta^2 and so on) with a whole"
            " eta in place of min_iter, or drop it and give --pruner asha and --rungs 1/9 1/3"
        )
    shares = [f"1/{eta**power}" for power in range(rungs, 0, -1)]
    return {"pruner": "asha", "eta": eta, "rungs": shares}


def _row(where: str, parameter: Any) -> dict[str, Any]:
    if not isinstance(parameter, dict):
        raise ConfigError(f"{where}: {parameter!r}: write value, values, or min and max")
    if "parameters" in parameter:
        raise ConfigError(
            f"{where}: parameters within a parameter: the options of train.py are not nested; write"
            " each as a parameter of its own"
        )
    kind = parameter.get("distribution") or _kind(where, parameter)
    if kind == "constant":
        return {"type": "fixed", "value": parameter.get("value")}
    if kind == "categorical" and "probabilities" not in parameter:
        return {"type": "categorical", "values": parameter.get("values")}
    if kind in _RANGES:
        ends = [parameter.get(name) for name in ("min", "max")]
        if not all(isinstance(end, int | float) for end in map(_number, ends)):
            raise ConfigError(f"{where}: distribution {kind} needs the numbers min and max")
        low, high = map(_number, ends)
        return _RANGES[kind](low, high, _number(parameter.get("q", 1)))
    raise ConfigError(
        f"{where}: distribution {kind!r} is not understood here (nor probabilities); choose among"
        f" constant, categorical, {', '.join(_RANGES)}"
    )


def _kind(where: str, parameter: Mapping[str, Any]) -> str:
    """Return the distribution that W&B assumes where none is named."""
    if "value" in parameter:
        return "constant"
    if "values" in parameter:
        return "categorical"
    if "min" in parameter and "max" in parameter:
        return "int_uniform" if _are_whole(parameter["min"], parameter["max"]) else "uniform"
    raise ConfigError(f"{where}: {dict(parameter)!r}: write value, values, or min and max")


def _number(value: Any) -> Any:
    """Return a number that YAML 1.1 reads as text, such as 1e-4."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _are_whole(*values: Any) -> bool:
    return all(isinstance(value, int) for value in values)
