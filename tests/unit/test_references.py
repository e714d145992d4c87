"""References: every file is complete, and a table stands beside our results of the same task, dataset and eps."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from robustprobe import UserError
from robustprobe.report.references.beside import beside_reference
from robustprobe.report.references.catalogue import Reference, find_reference, references
from robustprobe.report.tables import comparison
from tests.unit.test_report_tables import attack, make_record

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", references())
def test_every_reference_is_complete_and_plausible(name: str) -> None:
    reference = find_reference(name)
    assert all((reference.title, reference.citation, reference.read, reference.differences))
    for row in reference.rows:
        attacked = [score.value for score in row.attacked]
        assert all(0 <= value < row.clean <= 1 for value in attacked)
        for name_of_attack in {score.attack for score in row.attacked}:
            same = [score for score in row.attacked if score.attack == name_of_attack]
            values = [score.value for score in sorted(same, key=lambda score: score.eps)]
            assert values == sorted(values, reverse=True), "a larger eps does more harm"
        assert all(score.eps in (4 / 255, 8 / 255) for score in row.attacked)


def test_an_unknown_reference_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown reference 'lore-imagnet'. Did you mean 'lore-imagenet'"):
        find_reference("lore-imagnet")


def test_ours_stand_below_the_published_numbers_of_the_same_threat() -> None:
    reference = find_reference("deacl-cifar10")
    ours = [
        make_record(attack("clean"), 0.9, dataset="cifar10"),
        make_record(attack("pgd"), 0.1, dataset="cifar10"),
        make_record(attack("pgd", 4 / 255), 0.3, dataset="cifar10"),
        make_record(attack("embed"), 0.2, dataset="cifar10"),
        make_record(attack("pgd"), 0.2, dataset="stl10"),
        make_record(attack("pgd"), 0.4, dataset="cifar10", split="val"),
        make_record(attack("segpgd"), 0.5, dataset="cifar10"),
    ]
    found = beside_reference("deacl-cifar10", reference, ours)
    here = [row for row in found.rows if row["source"] == "here"]
    assert [(r["attack"], r["eps"], r["clean"], r["attacked"]) for r in here] == [("pgd", "8/255", 0.9, 0.1)]
    assert sum(row["source"] == "published" for row in found.rows) == 2
    text = comparison.render(found, "md")
    assert "AutoAttack 8/255" in text
    assert "0.461" in text
    assert all(difference in text for difference in reference.differences)
    assert "Not measured here" not in text


def test_a_reference_without_ours_says_what_would_be_needed() -> None:
    text = comparison.render(beside_reference("sea-ade20k", find_reference("sea-ade20k"), []), "md")
    assert "Not measured here: ade20k, segmentation, sea or ensemble at these eps on the test split." in text


def test_programs_get_rows_of_the_same_keys() -> None:
    found = beside_reference("lore-imagenet", find_reference("lore-imagenet"), [])
    told = json.loads(comparison.render(found, "json"))
    assert told["reference"] == "lore-imagenet"
    assert {tuple(cell) for cell in told["cells"]} == {("source", "encoder", "attack", "eps", "clean", "attacked", "n")}


def test_a_file_with_an_unknown_key_is_refused() -> None:
    whole = find_reference("lore-ade20k").model_dump()
    with pytest.raises(ValueError, match="extra"):
        Reference.model_validate({**whole, "extra": 1})


def test_the_command_lists_them_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv=['robustprobe','list','references','--format','json']\nfrom robustprobe.cli import main\n"
    )
    code += "try: main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert [entry["name"] for entry in json.loads(done.stdout)] == list(references())
