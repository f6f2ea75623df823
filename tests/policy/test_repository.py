"""The repository as a whole: pinned, portable, and without traces of where it was made."""

from __future__ import annotations

import json
import os
import re
import sys
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.repository import ROOT, load, name, tracked

TEXTS = {path: path.read_text(errors="replace") for path in tracked() if path.suffix not in (".png", ".woff2")}


def installed_collections() -> Path:
    return Path(str(distribution("ansible").locate_file("ansible_collections")))


def test_collections_are_at_the_versions_that_are_tested() -> None:
    wanted = {entry["name"]: str(entry["version"]) for entry in load(ROOT / "requirements.yml")["collections"]}
    assert wanted
    for collection, version in wanted.items():
        manifest = installed_collections().joinpath(*collection.split("."), "MANIFEST.json")
        assert json.loads(manifest.read_text())["collection_info"]["version"] == version, collection


def test_collections_that_are_used_are_required() -> None:
    wanted = {entry["name"] for entry in load(ROOT / "requirements.yml")["collections"]}
    used = set()
    for path, text in TEXTS.items():
        if path.suffix == ".yml" and path.parts[len(ROOT.parts)] in ("roles", "playbooks", "tests"):
            used |= set(re.findall(r"^\s*(?:- )?((?:community|ansible)\.\w+)\.\w+:", text, re.MULTILINE)) - {
                "ansible.builtin"
            }
    assert used == wanted


def test_packages_are_pinned_with_their_hashes() -> None:
    files = sorted((ROOT / "requirements").glob("*.txt"))
    assert files
    for path in files:
        entries = [
            entry for entry in re.split(r"\n(?=\S)", path.read_text()) if entry.strip() and not entry.startswith("#")
        ]
        assert entries, name(path)
        for entry in entries:
            assert re.match(r"[\w.\[\]-]+==\S+", entry) and "--hash=sha256:" in entry, (
                f"{name(path)}: {entry.splitlines()[0]}"
            )


def registries() -> set[str]:
    """Return the hosts of the package indexes that this machine is set up with."""
    told = [value for key, value in os.environ.items() if re.fullmatch(r"(PIP|UV)_\w*(INDEX|URL|LINKS)\w*", key)]
    files = [
        os.environ.get("PIP_CONFIG_FILE"),
        "/etc/pip.conf",
        "/etc/xdg/pip/pip.conf",
        "~/.pip/pip.conf",
        "~/.config/pip/pip.conf",
    ]
    told += [path.read_text() for file in files if file and (path := Path(file).expanduser()).is_file()]
    found = {host for text in told for url in re.findall(r"\w+://[^\s'\",]+", text) if (host := urlsplit(url).hostname)}
    return found - {"localhost", "127.0.0.1"}


# Named by their parts, or this file would name them.
PUBLIC = [
    "pypi" + ".org",
    "python" + "hosted.org",
    "registry.npm" + "js.org",
    "galaxy.ansible" + ".com",
    "ruby" + "gems.org",
]
INDEX = re.compile(r"--(?:extra-)?index-url|--find-links|--trusted-host|https?://\S+/simple\b")


def test_no_file_says_where_packages_come_from() -> None:
    hosts = [*PUBLIC, *registries()]
    assert [(name(path), host) for path, text in TEXTS.items() for host in hosts if host in text] == []
    assert [name(path) for path, text in TEXTS.items() if path != Path(__file__) and INDEX.search(text)] == []


def test_no_file_says_where_it_was_made() -> None:
    """Neither this checkout, nor this Python, nor the home of whoever works here (root's is the same everywhere)."""
    places = {
        str(ROOT),
        sys.prefix,
        sys.base_prefix,
        *map(str, ROOT.parents),
        *([str(Path.home())] if os.geteuid() else []),
    }
    # A single folder, such as /usr or /src, tells nothing.
    places = {place for place in places if place.count("/") > 1} - {"/usr/local"}
    found = [
        (name(path), place)
        for path, text in TEXTS.items()
        for place in places
        if re.search(rf"{re.escape(place)}(?![\w-])", text)
    ]
    assert found == []


def test_the_changelog_is_kept() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert text.startswith("# Changelog") and re.search(r"^## \[?(Unreleased|\d+\.\d+\.\d+)", text, re.MULTILINE)


def test_files_end_with_one_line_end_and_have_no_merge_marks() -> None:
    ends = [name(path) for path, text in TEXTS.items() if text and (not text.endswith("\n") or text.endswith("\n\n"))]
    assert ends == []
    assert [name(path) for path, text in TEXTS.items() if re.search(r"^(<{7}|>{7}) ", text, re.MULTILINE)] == []


def test_programs_say_what_runs_them() -> None:
    programs = [path for path in tracked() if os.access(path, os.X_OK)]
    assert [name(path) for path in programs if not TEXTS[path].startswith("#!")] == []


@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("*.md")), ids=name)
def test_no_label_of_a_diagram_has_what_ends_it(path: Path) -> None:
    for diagram in re.findall(r"```mermaid\n(.*?)```", path.read_text(), re.DOTALL):
        assert re.findall(r"-- [^|\n]*--[^|\n>]*-->", diagram) == [], "put the label between bars and quotes"
