"""Suites that come with robustprobe, and suites in files."""

from pathlib import Path

from robustprobe.errors import unknown_name
from robustprobe.spec import Suite, load_suite

FOLDER = Path(__file__).parent / "assets" / "suites"


def bundled_suites() -> dict[str, Suite]:
    """Every bundled suite by its name."""
    return {path.stem: load_suite(path) for path in sorted(FOLDER.glob("*.yaml"))}


def find_suite(name: str) -> Suite:
    """The suite of a YAML file, or the bundled suite of that name.

    Raises:
        UserError: neither exists, or the file is not a suite.
    """
    if name.endswith((".yaml", ".yml")) or Path(name).is_file():
        return load_suite(Path(name))
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise unknown_name("suite", name, [p.stem for p in FOLDER.glob("*.yaml")])
    return load_suite(path)
