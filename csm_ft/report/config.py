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
    votes: list[str] = option(
        [],
        "Files of votes that the page has saved, to add to the sweep's votes.json; repeatable.",
        group="report",
        path=True,
        repeatable=True,
    )
    watch: bool = option(
        False,
        "Serve the page on this machine until Ctrl-C: it follows the sweep, and takes votes.",
        group="report",
    )
    port: int = option(
        8765, "Port of --watch on 127.0.0.1; 0 = any free one.", group="report", ge=0, le=65535
    )
