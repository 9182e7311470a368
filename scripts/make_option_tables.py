"""Write the tables of options into README.md from the config classes.

`--check` only says whether they are current.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from csm_ft.cli import flag_table  # noqa: E402
from csm_ft.families import config_class  # noqa: E402
from csm_ft.pretokenize_config import PretokenizeConfig  # noqa: E402
from csm_ft.sweep.config import SweepConfig  # noqa: E402

BEGIN = "<!-- options: made by scripts/make_option_tables.py -->\n"
END = "<!-- end of options -->"


def with_tables(readme: str) -> str:
    """Return the README with fresh tables between the marks."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    tables = [
        ("pretokenize.py", flag_table(PretokenizeConfig)),
        ("train.py (and every trial of sweep.py)", flag_table(config_class())),
        (
            "sweep.py, besides those of train.py (some have another default here)",
            flag_table(SweepConfig),
        ),
    ]
    return (
        before
        + BEGIN
        + "\n"
        + "\n\n".join(f"### {title}\n\n{table}" for title, table in tables)
        + "\n\n"
        + END
        + after
    )


def main() -> int:
    """Write the tables, or check them."""
    path = ROOT / "README.md"
    readme = path.read_text(encoding="utf-8")
    if "--check" in sys.argv:
        return 0 if with_tables(readme) == readme else 1
    path.write_text(with_tables(readme), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
