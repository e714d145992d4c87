"""Small encoders that come with robustprobe: bundled:NAME"""

from pathlib import Path
from typing import final

from robustprobe.core.errors import unknown_name
from robustprobe.encoders.base import Encoder, Source
from robustprobe.encoders.file import load_folder

FOLDER = Path(__file__).parent.parent / "assets" / "encoders"


@final
class BundledSource(Source):
    """Loads folders that are part of the package."""

    def load(self, name: str) -> Encoder:
        known = [p.parent.name for p in FOLDER.glob("*/card.json")]
        if name not in known:
            raise unknown_name("bundled encoder", name, known)
        return load_folder(FOLDER / name, f"bundled:{name}")
