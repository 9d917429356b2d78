"""House rules of everything under version control: portable, and documents that lead somewhere."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Put together here so that this file does not name them itself.
FOREIGN = [
    "/" + "work/",
    "/" + "farm/",
    "registry." + "npmjs",
    "files." + "pythonhosted",
    "deb." + "debian.org",
    "pypi.org/" + "simple",
]


def tracked() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode != 0:  # an unpacked archive: all that is not hidden
        paths = [p.relative_to(ROOT) for p in ROOT.rglob("*")]
        names = [str(p) for p in paths if not any(part.startswith(".") for part in p.parts)]
    else:
        names = listing.stdout.split("\0")
    return [path for name in names if name and (path := ROOT / name).is_file()]


DOCUMENTS = [path for path in tracked() if path.suffix == ".md"]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_no_file_names_a_path_or_a_mirror_of_one_machine():
    found = [
        f"{name(path)}: {word}"
        for path in tracked()
        for text in [path.read_bytes()]
        for word in FOREIGN
        if re.search(rb"(?<![\w.])" + re.escape(word.encode()), text)
    ]
    assert found == []


def anchors(document: Path) -> set[str]:
    """Return the names of a document's headings, as web views of Markdown form them."""
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ +(.+?) *#*$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_link_inside_the_project_leads_somewhere(document):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", document.read_text(), flags=re.DOTALL)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z][a-z+.-]*:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_make_target_that_a_document_names_exists():
    makefile = ROOT.joinpath("Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    named = {
        target
        for document in DOCUMENTS
        for target in re.findall(r"\bmake ([a-z]+(?:-[a-z]+)*)`", document.read_text())
    }
    assert named - targets == set()
