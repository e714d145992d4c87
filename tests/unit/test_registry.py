"""Names become classes; listing them costs nothing."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from robustprobe import Attack, Dataset, UserError, load_dataset
from robustprobe.attacks import Victim, load_attack
from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.errors import unknown_name
from robustprobe.core.registry import Registry, attacks, datasets, defences, executors, sources, tasks, trackers
from robustprobe.core.suites import bundled_suites, find_suite
from robustprobe.core.user_code import load_attribute
from robustprobe.encoders import load_encoder
from robustprobe.tasks import fitting_attacks

pytestmark = pytest.mark.unit

ROOMS = {
    "attacks": attacks,
    "datasets": datasets,
    "tasks": tasks,
    "encoders": sources,
    "defences": defences,
    "executors": executors,
    "trackers": trackers,
}
EVERYTHING = [(room, name) for room, registry in ROOMS.items() for name in registry.names()]

ATTACK = """
from robustprobe.attacks import Attack, unjudged

class Darker(Attack):
    sees = "nothing"
    def perturb(self, victim, images, draws, previous):
        return unjudged(images - self.spec.eps)

class Unfinished(Attack):
    sees = "nothing"

class Other: ...
"""

DATASET = """
from PIL import Image
from robustprobe import Dataset, LabelSpace
from robustprobe.datasets.base import RawSample

class Greys(Dataset):
    labels = {"classification": LabelSpace(classes=("dark", "light"))}
    native_size = (4, 6)
    def ids(self):
        return [f"{self.split}-{i}" for i in range(2)]
    def read(self, index):
        return RawSample(Image.new("L", (6, 4), 255 * index), {"classification": index})
