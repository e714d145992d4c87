"""Encoder sources: folders on disk, a user's own class, and what each refuses."""

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from robustprobe import Encoder, UserError, load_encoder
from robustprobe.encoders.file import Architecture, build
from tests.conftest import TINY

pytestmark = pytest.mark.unit

USER_FILE = """
import torch
from torch import nn
import robustprobe as rp

class Blocks(rp.Encoder):
    def __init__(self):
        super().__init__(rp.EncoderCard(name="blocks", patch_size=4, input_size=(16, 16), widths=rp.FeatureDims(6, 6)))
        self.conv = nn.Conv2d(3, 6, 4, stride=4)
    def features(self, images):
        patches = self.conv(images)
        return rp.Features(patches.mean((2, 3)), patches)

class Hollow(rp.Encoder): ...

class Other: ...
"""


def write_folder(folder: Path, card: object = None, model: nn.Module | None = None) -> str:
    """An encoder folder; its spec."""
    folder.mkdir(exist_ok=True)
    card = {"architecture": TINY.model_dump(), "licence": "CC0-1.0"} if card is None else card
    (folder / "card.json").write_text(card if isinstance(card, str) else json.dumps(card))
    if model is not None:
        save_file(model.state_dict(), folder / "encoder.safetensors")
    return f"file:{folder}"


def inner(encoder: Encoder) -> Any:
    """The timm model inside an encoder."""
    return cast(Any, encoder).model


@pytest.fixture
def saved(tmp_path: Path, tiny_encoder: Encoder) -> Path:
    write_folder(tmp_path / "encoder", model=inner(tiny_encoder))
    return tmp_path / "encoder"


def test_folder_round_trip_gives_timms_own_features(saved: Path, tiny_encoder: Encoder) -> None:
    encoder = load_encoder(f"file:{saved}")
    assert encoder.digest == tiny_encoder.digest
    assert (encoder.card.licence, encoder.card.patch_size, encoder.card.input_size) == ("CC0-1.0", 8, (16, 16))
    images = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    features = encoder(images)
    mean, std = torch.tensor(TINY.mean)[:, None, None], torch.tensor(TINY.std)[:, None, None]
    tokens = inner(tiny_encoder).forward_features((images - mean) / std)
    torch.testing.assert_close(features.cls, tokens[:, 0], rtol=0, atol=1e-6)
    for row in range(2):
        for column in range(3):
            patch = tokens[:, 1 + 3 * row + column]
            torch.testing.assert_close(features.patches[:, :, row, column], patch, rtol=0, atol=1e-6)


def test_loaded_encoders_are_frozen(saved: Path) -> None:
    encoder = load_encoder(f"file:{saved}")
    assert not any(m.training for m in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())


