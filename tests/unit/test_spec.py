"""Descriptions of work: parsing, defaults, refusals and fingerprints."""

import ast
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from robustprobe import UserError
from robustprobe.core import fingerprints
from robustprobe.core.attack_spec import AttackChoice, AttackSpec
from robustprobe.core.fingerprints import BESIDE_NUMBERS, code_digest, fingerprint
from robustprobe.core.head_spec import HeadSpec
from robustprobe.core.sizes import format_eps, parse_eps
from robustprobe.core.spec import DatasetSpec, Suite, load_suite
from robustprobe.core.spec_base import Spec, validated

pytestmark = pytest.mark.unit

SUITE = Suite(encoders=("bundled:a",), datasets=(DatasetSpec(name="scenes"),))


@pytest.mark.parametrize(
    ("written", "meant"),
    [("8/255", 8 / 255), (" 8 / 255 ", 8 / 255), (0, 0), ("0", 0), (0.5, 0.5), ("1", 1), ("1e-3", 1e-3), ("0/255", 0)],
)
def test_sizes_are_read(written: str | float, meant: float) -> None:
    assert parse_eps(written) == meant


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("8/0", "'8/0' divides by zero"),
        ("0/0", "'0/0' divides by zero"),
        ("x", "'x' is not a number"),
        ("", "'' is not a number"),
        ("8/", "'8/' is not a number"),
        ("1/2/3", "'1/2/3' is not a number"),
        ("-1/255", "'-1/255' is no size"),
        (-0.1, "'-0.1' is no size"),
        ("nan", "'nan' is no size"),
        ("inf", "'inf' is no size"),
        ("inf/inf", "'inf/inf' is no size"),
    ],
)
def test_sizes_that_are_none_are_refused_with_an_example(written: str | float, message: str) -> None:
    with pytest.raises(UserError, match=f"{message}.*8/255"):
        parse_eps(written)


@given(levels=st.integers(0, 255))
def test_whole_grey_levels_survive_being_written_and_read(levels: int) -> None:
    assert format_eps(levels / 255) == f"{levels}/255"
    assert parse_eps(format_eps(levels / 255)) == levels / 255


@given(eps=st.floats(1e-6, 1))
def test_any_size_survives_being_written_and_read_to_six_digits(eps: float) -> None:
    assert parse_eps(format_eps(eps)) == pytest.approx(eps, rel=1e-5)


def test_step_is_a_quarter_of_eps_unless_given() -> None:
    assert AttackSpec(name="pgd").step_size == 2 / 255
    assert validated(AttackSpec, {"name": "pgd", "eps": "4/255"}, "it").step_size == pytest.approx(1 / 255)
    assert validated(AttackSpec, {"name": "pgd", "eps": "4/255", "step_size": None}, "it").step_size == 1 / 255
    assert validated(AttackSpec, {"name": "pgd", "eps": "4/255", "step_size": "3/255"}, "it").step_size == 3 / 255
    assert AttackSpec(name="pgd", eps=0).step_size == 0
    assert AttackSpec(name="pgd", eps=0, step_size=0.1).step_size == 0.1
    assert AttackSpec(name="pgd", eps=0.5, step_size=0).step_size == 0


