"""Names of encoders for tables, and paths without the folders of a machine."""

from pathlib import Path

import pytest

from robustprobe.core.errors import UserError
from robustprobe.core.shared_names import distinct_names, shared_name, shared_text, split_name

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("spec", "name", "own"),
    [
        ("ours=file:runs/a", "ours", "file:runs/a"),
        ("DINOv2 S/14=timm:x", "DINOv2 S/14", "timm:x"),
        ("./a=b/my.py:Encoder", "", "./a=b/my.py:Encoder"),
        ("our best=timm:vit.tag", "our best", "timm:vit.tag"),
        ("s=dinov2_vits14", "s", "dinov2_vits14"),
        ("a=file:b.pt?arch=c&branch=d", "a", "file:b.pt?arch=c&branch=d"),
        ("file:b.pt?arch=c", "", "file:b.pt?arch=c"),
        ("/data/my.py:Encoder", "", "/data/my.py:Encoder"),
        ("x=/data/my.py:Encoder", "x", "/data/my.py:Encoder"),
        ("hf:org/name@rev", "", "hf:org/name@rev"),
    ],
)
def test_a_name_stands_before_the_spec(spec: str, name: str, own: str) -> None:
    assert split_name(spec) == (name, own)


@pytest.mark.parametrize("spec", [" =timm:x", "a\x1bb=timm:x"])
def test_a_name_that_cannot_be_shown_is_refused(spec: str) -> None:
    with pytest.raises(UserError, match="no usable name"):
        split_name(spec)


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("file:/home/me/runs/deacl/encoder.pt?arch=vit", "file:runs/deacl/encoder.pt?arch=vit"),
        ("file:~/runs/a", "file:runs/a"),
        (r"file:C:\Users\me\runs\a\b", "file:runs/a/b"),
        ("/home/me/code/my.py:Encoder", "me/code/my.py:Encoder"),
        ("imagefolder:/mnt/big disk/sets/mine", "imagefolder:big disk/sets/mine"),
        ("file:runs/2026/deacl/checkpoints/epoch-05", "file:deacl/checkpoints/epoch-05"),
        ("hub:facebookresearch/dino:main:dino_vitb16", "hub:facebookresearch/dino:main:dino_vitb16"),
        ("hf:facebook/dinov2-base", "hf:facebook/dinov2-base"),
        ("timm:vit.tag", "timm:vit.tag"),
        ("file:weights/dino-deacl", "file:weights/dino-deacl"),
        ("src/models/vision/own/my.py:Encoder", "vision/own/my.py:Encoder"),
        ("imagefolder:data/a/b/c/d", "imagefolder:data/a/b/c/d"),
    ],
)
def test_an_absolute_path_is_shortened_and_nothing_else(name: str, short: str) -> None:
    assert shared_name(name) == short
    assert shared_name(short) == short


def test_names_get_as_much_of_their_paths_as_tells_them_apart() -> None:
    names = ["file:/a/x/ours/checkpoints/e-1", "file:/a/x/theirs/checkpoints/e-1", "file:/b/y/c/best/e-1", "timm:v"]
    assert distinct_names(names) == [
        "file:ours/checkpoints/e-1",
        "file:theirs/checkpoints/e-1",
        "file:c/best/e-1",
        "timm:v",
    ]
    deep = ["file:/a/x/runs/checkpoints/e-1", "file:/a/y/runs/checkpoints/e-1"]
    assert distinct_names(deep) == ["file:x/runs/checkpoints/e-1", "file:y/runs/checkpoints/e-1"]
    assert distinct_names(["timm:v", "timm:v"]) == ["timm:v", "timm:v"]
    assert distinct_names([]) == []


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (
            "robustprobe run --encoder=file:/home/me/a/b/c.pt --eps 4/255 --out /tmp/x",
            "robustprobe run --encoder=file:a/b/c.pt --eps 4/255 --out tmp/x",
        ),
        ("robustprobe run '/home/me/s.yaml' --only 'dinov2*'", "robustprobe run 'home/me/s.yaml' --only 'dinov2*'"),
        ("robustprobe run https://host/x data/mine --ray-address 10.0.0.1:6379", None),
        ("robustprobe run C:/Users/me/deep/er/s.yaml", "robustprobe run deep/er/s.yaml"),
    ],
)
def test_a_command_keeps_what_is_no_absolute_path(command: str, shown: str | None) -> None:
    assert shared_text(command) == (shown or command)


@pytest.mark.parametrize(
    ("home", "shown"),
    [
        ("/srv/people/ann", "run a/b --out out"),
        ("/srv/people/ann/", "run a/b --out out"),
        ("/srv/people/anna", "run ann/a/b --out people/ann/out"),
        ("/", "run ann/a/b --out people/ann/out"),
    ],
)
def test_paths_below_the_home_folder_lose_its_name(monkeypatch: pytest.MonkeyPatch, home: str, shown: str) -> None:
    monkeypatch.setenv("HOME", home)
    assert shared_text("run /srv/people/ann/a/b --out /srv/people/ann/out") == shown


def test_a_path_with_an_equals_sign_is_a_path_where_its_file_is_there(tmp_path: Path) -> None:
    (tmp_path / "lr=0.1").mkdir()
    (tmp_path / "lr=0.1" / "my.py").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert split_name("lr=0.1/my.py:Mine") == ("", "lr=0.1/my.py:Mine")
        assert split_name("mine=lr=0.1/my.py:Mine") == ("mine", "lr=0.1/my.py:Mine")
        assert split_name("lr=0.2/my.py:Mine") == ("lr", "0.2/my.py:Mine")
