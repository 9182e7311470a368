"""The options of `python -m csm_ft.report`."""

from csm_ft.config.base import Options, option


class ReportConfig(Options):
    """Whose page to make."""

    sweep_dir: str = option(
        "",
        "Folder that sweep.py or train.py wrote (its --output_dir).",
        group="report",
        path=True,
        positional=True,
    )