def test_attack_survives_json() -> None:
    attack = AttackSpec(name="pgd", eps=1 / 3, step_size=0.1, seed=5)
    assert AttackSpec.model_validate_json(attack.model_dump_json()) == attack


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        (AttackSpec, {"name": "pgd", "epsilon": 0.1}, "unknown key epsilon"),
        (AttackSpec, {"eps": 0.1}, "name is missing"),
        (AttackSpec, {"name": "pgd", "steps": 0}, "steps: "),
        (AttackSpec, {"name": "pgd", "norm": "l7"}, "norm: .*linf"),
        (AttackSpec, {"name": "pgd", "eps": "8"}, "outside"),
        (AttackSpec, {"name": "pgd", "step_size": "-1/255"}, "no size"),
        (AttackSpec, "pgd", ""),
        (HeadSpec, {"train_limit": 0}, "train_limit: "),
        (HeadSpec, {"learning_rates": []}, "learning_rates: "),
        (Suite, {"datasets": [{"name": "scenes"}]}, "encoders is missing"),
        (Suite, {"encoders": [], "datasets": [{"name": "scenes"}]}, "encoders: "),
        (Suite, {"encoders": ["a"], "datasets": [{"name": "scenes", "limit": 0}]}, "datasets.0.limit: "),
        (Suite, {"encoders": ["a"], "datasets": [{"name": "b", "split": "train"}]}, "datasets.0.split: .*'val'"),
        (Suite, {"encoders": ["a"], "datasets": [{"name": "b"}], "head": {"lr": 1}}, "unknown key head.lr"),
        (Suite, {"encoders": ["a"], "datasets": [{"name": "b"}], "eps": ["8/0"]}, "eps.0: .*divides by zero"),
    ],
)
def test_wrong_descriptions_are_refused_in_one_message(kind: type[BaseModel], data: object, message: str) -> None:
    with pytest.raises(UserError, match=f"my spec cannot be used: .*{message}"):
        validated(kind, data, "my spec")


def test_descriptions_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        SUITE.seed = 3


def test_attacks_of_a_suite_climb_every_eps_from_the_one_before_and_clean_comes_once() -> None:
    suite = SUITE.model_copy(update={"eps": (0.2, 0.1), "seed": 3})
    made = [a for name in ("clean", "noise", "pgd") for a in suite.attack_specs(AttackChoice(name=name), steps=7)]
    assert [(a.name, a.eps, a.steps, a.warm) for a in made] == [
        ("clean", 0.0, 1, ()),
        ("noise", 0.1, 1, ()),
        ("noise", 0.2, 1, ()),
        ("pgd", 0.1, 7, ()),
        ("pgd", 0.2, 7, (0.1,)),
    ]
    assert {(a.seed, a.iterate, a.norm) for a in made} == {(3, "best", "linf")}
    assert [a.step_size for a in made] == [0.25 * a.eps for a in made]
    last = suite.model_copy(update={"iterate": "last"})
    assert [a.warm for a in last.attack_specs(AttackChoice(name="pgd"), steps=7)] == [(), ()]


def test_no_warm_start_is_recorded_for_an_attack_that_takes_none_nor_from_the_clean_image() -> None:
    suite = SUITE.model_copy(update={"eps": (0.0, 0.1, 0.2)})
    choice = AttackChoice(name="pgd")
    assert [a.warm for a in suite.attack_specs(choice, steps=7)] == [(), (), (0.1,)]
    assert [a.warm for a in suite.attack_specs(choice, steps=7, warm_start=False)] == [(), (), ()]


def test_an_attack_of_a_suite_may_have_its_own_eps() -> None:
    attacks = ["pgd", {"name": "ensemble", "eps": ["8/255", "4/255"]}]
    suite = validated(Suite, {**SUITE.model_dump(), "eps": [0.5, 0.25], "attacks": attacks}, "it")
    assert suite.attacks is not None
    made = [a for choice in suite.attacks for a in suite.attack_specs(choice, steps=7)]
    assert [(a.name, a.eps) for a in made] == [
        ("pgd", 0.25),
        ("pgd", 0.5),
        ("ensemble", 4 / 255),
        ("ensemble", 8 / 255),
    ]
    assert [a.warm for a in made] == [(), (0.25,), (), (4 / 255,)]
    for eps, message in (([2.0], r"outside \[0, 1\]"), ([], "one or more"), (["x"], "not a number")):
        with pytest.raises(UserError, match=message):
            validated(Suite, {**SUITE.model_dump(), "attacks": [{"name": "pgd", "eps": eps}]}, "it")


