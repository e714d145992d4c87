"""What is written for the Hub is what its own classes read, and holds the numbers of the table."""

import json
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from huggingface_hub import ModelCard

from robustprobe import UserError
from robustprobe.report.bibtex import bibtex
from robustprobe.report.hub_card import RESULTS, write_hub
from robustprobe.results.records import CheckFact, Record
from robustprobe.results.store import Store
from tests.unit.test_report_tables import PLAIN, attack, make_record, records_of

pytestmark = pytest.mark.unit


def filled(folder: Path, records: list[Record]) -> Path:
    store = Store(folder).prepare()
    for record in records:
        store.write_record(record)
    return folder


def test_the_card_is_read_by_the_hub_s_own_classes_with_every_number(tmp_path: Path) -> None:
    doubt = CheckFact(name="black box", value=0.1, passed=False, meaning="square is stronger")
    records = records_of(PLAIN)
    records[-1] = records[-1].model_copy(update={"checks": (doubt,)})
    files = write_hub(filled(tmp_path / "results", records), tmp_path / "hub")
    assert files == ["README.md", "CITATION.bib"]
    card = ModelCard.load(tmp_path / "hub" / "README.md")
    assert card.data.model_name == PLAIN
    found = card.data.eval_results
    assert found is not None
    own = [r for r in records if not r.is_transfer]
    assert sorted(one.metric_value for one in found) == sorted(r.headline.value for r in own)
    kinds = {"image-classification", "image-segmentation", "depth-estimation"}
    assert {one.task_type for one in found} == kinds
    pgd = next(one for one in found if one.metric_args and one.metric_args.get("attack") == "pgd")
    assert pgd.metric_args is not None
    assert (pgd.metric_name, pgd.metric_args["norm"]) == ("top-1, pgd 8/255", "linf")
    assert pgd.metric_args["ci_low"] == pytest.approx(0.35)
    assert "square is stronger" in str([one.metric_args for one in found])
    assert "protocol `robustprobe-v1/" in card.text
    assert "0.400 [0.350, 0.450]" in card.text
    assert "†" in card.text


def test_evaluation_results_are_the_hub_s_entries(tmp_path: Path) -> None:
    records = records_of(PLAIN)
    results = filled(tmp_path / "results", records)
    files = write_hub(results, tmp_path / "hub", ids={"scenes": "someone/scenes"})
    content = yaml.safe_load((tmp_path / "hub" / files[-1]).read_text())
    assert files[-1] == ".eval_results/robustprobe.yaml"
    assert len({one["dataset"]["task_id"] for one in content}) == len([r for r in records if not r.is_transfer])
    if not hasattr(huggingface_hub, "parse_eval_result_entries"):
        pytest.skip("this huggingface_hub does not know .eval_results")
    entries = huggingface_hub.parse_eval_result_entries(content)
    assert huggingface_hub.eval_result_entries_to_yaml(entries) == content
    assert {entry.dataset_id for entry in entries} == {"someone/scenes"}
    assert all("n = 200" in entry.notes for entry in entries)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_left_out_of_what_the_hub_reads(tmp_path: Path, bad: float) -> None:
    records = records_of(PLAIN)
    own = [number for number, record in enumerate(records) if not record.is_transfer]
    for number, changed in ((own[0], {"value": bad}), (own[1], {"ci_low": -bad, "ci_high": bad})):
        wrong = records[number].headline.model_copy(update=changed)
        records[number] = records[number].model_copy(update={"metrics": {records[number].metric: wrong}})
    write_hub(filled(tmp_path / "results", records), tmp_path / "hub", ids={"scenes": "someone/scenes"})
    metadata = (tmp_path / "hub" / "README.md").read_text().split("---\n")[1]
    found = [yaml.safe_load(text) for text in (metadata, (tmp_path / "hub" / RESULTS).read_text())]
    json.dumps(found, allow_nan=False, default=str)
    results = found[0]["model-index"][0]["results"]
    assert sum(len(one["metrics"]) for one in results) == len(found[1]) == len(own) - 1


def test_wrong_names_are_one_error(tmp_path: Path) -> None:
    results = filled(tmp_path / "results", [*records_of("a"), *records_of("b")])
    with pytest.raises(UserError, match="has 2 encoders; name one with --encoder: a, b"):
        write_hub(results, tmp_path / "hub")
    with pytest.raises(UserError, match="unknown encoder"):
        write_hub(results, tmp_path / "hub", "c")
    with pytest.raises(UserError, match="unknown dataset"):
        write_hub(results, tmp_path / "hub", "a", {"cifar": "x/y"})
    assert not (tmp_path / "hub").exists()
    write_hub(results, tmp_path / "hub", "a")
    assert ModelCard.load(tmp_path / "hub" / "README.md").data.model_name == "a"


def test_the_bibliography_names_attacks_and_datasets_once(tmp_path: Path) -> None:
    made = [make_record(attack(name), 0.5, dataset="cifar10") for name in ("clean", "pgd")]
    write_hub(filled(tmp_path / "results", made), tmp_path / "hub")
    text = (tmp_path / "hub" / "CITATION.bib").read_text()
    for entry in ("@software{robustprobe,", "@misc{kowalczuk2024,", "@misc{madry2018,", "@misc{krizhevsky2009,"):
        assert text.count(entry) == 1
    assert "eprint = {1706.06083}" in text


@pytest.mark.parametrize(
    ("citation", "lines"),
    [
        ("Croce and Hein, A & B, 2020, arXiv:2003.01690", ["author = {Croce and Hein}", "title = {{A \\& B}}"]),
        ("Zhou et al., Scenes, CVPR 2017", ["author = {Zhou and others}", "howpublished = {CVPR}", "year = {2017}"]),
        ("Brostow, Fauqueur, Cipolla, On video, PRL 2009", ["author = {Brostow and Fauqueur and Cipolla}"]),
    ],
)
def test_a_citation_becomes_fields(citation: str, lines: list[str]) -> None:
    text = bibtex([citation, citation, "the user's own images"], "1.0")
    assert text.count("@misc") == 1
    assert all(f"  {line}," in text.splitlines() for line in lines), text