def test_timm_random_weights_need_no_network_and_are_the_same_every_time() -> None:
    encoder = load_encoder("timm:test_vit.random")
    assert encoder.card.source == "timm"
    assert encoder.card.patch_size == timm.create_model("test_vit").patch_embed.patch_size[0]
    features = encoder(torch.rand(1, 3, *encoder.card.input_size))
    assert features.cls.shape == (1, encoder.card.widths.cls)
    assert load_encoder("timm:test_vit.random").digest == encoder.digest


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("bundled:nope", "unknown bundled encoder 'nope'.*Known: "),
        ("bundled:scenez", "unknown bundled encoder 'scenez'. Did you mean 'scenes'"),
        ("bundle:scenes", "unknown encoder source 'bundle'. Did you mean 'bundled'"),
        ("zzz:scenes", "unknown encoder source 'zzz'.*Known: bundled, defended, file"),
        ("scenes", "'scenes' names no encoder source. Did you mean 'bundled:scenes'.*SOURCE:NAME"),
        ("file:", "'file:' names no encoder source"),
        ("", "'' names no encoder source"),
        ("timm:test_vi", "unknown timm model 'test_vi'. Did you mean 'test_vit'"),
        ("timm:vit_base", "Did you mean 'vit_base_patch16_224'"),
        ("timm:resnet-50", "Did you mean 'resnet50'"),
        ("timm:resnet-50.a1_in1k", "Did you mean 'resnet50.a1_in1k'"),
        ("timm:dinov2_vitl14", "Did you mean 'vit_large_patch14_dinov2.lvd142m'"),
        ("timm:resnet50.foo", "unknown tag of resnet50 'foo'.*Known: a1_in1k"),
        ("timm:vit_base_patch14_dinov2.lvd142", "Did you mean 'lvd142m'. Known: lvd142m"),
        ("timm:", "'timm:' names no encoder source. Write"),
        ("my.py:", "'my.py:' names no encoder source. Write"),
        ("file:no/such.pth", r"no file no/such\.pth; give the path of a checkpoint"),
        ("file:no/such/folder", "no no/such/folder/card.json; an encoder folder holds card.json and encoder.safet"),
        ("nothing.py:Mine", "no file nothing.py"),
    ],
)
def test_wrong_names_are_refused(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_encoder(spec)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("not json", r"card\.json cannot be read"),
        ("[1, 2]", "holds a list; a card is a JSON object"),
        ({}, "no readable 'architecture'"),
        ({"architecture": {"img_size": 16}}, "(?s)no readable 'architecture'.*patch_size"),
        ({"architecture": {**TINY.model_dump(), "heads": 3}}, "(?s)no readable 'architecture'.*heads"),
        ({"architecture": {**TINY.model_dump(), "num_heads": 3}}, r"card\.json.*architecture"),
        ({"architecture": {**TINY.model_dump(), "patch_size": 0}}, r"card\.json.*architecture"),
    ],
)
def test_wrong_cards_are_refused(saved: Path, card: object, message: str) -> None:
    write_folder(saved, card=card)
    with pytest.raises(UserError, match=message):
        load_encoder(f"file:{saved}")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def as_pickle(path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
            return exec, ("raise SystemExit('the pickle was run')",)

    path.write_bytes(pickle.dumps(Trap()))


def as_torch_file(path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, path)


@pytest.mark.parametrize("spoil", [cut_short, as_pickle, as_torch_file, Path.unlink])
def test_weights_that_are_not_safetensors_are_refused(saved: Path, spoil: Callable[[Path], object]) -> None:
    spoil(saved / "encoder.safetensors")
    with pytest.raises(UserError, match=r"encoder\.safetensors cannot be read as safetensors"):
        load_encoder(f"file:{saved}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 2}, "another architecture: missing blocks.1"),
        ({"embed_dim": 8}, r"another architecture: shape .* \(16,.*instead of \(8,"),
        ({"patch_size": 4}, "another architecture: shape .*patch_embed|another architecture: shape pos_embed"),
    ],
)
def test_weights_of_another_architecture_are_refused_by_key(saved: Path, change: dict[str, int], message: str) -> None:
    write_folder(saved, card={"architecture": {**TINY.model_dump(), **change}})
    with pytest.raises(UserError, match=message):
        load_encoder(f"file:{saved}")


def test_unknown_keys_in_weights_are_named(saved: Path, tiny_encoder: Encoder) -> None:
    weights = inner(tiny_encoder).state_dict() | {"decoder.weight": torch.zeros(2)}
    save_file(weights, saved / "encoder.safetensors")
    with pytest.raises(UserError, match=r"unknown decoder\.weight"):
        load_encoder(f"file:{saved}")


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(USER_FILE)
    return path


