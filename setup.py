"""Copies the bundled files into the package; all else about it is in pyproject.toml.

They lie in demo/ and configs/, where people look for them, and csm_ft/assets.py finds them here or
there.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

BUNDLED = (
    "demo/codec.safetensors",
    "demo/tokenizer.json",
    "demo/base/config.json",
    "demo/base/model.safetensors",
    "configs/sweep.yaml",
    "configs/expressive_lora.yaml",
    "configs/sweep_expressive.yaml",
    "configs/sweep_moonshine.yaml",
    "configs/moshi_sweep.yaml",
)


class BuildWithBundledFiles(build_py):
    """Puts them into csm_ft/bundled/."""

    def run(self) -> None:
        """Build the package, then copy; an editable install finds them where they are."""
        super().run()
        if self.editable_mode:
            return
        for name in BUNDLED:
            target = Path(self.build_lib, "csm_ft", "bundled", name)
            self.mkpath(str(target.parent))
            self.copy_file(name, str(target))

    def get_source_files(self) -> list[str]:
        """Add them to source archives, too."""
        return [*super().get_source_files(), *BUNDLED]


setup(cmdclass={"build_py": BuildWithBundledFiles})