def test_what_a_choice_says_of_an_attack_comes_before_what_the_suite_says() -> None:
    suite = validated(Suite, {**SUITE.model_dump(), "attacks": ["apgd:dlr", {"name": "pgd", "steps": 3}]}, "it")
    assert suite.attacks is not None
    first, second = suite.attacks
    assert (first.name, first.objective) == ("apgd", "dlr")
    wide = suite.model_copy(update={"steps": 9, "restarts": 2})
    assert [wide.attack_specs(c, steps=50)[0].steps for c in (first, second)] == [9, 3]
    assert [suite.attack_specs(c, steps=50)[0].steps for c in (first, second)] == [50, 3]
    assert wide.attack_specs(first, steps=50)[0].restarts == 2


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("pgd", ("pgd", "")),
        ("apgd:dlr", ("apgd", "dlr")),
        ("my.py:Mine", ("my.py:Mine", "")),
        ("a/my.py:Mine:dlr", ("a/my.py:Mine", "dlr")),
        ("embed:l2@2,3", ("embed", "l2@2,3")),
    ],
)
def test_attack_names_carry_their_objective(name: str, parts: tuple[str, str]) -> None:
    spec = AttackSpec(name=name)
    assert (spec.name, spec.objective) == parts
    assert spec.label == name
    assert AttackSpec.model_validate(spec.model_dump()) == spec


@pytest.mark.parametrize("kind", [AttackSpec, Suite])
def test_only_other_norms_than_linf_go_beyond_1(kind: type[Spec]) -> None:
    data = {"name": "pgd"} if kind is AttackSpec else SUITE.model_dump()
    eps = 2.5 if kind is AttackSpec else (2.5,)
    with pytest.raises(UserError, match=r"eps 2.5 is outside \[0, 1\]"):
        validated(kind, {**data, "eps": eps, "norm": "linf"}, "it")
    assert validated(kind, {**data, "eps": eps, "norm": "l2"}, "it")


def test_suite_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text("encoders: [bundled:a]\ndatasets: [{name: scenes, limit: 5}]\neps: [8/255, 0.1]\n")
    suite = load_suite(path)
    assert suite == SUITE.model_copy(update={"datasets": (DatasetSpec(name="scenes", limit=5),), "eps": (8 / 255, 0.1)})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"encoders: [a\n", "cannot be read as YAML"),
        (b"\xff\xfe\xfa", "cannot be read as YAML"),
        (b"", "cannot be used: "),
        (b"- a\n- b\n", "cannot be used: "),
        (b"just words", "cannot be used: "),
        (b"encoders: [a]\ndatasets: [{name: b}]\natacks: [pgd]\n", "unknown key atacks"),
    ],
)
def test_wrong_suite_files_are_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "suite.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"suite.yaml .*{message}"):
        load_suite(path)


def test_missing_suite_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no suite file .*nothing.yaml.*robustprobe list suites"):
        load_suite(tmp_path / "nothing.yaml")
    with pytest.raises(UserError, match="cannot be read as YAML"):
        load_suite(tmp_path)


CHANGES = {
    "name": "embed",
    "eps": 0.5,
    "steps": 3,
    "step_size": 0.25,
    "random_start": False,
    "iterate": "last",
    "seed": 9,
    "objective": "dlr",
    "restarts": 2,
    "early_exit": True,
    "warm": (0.1,),
    "eot_samples": 4,
    "bpda": ("encoder.jpeg",),
    "judgements": 3,
    "momentum": 1.0,
    "input_diversity": 0.5,
    "translation_kernel": 15,
    "lost_share": 0.25,
    "position": "worst",
    "position_samples": 4,
}


@pytest.mark.parametrize("field", sorted(AttackSpec.model_fields.keys() - {"norm"}))
def test_fingerprint_changes_with_every_field(field: str) -> None:
    attack = AttackSpec(name="pgd", step_size=0.1)
    changed = attack.model_copy(update={field: CHANGES[field]})
    assert changed.fingerprint() != attack.fingerprint()
    assert attack.model_copy().fingerprint() == attack.fingerprint()


def test_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [1, {"c": 2, "d": 3}]}) == fingerprint({"b": [1, {"d": 3, "c": 2}], "a": 1})
    assert fingerprint({"a": [1, 2]}) != fingerprint({"a": [2, 1]})
    assert len(fingerprint("x")) == 16