"""


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(ATTACK + DATASET)
    return path


def test_names_are_listed_without_importing_torch() -> None:
    code = (
        "import sys; from robustprobe.core.registry import attacks, datasets, tasks, sources;"
        "rooms = (attacks, datasets, tasks, sources);"
        "assert all(r.names() and [r.summary(n) for n in r.names()] for r in rooms);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_names_the_readme_relies_on_are_there() -> None:
    assert {"clean", "noise", "embed", "pgd", "segpgd", "depthpgd"} <= set(attacks.names())
    assert {"scenes", "cifar10", "camvid", "nyu_depth_v2"} <= set(datasets.names())
    assert {"classification", "segmentation", "depth"} <= set(tasks.names())
    assert {"bundled", "file", "timm", "python"} <= set(sources.names())


@pytest.mark.parametrize(("room", "name"), EVERYTHING)
def test_everything_registered_has_a_class_and_a_summary(room: str, name: str) -> None:
    registry = ROOMS[room]
    assert isinstance(registry.get(name), type)
    summary = registry.summary(name)
    assert summary.strip()
    assert "\n" not in summary
    assert not summary.endswith(".")


@pytest.mark.parametrize(
    ("registry", "wrong", "message"),
    [
        (attacks, "pdg", "unknown attack 'pdg'. Did you mean 'pgd'. Known: .*embed"),
        (datasets, "cifar-10", "unknown dataset 'cifar-10'. Did you mean 'cifar10'. Known: "),
        (tasks, "segmentacion", "unknown task 'segmentacion'. Did you mean 'segmentation'. Known: "),
        (tasks, "zzz", f"unknown task 'zzz'. Known: {', '.join(sorted(tasks.names()))}"),
        (attacks, "_base", "unknown attack '_base'"),
        (attacks, "../tasks/depth", "unknown attack"),
    ],
)
def test_unknown_names_get_the_nearest_match(registry: Registry[object], wrong: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        registry.get(wrong)


def test_unknown_name_without_anything_known_is_an_error_too() -> None:
    assert "unknown thing 'a'. Known: " in str(unknown_name("thing", "a", []))


def test_an_error_names_only_the_most_similar_of_a_thousand_names() -> None:
    said = str(unknown_name("thing", "net7x", [f"net{index}" for index in range(1000)]))
    assert "1,000 are known; the most similar: net" in said
    assert "net7" in said
    assert len(said) < 200


def test_attack_of_a_users_file_is_loaded(user_file: Path) -> None:
    import torch

    attack = load_attack(AttackSpec(name=f"{user_file}:Darker", eps=0.25))
    assert isinstance(attack, Attack)
    images = torch.full((1, 3, 2, 2), 0.5)
    assert attack(Victim(lambda x: x), images, ["a"]).unique().tolist() == [0.25]


def test_dataset_of_a_users_file_is_loaded(user_file: Path) -> None:
    data = load_dataset(f"{user_file}:Greys")
    assert isinstance(data, Dataset)
    assert data.kept_ids == ["test-0", "test-1"]
    assert [float(data[i].image.mean()) for i in (0, 1)] == [0, 1]
    assert data[1].image.shape == (3, 4, 6)


@pytest.mark.parametrize(
    ("registry", "attribute", "message"),
    [
        (attacks, "Other", "Other is not a subclass of robustprobe.attacks.*Attack; derive it"),
        (attacks, "Greys", "Greys is not a subclass of"),
        (datasets, "Darker", "Darker is not a subclass of robustprobe.datasets.*Dataset; derive it"),
        (attacks, "Image", "Image is not a subclass of"),
        (attacks, "Drker", "unknown name in .*mine.py 'Drker'. Did you mean 'Darker'"),
        (attacks, "Unfinished", "Unfinished .*perturb"),
    ],
)
def test_wrong_class_of_a_users_file_is_refused(
    user_file: Path, registry: Registry[object], attribute: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        registry.get(f"{user_file}:{attribute}")


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file .*nothing.py; give the path of a Python file"):
        attacks.get(f"{tmp_path}/nothing.py:Mine")


def test_file_that_cannot_be_imported_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("import no_such_package_anywhere")
    with pytest.raises(UserError, match=r"broken.py.*no_such_package_anywhere"):
        load_attribute(path, "Mine")


def test_bundled_suites_are_valid_and_found_by_name() -> None:
    suites = bundled_suites()
    assert {"demo", "everything", "quick", "paper", "real-encoder", "small-real"} <= suites.keys()
    for name, suite in suites.items():
        assert find_suite(name) == suite
        assert suite.name == name
        assert suite.description
        for attack in suite.attacks or ():
            attacks.get(attack.name)
        for dataset in suite.datasets:
            datasets.get(dataset.name.partition(":")[0])


def test_unknown_suite_gets_the_nearest_match() -> None:
    with pytest.raises(UserError, match=r"unknown suite 'dem'. Did you mean 'demo'"):
        find_suite("dem")
    with pytest.raises(UserError, match=r"no suite file dem.yaml"):
        find_suite("dem.yaml")


@pytest.mark.parametrize("name", attacks.files)
def test_the_citation_of_an_attack_is_read_without_its_code(name: str) -> None:
    assert attacks.literal(name, "citation") == attacks.get(name).citation  # type: ignore[attr-defined]


def test_a_file_without_a_citation_has_an_empty_one() -> None:
    assert attacks.literal("clean", "citation") == attacks.literal("my.py:Mine", "citation") == ""


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("autoattack", "ensemble"),
        ("AutoAttack", "ensemble"),
        ("aa", "ensemble"),
        ("PGD", "pgd"),
        ("fgsm", "pgd' with --steps 1 (in Python steps=1)"),
        *((name, "pgd' with --steps 20 (in Python steps=20)") for name in ("pgd-20", "PGD20", "pgd_20", "pgd-linf-20")),
        ("PGD20-5", "pgd' with --steps 20 (in Python steps=20)"),
        ("pgd-l2-50", "pgd' with --norm l2 --steps 50 (in Python norm=l2, steps=50)"),
        ("MI-FGSM", "pgd' with --momentum 1 (in Python momentum=1)"),
        ("autopgd", "apgd"),
        ("apgd-ce", "apgd:ce"),
        ("apgd-t", "apgd:targeted-dlr"),
        ("segpgd100", "segpgd' with --steps 100 (in Python steps=100)"),
        ("cw-l2", "apgd:margin"),
        ("C&W", "apgd:margin"),
        ("deepfool", "min-eps"),
        ("fog", "corruption:fog"),
        ("Gaussian-Noise", "corruption:gaussian_noise"),
    ],
)
def test_names_of_other_libraries_and_other_spellings_get_a_hint(name: str, meant: str) -> None:
    ending = "?" if meant.endswith(")") else "'?"
    with pytest.raises(UserError, match=re.escape(f"Did you mean '{meant}{ending}")):
        attacks.get(name)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("CIFAR10", "cifar10"),
        ("nyu", "nyu_depth_v2"),
        ("NYU-v2", "nyu_depth_v2"),
        ("imagenet1k", "imagenet"),
        ("ILSVRC", "imagenet"),
        ("Pascal VOC", "voc2012"),
        ("oxford5k", "roxford5k"),
        ("ADE", "ade20k"),
    ],
)
def test_datasets_are_known_by_their_names_in_papers(name: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"Did you mean '{meant}'"):
        datasets.get(name)
    assert datasets.get(meant)


def test_what_other_names_stand_for_is_there() -> None:
    for registry in (attacks, datasets):
        for meant in set(registry.elsewhere.values()):
            assert registry.get(re.split("[: ]", meant)[0])


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        *(("resnet50", "timm:resnet50"), ("ResNet50", "timm:resnet50"), ("resnot50", "timm:resnet50")),
        *(("vit_small_patch14_dinov2.lvd142m", "timm:vit_small_patch14_dinov2.lvd142m"), ("scenes", "bundled:scenes")),
        *(
            ("resnet-50", "timm:resnet50"),
            ("dino_vits16", "timm:vit_small_patch16_224.dino"),
            ("Photos", "bundled:photos"),
        ),
        *(("clip", "timm:vit_base_patch16_clip_224.openai"), ("vit_base", "timm:vit_base_patch16_224")),
        *(("CLIP-ViT-L14", "timm:vit_large_patch14_clip_224.openai"), ("mae", "timm:vit_base_patch16_224.mae")),
        *(("timm/resnet50.a1_in1k", "timm:resnet50.a1_in1k"), ("dinov2-base", "timm:vit_base_patch14_dinov2.lvd142m")),
        *(("facebook/dinov2-small", "hf:facebook/dinov2-small"), ("my.py", "my.py:Class")),
    ],
)
def test_an_encoder_without_its_source_gets_the_whole_name(name: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"Did you mean '{re.escape(meant)}'"):
        load_encoder(name)


def test_an_attack_with_an_objective_is_made_for_the_tasks_that_have_that_loss() -> None:
    every = ["classification", "segmentation", "depth", "normals"]
    assert set(fitting_attacks(every, "rmse")) == {"depth"}
    assert set(fitting_attacks(every, "dlr")) == {"classification"}
    assert set(fitting_attacks(["classification"], "rmse")) == set()
    assert set(fitting_attacks(every, "no such loss")) == set(fitting_attacks(every)) == set(every)
