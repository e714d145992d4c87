"""Names of the common corruptions, by family; read without torch by suites, tables and pages."""

from types import MappingProxyType

from robustprobe.core.errors import UserError, unknown_name

ATTACK = "corruption"
"""The attack that applies one of them, as in `corruption:fog`."""
GROUP = "corruptions"
"""All corruptions of the benchmark in the list of attacks of a suite; `corruptions:blur` is one family."""
BENCHMARK = MappingProxyType(
    {
        "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
        "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
        "weather": ("snow", "fog", "brightness"),
        "digital": ("contrast", "pixelate", "jpeg_compression"),
    }
)
"""13 of the 15 of ImageNet-C (Hendrycks & Dietterich 2019). `frost` needs photographs that are not part of this
package, and `elastic_transform` moves pixels, so that label maps would no longer fit.
"""
FURTHER = MappingProxyType(
    {
        "extra": ("speckle_noise", "gaussian_blur", "saturate"),
        "files": ("webp_compression", "resize", "repost"),
    }
)
"""Three of the four extra corruptions of ImageNet-C (`spatter` is missing), and what happens to files on the way."""
FAMILIES = MappingProxyType({**BENCHMARK, **FURTHER})
NAMES = tuple(name for names in FAMILIES.values() for name in names)
MISSING = MappingProxyType(
    {
        "frost": "it needs photographs of frost, which are not part of this package",
        "elastic_transform": "it moves pixels, so that label maps would no longer fit",
        "spatter": "it is defined by routines of OpenCV, which is not a dependency",
    }
)
IN_PIXELS = frozenset({"defocus_blur", "glass_blur", "motion_blur", "gaussian_blur", "snow"})
"""Those with a length in pixels, which is meant for images of `REFERENCE_SIDE`."""
REFERENCE_SIDE = 224
MOST_SIDES_APART = 2.0
SEVERITIES = (1, 2, 3, 4, 5)
USUAL_SEVERITY = 3


def group_names(family: str) -> tuple[str, ...]:
    """The corruptions that `corruptions` or `corruptions:FAMILY` stands for. Raises UserError for no family."""
    if not family:
        return tuple(name for names in BENCHMARK.values() for name in names)
    if family == "all":
        return NAMES
    if family not in FAMILIES:
        raise unknown_name("family of corruptions", family, (*FAMILIES, "all"))
    return FAMILIES[family]


def check_corruption(name: str) -> None:
    """Raises UserError for no name, or one that is not known."""
    if name in MISSING:
        raise UserError(f"corruption '{name}' is not here: {MISSING[name]}.")
    if not name:
        raise UserError(f"name a corruption, such as {ATTACK}:fog; {GROUP} stands for all of the benchmark.")
    if name not in NAMES:
        raise unknown_name("corruption", name, NAMES)


def check_severity(severity: float) -> None:
    """Raises UserError for what is not a whole number from 1 to 5."""
    if severity not in SEVERITIES:
        raise UserError(f"severity {severity:g} is not defined; corruptions have the severities 1, 2, 3, 4 and 5.")


def family_of(name: str) -> str:
    """The family of a corruption; empty for an unknown one."""
    return next((family for family, names in FAMILIES.items() if name in names), "")