@pytest.mark.parametrize(
    "changed",
    ["attacks/pgd.py", "attacks/_apgd.py", "datasets/_rendering.py", "losses/depth.py", "evaluation/evaluate.py"],
)
def test_code_digest_follows_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    copy = tmp_path / "robustprobe"
    shutil.copytree(
        Path(fingerprints.__file__).parents[1], copy, ignore=shutil.ignore_patterns("assets", "__pycache__")
    )
    before = code_digest()
    monkeypatch.setattr(fingerprints, "__file__", str(copy / "core" / "fingerprints.py"))
    assert code_digest() == before
    for room in BESIDE_NUMBERS:
        (copy / room / "new.py").write_text("# no number depends on this")
    assert code_digest() == before
    source = copy / changed
    source.write_text(source.read_text() + "# changed\n")
    assert code_digest() != before


def test_no_code_that_numbers_depend_on_is_left_out_of_its_digest() -> None:
    """Rooms that count import none that does not, but for what keeps numbers and finds weights as they are."""
    kept = {"robustprobe.results", "robustprobe.training.folder"}
    root = Path(fingerprints.__file__).parents[1]
    files = [f for f in root.rglob("*.py") if f.parent != root and f.relative_to(root).parts[0] not in BESIDE_NUMBERS]
    assert len(files) > 100
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            beside = any(f"{module}.".startswith(f"robustprobe.{room}.") for room in BESIDE_NUMBERS)
            assert not beside or any(f"{module}.".startswith(f"{one}.") for one in kept), file


@pytest.mark.parametrize("field", ["train_limit", "batch_size"])
def test_heads_need_two_images_at_a_time(field: str) -> None:
    # BatchNorm learns nothing from one image: a head would stay as it was drawn.
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        HeadSpec.model_validate({field: 1})


@pytest.mark.parametrize("field", ["examples", "sanity_images", "extreme_examples"])
def test_images_that_are_held_are_bounded(field: str) -> None:
    data = {"encoders": ["x"], "datasets": [{"name": "scenes"}], field: 1001}
    with pytest.raises(UserError, match=f"{field}: .*less than or equal to 1000"):
        validated(Suite, data, "the run")


@pytest.mark.parametrize("several", [False, True])
def test_one_thing_may_stand_where_a_list_is_expected(several: bool) -> None:
    one = {"encoders": "a", "datasets": "scenes", "tasks": "depth", "attacks": "pgd", "eps": "4/255"}
    data = {key: [value] if several else value for key, value in one.items()}
    suite = validated(Suite, data, "it")
    assert (suite.encoders, suite.tasks, suite.eps) == (("a",), ("depth",), (4 / 255,))
    assert suite.datasets == (DatasetSpec(name="scenes"),)
    assert suite.attacks == (AttackChoice(name="pgd"),)
    assert validated(Suite, {**one, "datasets": {"name": "scenes", "limit": 3}}, "it").datasets[0].limit == 3


@pytest.mark.parametrize(
    "change",
    [
        {"steps": "many"},
        {"datasets": True},
        {"encoders": []},
        {"head": "fast"},
        {"eps": ["9/0"]},
        {"norm": "l3"},
        {"a": 1},
    ],
)
def test_messages_name_nothing_of_the_library_that_checks(change: dict[str, object]) -> None:
    good = {"encoders": ["a"], "datasets": ["scenes"]}
    with pytest.raises(UserError) as caught:
        validated(Suite, {**good, **change}, "my.yaml")
    message = str(caught.value)
    assert not re.search(r"Input should|Value error|[Tt]uple|\bdict|pydantic|Suite|\.;|\.\.$", message), message
    assert next(iter(change)) in message


@pytest.mark.parametrize(
    ("given", "said"), [("a: b..", "a: b."), ("look in ..", "look in .."), ("wait ...", "wait ...")]
)
def test_no_message_ends_in_two_full_stops(given: str, said: str) -> None:
    assert str(UserError(given)) == said
