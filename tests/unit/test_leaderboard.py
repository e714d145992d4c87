"""The leaderboard: one column one version of one suite, and a page an encoder."""

import re
from pathlib import Path

import pytest

from robustprobe.core.errors import UserError
from robustprobe.report.leaderboard import page_name, standings, write_leaderboard
from robustprobe.results.records import Record
from robustprobe.results.store import Store
from tests.unit.test_report_page import fill, read
from tests.unit.test_report_tables import AWKWARD, PLAIN, attack, make_record, records_of

pytestmark = pytest.mark.unit


def changed(encoder: str, **update: object) -> list[Record]:
    return [r.model_copy(update=update) for r in records_of(encoder)]


def test_what_most_encoders_have_is_the_version_and_others_are_refused_by_field() -> None:
    others = changed("other images", image_ids_digest="another choice")
    (standing,) = standings([*records_of("a"), *records_of("b", -0.1), *others])
    assert [row.encoder for row in standing.board.ranked] == ["a", "b"]
    (refusal,) = standing.refusals
    assert (refusal.encoder, refusal.field) == ("other images", "image_ids_digest")
    assert (refusal.own, refusal.expected) == ("another choice", "ids200")


def test_an_attack_of_other_steps_is_another_version() -> None:
    short = [r for r in records_of("short") if r.attack.name != "pgd"]
    short.append(make_record(attack("pgd", steps=5), 0.5, encoder="short"))
    (standing,) = standings([*records_of("a"), *records_of("b"), *short])
    (refusal,) = standing.refusals
    assert (refusal.cell, refusal.field) == ("classification on scenes, pgd 8/255", "attack.steps")
    assert (refusal.own, refusal.expected) == ("5", "20")


def test_a_version_of_the_program_is_a_version() -> None:
    old = records_of("old")[0].provenance.model_copy(update={"versions": {"robustprobe": "0.0.9"}})
    (standing,) = standings([*records_of("a"), *records_of("b"), *changed("old", provenance=old)])
    assert [(r.encoder, r.field, r.own) for r in standing.refusals] == [("old", "robustprobe", "0.0.9")]
    assert standing.version == "0.1.0"


def test_images_of_the_size_an_encoder_prefers_are_the_same_images() -> None:
    (standing,) = standings([*records_of("a"), *changed("b", image_size=(224, 224))])
    assert not standing.refusals
    assert len(standing.board.ranked) == 2


def test_a_ball_on_pixels_as_stored_is_another_version() -> None:
    (standing,) = standings([*records_of("a"), *records_of("b"), *changed("c", attack_at="native")])
    assert [(r.encoder, r.field, r.own) for r in standing.refusals] == [("c", "attack_at", "native")]


def test_an_encoder_measured_again_in_another_way_stays() -> None:
    again = [r.model_copy(update={"fingerprint": f"again-{r.fingerprint}", "n": 7}) for r in records_of("a")]
    (standing,) = standings([*records_of("a"), *records_of("b"), *again])
    assert not standing.refusals
    assert len(standing.board.ranked) == 2


def test_suites_have_boards_of_their_own() -> None:
    found = standings([*records_of("a"), *changed("a", suite="mine")])
    assert [s.suite for s in found] == ["demo", "mine"]


def test_the_site_has_an_index_and_a_page_an_encoder(tmp_path: Path) -> None:
    fill(Store(tmp_path / "results" / "mine"), records_of(PLAIN), examples=False)
    fill(Store(tmp_path / "results" / "theirs" / "deep"), records_of(AWKWARD, -0.1), examples=False)
    index = write_leaderboard(tmp_path / "results", tmp_path / "site")
    page = read(index)
    links = [t.attributes["href"] for t in page.all("a") if t.attributes.get("href", "").startswith("encoders/")]
    assert len(links) == 2
    for link in links:
        assert re.fullmatch(r"encoders/[A-Za-z0-9-]+\.html", link)
        own = read(tmp_path / "site" / link)
        assert any(t.attributes.get("href") == "../index.html" for t in own.all("a"))
    text = index.read_text()
    assert "<script>alert" not in text
    assert AWKWARD in page.text


def test_names_of_pages_are_safe_and_differ() -> None:
    names = {page_name(name, "0") for name in ("../../etc/passwd", "a/b", "a:b", "a" * 500)}
    assert len(names) == 4
    assert all(re.fullmatch(r"[A-Za-z0-9-]+\.html", name) and len(name) < 90 for name in names)


def test_no_results_are_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no results in"):
        write_leaderboard(tmp_path, tmp_path / "site")