def test_users_own_class_is_an_encoder(user_file: Path) -> None:
    encoder = load_encoder(f"{user_file}:Blocks")
    assert not encoder.training
    assert not any(p.requires_grad for p in encoder.parameters())
    features = encoder(torch.rand(2, 3, 8, 12))
    assert (features.cls.shape, features.patches.shape) == ((2, 6), (2, 6, 2, 3))
    with pytest.raises(UserError, match="blocks got images of shape"):
        encoder(torch.rand(2, 3, 9, 12))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Other", "is the class Other, not an encoder: not a subclass of robustprobe.Encoder"),
        ("Hollow", "Hollow has no `features` method"),
        ("torch", "not a subclass of robustprobe.Encoder"),
        ("Bloks", "unknown name in .*mine.py 'Bloks'. Did you mean 'Blocks'"),
    ],
)
def test_users_class_that_is_no_encoder_is_refused(user_file: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_encoder(f"{user_file}:{name}")


@pytest.mark.parametrize("shape", [(1, 3, 16, 12), (1, 3, 20, 16), (1, 1, 16, 16), (3, 16, 16)])
def test_images_of_a_wrong_shape_are_refused(tiny_encoder: Encoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"file:tiny got images of shape .*multiples of 8.*\(16, 16\)"):
        tiny_encoder(torch.rand(shape))


def test_digest_follows_every_weight(tiny_encoder: Encoder) -> None:
    digests = {tiny_encoder.digest}
    names = list(tiny_encoder.state_dict())
    for name in (names[0], names[len(names) // 2], names[-1]):
        encoder = build(TINY, "file:tiny")
        encoder.load_state_dict(tiny_encoder.state_dict())
        assert encoder.digest == tiny_encoder.digest
        encoder = build(TINY, "file:tiny")
        encoder.load_state_dict(tiny_encoder.state_dict())
        encoder.state_dict()[name].view(-1)[-1] += 1e-6
        digests.add(encoder.digest)
    assert len(digests) == 4


def test_digest_follows_the_file_of_a_users_class(tmp_path: Path) -> None:
    """A file counts as it was when it was run, once for each process; so each is another file here."""
    with torch.random.fork_rng(devices=[]):
        digests = []
        for index, scale in enumerate(("1", "1", "2")):
            user_file = tmp_path / str(index) / "mine.py"
            user_file.parent.mkdir()
            user_file.write_text(USER_FILE.replace("self.conv(images)", f"{scale} * self.conv(images)"))
            torch.manual_seed(0)
            digests.append(load_encoder(f"{user_file}:Blocks").digest)
    assert digests[0] == digests[1] != digests[2]


def test_digest_follows_weights_that_change_after_it_was_read(tiny_encoder: Encoder) -> None:
    """Hardening fine-tunes a copy: with the old digest it would meet the old heads."""
    assert tiny_encoder.digest
    encoder = copy.deepcopy(tiny_encoder)
    with torch.no_grad():
        next(encoder.parameters()).add_(1)
    assert encoder.digest != tiny_encoder.digest


@pytest.mark.parametrize("change", [{"mean": (0.1, 0.2, 0.3)}, {"std": (1.0, 1.0, 1.0)}, {"num_heads": 4}])
def test_digest_follows_what_the_weights_do_not_tell(tiny_encoder: Encoder, change: dict[str, Any]) -> None:
    """The same weights behind another normalisation or with other attention heads are another encoder."""
    other = build(Architecture(**{**TINY.model_dump(), **change}), "file:tiny").freeze()
    inner(other).load_state_dict(inner(tiny_encoder).state_dict())
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(other(images).cls, tiny_encoder(images).cls)
    assert other.digest != tiny_encoder.digest


def hardened(folder: Path, card: dict[str, Any], **facts: Any) -> Encoder:
    """The encoder of a folder whose card says that it was hardened."""
    hardening = {"method": "deacl", "epoch": 3, "settings": {"eps": 0.1}, **facts}
    (folder / "card.json").write_text(json.dumps({**card, "teacher": "bundled:scenes", "hardening": hardening}))
    return load_encoder(f"file:{folder}")


def test_a_card_says_how_an_encoder_was_hardened(saved: Path) -> None:
    plain = json.loads((saved / "card.json").read_text())
    assert load_encoder(f"file:{saved}").card.model_dump(include={"teacher", "method", "epoch", "run"}) == {
        "teacher": "",
        "method": "",
        "epoch": None,
        "run": "",
    }
    first = hardened(saved, plain).card
    assert (first.teacher, first.method, first.epoch) == ("bundled:scenes", "deacl", 3)
    assert hardened(saved, plain, epoch=4, hours=2.5).card.run == first.run != ""
    assert hardened(saved, plain, settings={"eps": 0.2}).card.run != first.run
    for wrong in ({"epoch": "three"}, {"epoch": -1}, {"settings": 3}):
        with pytest.raises(UserError, match="no readable 'hardening'"):
            hardened(saved, plain, **wrong)


def test_bundled_hardened_encoders_say_whose_they_are() -> None:
    for name, method in (("scenes-deacl", "deacl"), ("photos-anyhead", "anyhead")):
        card = load_encoder(f"bundled:{name}").card
        assert (card.teacher, card.method, card.epoch) == (f"bundled:{name.split('-')[0]}", method, 4)


def test_a_card_whose_input_size_does_not_fit_its_patches_is_named(tiny_encoder: Encoder) -> None:
    wrong = copy.copy(tiny_encoder)
    wrong.card = tiny_encoder.card.model_copy(update={"input_size": (20, 20)})
    with pytest.raises(UserError, match=r"Correct its card: input_size \(20, 20\) is no multiple of patch_size 8"):
        wrong(torch.rand(1, 3, 20, 20))
    with pytest.raises(UserError, match=r"Resize the images, for instance to \(16, 16\)"):
        tiny_encoder(torch.rand(1, 3, 20, 20))
