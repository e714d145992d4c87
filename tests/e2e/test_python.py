"""The Python surface, as its documentation shows it."""

import gc
import importlib.metadata
import inspect
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import robustprobe as rp

pytestmark = pytest.mark.e2e
RECIPE: dict[str, Any] = {"train_limit": 24, "epochs": 2, "learning_rates": (0.01,)}

TASKS = ("classification", "segmentation", "depth")


def test_import_alone_does_not_import_torch() -> None:
    program = "import sys, robustprobe as rp; print('torch' in sys.modules); rp.Encoder; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"]


def test_pandas_is_imported_for_a_data_frame_alone() -> None:
    program = "import sys, robustprobe as rp; rp.attack, rp.evaluate; print('pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False"]


def test_every_public_name_is_there() -> None:
    for name in rp.__all__:
        assert getattr(rp, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'atack'"):
        rp.atack  # noqa: B018


def test_an_editor_sees_names_version_and_examples() -> None:
    assert set(rp.__all__) <= set(dir(rp))
    assert not [name for name in dir(rp) if name.startswith("_") and not name.startswith("__")]
    assert rp.__version__ == importlib.metadata.version("robustprobe")
    functions = [name for name in rp.__all__ if inspect.isfunction(getattr(rp, name))]
    assert {"attack", "compare", "evaluate", "load_results", "plot", "show", "write_report"} <= set(functions)
    for name in functions:
        function = getattr(rp, name)
        assert ">>> import robustprobe as rp" in (inspect.getdoc(function) or ""), name
        kinds = [p.kind for p in inspect.signature(function).parameters.values()]
        assert all(p.annotation is not p.empty for p in inspect.signature(function).parameters.values()), name
        assert inspect.Parameter.VAR_KEYWORD not in kinds or name in ("fit_probe", "harden")


def test_a_wrong_keyword_is_refused_and_a_former_name_warns(my_encoder: Path) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'stpes'"):
        rp.evaluate(f"{my_encoder}:Tiny", "scenes", stpes=3)  # type: ignore[call-arg]
    with pytest.warns(DeprecationWarning, match="robustprobe.Widths is called FeatureDims now"):
        assert rp.Widths is rp.FeatureDims
    with pytest.raises(AttributeError, match="Did you mean 'evaluate'"):
        rp.evalute  # noqa: B018


def test_load_fit_attack(my_encoder: Path) -> None:
    encoder = rp.load_encoder(f"{my_encoder}:Tiny")
    data = rp.load_dataset("scenes", split="test", limit=6, size=(32, 32))
    model = rp.fit_probe(encoder, "scenes", task="classification", **RECIPE)
    images = torch.stack([sample.image for sample in data])
    targets = torch.stack([sample.targets["classification"] for sample in data])
    ids = [sample.id for sample in data]
    result = rp.attack(model, images, targets, attack="pgd", eps="8/255", norm="linf", steps=3, seed=0, ids=ids)
    assert result.adversarial.shape == images.shape
    assert (result.adversarial - images).abs().max() <= 8 / 255 + 1e-6
    assert torch.equal(result.score, (model(result.adversarial).argmax(1) == targets).float())
    back = rp.attack(model, images.flip(0), targets.flip(0), attack="pgd", steps=3, ids=ids[::-1])
    assert torch.equal(back.adversarial.flip(0), result.adversarial)


@pytest.mark.parametrize(
    ("task", "attack"),
    [("classification", "pgd"), ("segmentation", "segpgd"), ("depth", "depthpgd"), ("depth", "embed")],
)
def test_a_model_takes_images_of_another_size_than_its_head_was_fitted_at(
    my_encoder: Path, task: str, attack: str
) -> None:
    model = rp.fit_probe(f"{my_encoder}:Tiny", "scenes", task=task, **RECIPE)
    assert model.size == (32, 32)
    data = list(rp.load_dataset("scenes", limit=5, size=(50, 50)))
    images = torch.stack([sample.image for sample in data])
    targets = torch.stack([sample.targets[task] for sample in data])
    small = torch.nn.functional.interpolate(images, size=(32, 32), mode="bilinear", antialias=True).clamp(0, 1)
    torch.testing.assert_close(model(images), model(small))
    clean = rp.attack(model, images, targets, attack="clean")
    result = rp.attack(model, images, targets, attack=attack, steps=5)
    assert result.adversarial.shape == images.shape
    assert (result.adversarial - images).abs().max() <= 8 / 255 + 1e-6
    harm = clean.score - result.score if model.task.higher_is_better else result.score - clean.score
    assert harm.mean() >= 0 or attack == "embed"  # which knows no head


def test_fit_probe_asks_for_the_task_where_there_are_several(my_encoder: Path) -> None:
    with pytest.raises(rp.UserError, match="Known: classification, depth, normals, segmentation"):
        rp.fit_probe(f"{my_encoder}:Tiny", "scenes")


def test_evaluate_makes_a_data_frame(my_encoder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"limit": 5, "steps": 2, "head": RECIPE, "out": tmp_path, "tasks": TASKS}
    table = rp.evaluate(f"{my_encoder}:Tiny", ["scenes"], ["clean", "pgd"], **options)
    assert isinstance(table, pd.DataFrame)
    assert sorted(zip(table["task"], table["attack"], strict=True)) == [
        ("classification", "clean"),
        ("classification", "pgd"),
        ("depth", "clean"),
        ("segmentation", "clean"),
    ]
    assert (table["n"] == 5).all()
    assert table["ci_low"].le(table["value"]).all()
    assert table["value"].le(table["ci_high"]).all()
    rows = table.rows()
    assert sorted(set(zip(rows["task"], rows["attack"], strict=True))) == sorted(
        zip(table["task"], table["attack"], strict=True)
    )
    means = rows.groupby(["task", "attack"])["score"].mean()
    assert means["classification", "pgd"] == pytest.approx(table.query("attack == 'pgd'")["value"].item())
    assert rp.load_results(tmp_path).shape == table.shape
    whole = rp.evaluate(f"{my_encoder}:Tiny", ["scenes"], ["pgd"], transfer=True, **options)
    assert set(whole["task"]) == set(TASKS)
    assert set(whole["target_task"]) == {"classification"}


def test_nothing_is_left_of_a_temporary_result(my_encoder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = rp.evaluate(f"{my_encoder}:Tiny", "scenes", "clean", limit=3, head=RECIPE, tasks="depth")
    assert len(result.rows()) == 3
    assert result.report(tmp_path / "page.html").stat().st_size > 10_000
    del result
    gc.collect()
    with pytest.raises(rp.UserError):
        rp.evaluate(f"{my_encoder}:Tiny", "scenes", "clean", limit=3, head=RECIPE, tasks="no task")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize("task", [*TASKS, "normals"])
def test_models_and_attacked_images_show_themselves(my_encoder: Path, task: str) -> None:
    model = rp.fit_probe(f"{my_encoder}:Tiny", "scenes", task=task, **RECIPE)
    assert repr(model).startswith(f"Model(encoder: tiny, task: {task}")
    assert "tensor" not in repr(model)
    assert len(repr(model)) < 300
    shown = model._repr_html_()
    assert shown.count("data:image/png") == (4 if task == "classification" else 12)
    data = list(rp.load_dataset("scenes", limit=5, size=(32, 32)))
    images, targets = torch.stack([s.image for s in data]), torch.stack([s.targets[task] for s in data])
    result = rp.attack(model, images, targets, attack="apgd", steps=2)
    adversarial, score = result
    assert adversarial is result.adversarial
    assert score is result.score
    assert "apgd" in repr(result)
    assert "tensor" not in repr(result)
    assert len(repr(result)) < 300
    assert result._repr_html_().count("data:image/png") == 4 * 3
    again = pickle.loads(pickle.dumps(result))
    assert repr(again) == repr(result)
    model.sample_source = partial(rp.load_dataset, "imagefolder:nowhere")  # type: ignore[assignment]
    assert "data:image" not in model._repr_html_()


def test_evaluate_at_eps_zero_is_clean(my_encoder: Path) -> None:
    table = rp.evaluate(f"{my_encoder}:Tiny", ["scenes"], eps=0, limit=5, steps=2, head=RECIPE, transfer=True)
    for _, values in table.groupby("task")["value"]:
        assert values.nunique() == 1


def test_a_record_says_what_an_encoder_of_a_given_name_was_loaded_from(my_encoder: Path) -> None:
    options: dict[str, Any] = {"limit": 2, "head": RECIPE, "tasks": "depth"}
    (named,) = rp.evaluate(f"mine={my_encoder}:Tiny", "scenes", "clean", **options).records
    assert (named.encoder, named.encoder_spec.split("/")[-1]) == ("mine", f"{my_encoder.name}:Tiny")
    assert not named.encoder_spec.startswith("/")
    (plain,) = rp.evaluate(f"{my_encoder}:Tiny", "scenes", "clean", **options).records
    assert plain.encoder_spec == ""


@pytest.mark.parametrize("eps", [np.float32(4 / 255), torch.tensor(4 / 255), "4/255", [4 / 255], np.array([4 / 255])])
def test_one_name_and_one_number_where_one_is_meant(my_encoder: Path, eps: Any) -> None:
    steps: Any = np.int64(2)
    table = rp.evaluate(
        f"{my_encoder}:Tiny", "scenes", "pgd", tasks="classification", eps=eps, steps=steps, limit=3, head=RECIPE
    )
    assert table["attack"].tolist() == ["pgd"]
    assert table["task"].tolist() == ["classification"]
    assert table["eps"].tolist() == pytest.approx([4 / 255])


def test_progress_is_shown_where_it_is_asked_for(my_encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(progress: bool | None) -> str:
        rp.evaluate(f"{my_encoder}:Tiny", "scenes", "clean", limit=2, head=RECIPE, tasks="depth", progress=progress)
        shown = capsys.readouterr()
        assert shown.out == ""
        return "".join(line for line in shown.err.splitlines() if "running the code" not in line)

    assert run(None) == ""
    assert "all stages" in run(True)


def test_a_network_that_is_no_encoder_is_refused_with_what_to_do() -> None:
    with pytest.raises(rp.UserError, match=r"not a Conv2d; wrap it: robustprobe\.wrap"):
        rp.evaluate(torch.nn.Conv2d(3, 3, 1), "scenes")  # type: ignore[arg-type]
