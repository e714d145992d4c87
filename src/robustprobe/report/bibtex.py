"""Publications as BibTeX entries."""

import re
from collections.abc import Iterable

_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
_YEAR = re.compile(r"\b(19|20)\d{2}\b")


def bibtex(citations: Iterable[str], version: str) -> str:
    """An entry for robustprobe and one for each publication, such as `Gu et al., SegPGD, 2022, arXiv:2207.12391`.

    A text without a year names no publication, and has no entry.
    """
    software = {
        "title": "robustprobe: how robust is a vision encoder, for everything it will be used for?",
        "author": "{The robustprobe authors}",
        "year": "",
        "note": f"version {version}",
    }
    entries = {"robustprobe": _entry("software", "robustprobe", software)}
    for citation in dict.fromkeys(citations):
        if years := _YEAR.search(_ARXIV.sub("", citation)):
            key = _key(citation, years[0])
            while key in entries:
                key += "b"
            entries[key] = _entry("misc", key, _fields(citation, years[0]))
    return "\n\n".join(entries.values()) + "\n"


def _fields(citation: str, year: str) -> dict[str, str]:
    arxiv = _ARXIV.search(citation)
    authors, _, rest = citation.partition(" et al., ")
    if rest:
        authors += " and others"
    else:
        # `Brostow, Fauqueur, Cipolla, Title` and `Croce and Hein, Title`: names are single words.
        names, words = list[str](), citation.split(", ")
        while words and all(len(name.split()) == 1 for name in words[0].split(" and ")):
            names += words.pop(0).split(" and ")
        authors, rest = " and ".join(names), ", ".join(words)
    title = _ARXIV.sub("", rest).strip(", ")
    place = re.search(rf", ([^,]*\b{year}\b[^,]*)$", title)
    where = " ".join(place[1].replace(year, "").split()) if place else ""
    return {
        "title": f"{{{title[: place.start()] if place else title}}}",
        "author": authors,
        "year": year,
        "eprint": arxiv[1] if arxiv else "",
        "archivePrefix": "arXiv" if arxiv else "",
        "howpublished": where,
    }


def _key(citation: str, year: str) -> str:
    return re.sub(r"[^a-z]", "", citation.split()[0].lower()) + year


def _entry(kind: str, key: str, fields: dict[str, str]) -> str:
    lines = [f"  {name} = {{{_escaped(text)}}}," for name, text in fields.items() if text]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])


def _escaped(text: str) -> str:
    return re.sub(r"([&%$#_])", r"\\\1", text)
