"""Which runbook does this call for? Alerts are routed by data; what data does not know is guessed, and called a guess."""

from __future__ import annotations

import difflib
import math
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import yaml

from runbook.alerts import MAX_NAME, Alert, clean
from runbook.catalog import Alert as Named
from runbook.catalog import Catalog, Runbook, Severity, load_yaml
from runbook.errors import BadInput
from runbook.project import Project
from runbook.schema import SchemaError, build
from runbook.units import counted

ROUTES = Path(__file__).with_name("routes.yml")
FALLBACK = "common-issues"
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
MAX_WORDS = 32
_WEIGHTS = {"title": 4.0, "alert": 3.0, "symptom": 2.0, "question": 1.0}
_SAY_NOTHING = """
a about after again all an and any are as at be been but by can do does for from had has have i if in into is it its me my no
not of on or our so that the their them there they this to too up us was we what when where which while who why will with
you your
"""
_STOP = frozenset(_SAY_NOTHING.split())


@dataclass(frozen=True)
class Theme:
    """A runbook as people speak of it, whether or not this project has it."""

    title: str
    symptoms: list[str] = field(default_factory=list)
    instead: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Route:
    runbook: str
    why: str
    severity: Severity
    response_minutes: int


@dataclass(frozen=True)
class Table:
    runbooks: dict[str, Theme]
    alerts: dict[str, Route]

    def __post_init__(self) -> None:
        for name, slug in [(name, route.runbook) for name, route in self.alerts.items()] + [
            (theme.title, slug) for theme in self.runbooks.values() for slug in theme.instead
        ]:
            if slug not in self.runbooks:
                raise ValueError(f"{name} names the unknown runbook {slug}")


@dataclass(frozen=True)
class Answer:
    """What an alert, or words, call for. `instead` is what this project has in the place of a runbook it has not."""

    asked: str
    runbook: str
    title: str
    why: str
    severity: str
    response_time: str
    how: Literal["alert", "runbook_url", "words", "guess"]
    exists: bool
    instead: str = ""
    others: tuple[str, ...] = ()
    count: int = 1

    @property
    def certain(self) -> bool:
        return self.how != "guess"

    @property
    def carried_out(self) -> str:
        """The runbook to carry out, or an empty text where this project has none that fits."""
        return self.runbook if self.exists else self.instead


def load_table(path: Path = ROUTES) -> Table:
    """Given a file of routes, return it. Raise BadInput that names the fault."""
    try:
        return build(Table, load_yaml(path.read_text()))
    except (OSError, yaml.YAMLError, SchemaError) as error:
        raise BadInput(f"The routes in {path} are not valid: {error}", "Correct the file.") from error


def tokens(text: str) -> list[str]:
    """Given text, return its words: camel case taken apart, lower case, singular, without those that say nothing."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", text)
    words = re.findall(r"[^\W_]+", apart.lower())
    return [_singular(word) for word in words if word not in _STOP]


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return f"{word[:-3]}y"
    if len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


class Router:
    """Routes alerts and words to the runbooks of a project and to those that it does not have yet."""

    def __init__(self, project: Project, table: Table | None = None) -> None:
        self.table = table or load_table()
        self.own = {runbook.slug: runbook for runbook in Catalog(project).runbooks()}

    @property
    def slugs(self) -> list[str]:
        return sorted({*self.own, *self.table.runbooks})

    def alert(self, alert: Alert) -> Answer:
        """Given an alert, return the answer: from the catalogue, the table, its runbook_url, or by likeness."""
        if found := self._catalogued(alert):
            return self._answer(alert, found[0].slug, found[1].why, "alert")
        if route := self.table.alerts.get(alert.name):
            return self._answer(alert, route.runbook, route.why, "alert")
        if (slug := _slug_of(alert.annotations.get("runbook_url", ""))) in self.slugs:
            return self._answer(alert, slug, "Its runbook_url names this runbook", "runbook_url")
        told = [alert.name, alert.annotations.get("summary", ""), alert.labels.get("category", "")]
        ranked = self.rank(" ".join(told))
        slug = ranked[0][0] if ranked else self._fallback()
        why = "No runbook names this alert; this one has most in common with it" if ranked else "Nothing is known of it"
        return self._answer(alert, slug, why, "guess", [slug for slug, _ in ranked[1:3]])

    def words(self, text: str) -> Answer:
        """Given words of a person, return the answer. Raise BadInput when they say nothing."""
        asked = clean(text, 500)
        wanted = tokens(asked)[:MAX_WORDS]
        if not wanted:
            raise BadInput(
                f"Nothing can be told from {asked!r}.", 'Say what you see, as in: runbook identify "disk full"'
            )
        by_name = {name.lower(): name for name in self._names()}
        if name := by_name.get(asked.lower()):
            return self.alert(Alert(name, "firing", {"alertname": name}))
        if (slug := asked.lower().replace(" ", "-")) in self.slugs:
            return self._answer(asked, slug, "This is its name", "words")
        ranked = self.rank(asked)
        if not ranked:
            return self._answer(asked, self._fallback(), "No runbook has a word of it", "guess")
        slug, score = ranked[0]
        corrected = {self._corrected(word) for word in wanted}
        clear = len(ranked) == 1 or score > ranked[1][1]
        certain = clear and all(word in self._documents[slug] for word in corrected)
        shared = ", ".join(sorted(word for word in corrected if word in self._documents[slug]))
        return self._answer(
            asked, slug, f"It speaks of: {shared}", "words" if certain else "guess", [s for s, _ in ranked[1:3]]
        )

    def rank(self, text: str) -> list[tuple[str, float]]:
        """Given text, return the runbooks that have words of it with their scores, best first; ties by name."""
        wanted = {self._corrected(word) for word in tokens(text)[:MAX_WORDS]}
        seen = Counter(word for words in self._documents.values() for word in words)
        rare = {word: math.log(1 + len(self._documents) / seen[word]) for word in wanted if seen[word]}
        scores = {
            slug: sum(words.get(w, 0.0) * rare[w] for w in sorted(rare)) for slug, words in self._documents.items()
        }
        found = [(slug, round(score, 6)) for slug, score in scores.items() if score]
        return sorted(found, key=lambda item: (-item[1], item[0] not in self.own, item[0]))

    @cached_property
    def _documents(self) -> dict[str, dict[str, float]]:
        """By slug, its words with the weight of the best place they stand in."""
        return {slug: self._document(slug) for slug in self.slugs}

    def _document(self, slug: str) -> dict[str, float]:
        parts: list[tuple[str, str]] = [("title", slug)]
        if theme := self.table.runbooks.get(slug):
            parts += [("title", theme.title), *(("symptom", text) for text in theme.symptoms)]
            parts += [("alert", name) for name, route in self.table.alerts.items() if route.runbook == slug]
        if runbook := self.own.get(slug):
            parts += [("title", runbook.title), *(("symptom", text) for text in runbook.symptoms)]
            parts += [("alert", alert.name) for alert in runbook.alerts]
            parts += [("question", check.question) for check in runbook.checks]
        found: dict[str, float] = {}
        for kind, text in parts:
            for word in tokens(text):
                found[word] = max(found.get(word, 0.0), _WEIGHTS[kind])
        return found

    @cached_property
    def _vocabulary(self) -> list[str]:
        return sorted({word for words in self._documents.values() for word in words})

    def _corrected(self, word: str) -> str:
        """Given a word, return it, or the known word it is most likely a slip of."""
        if len(word) < 4 or len(word) > MAX_NAME or word in self._vocabulary:
            return word
        return (difflib.get_close_matches(word, self._vocabulary, n=1, cutoff=0.8) or [word])[0]

    def _names(self) -> Iterable[str]:
        return {*self.table.alerts, *(alert.name for runbook in self.own.values() for alert in runbook.alerts)}

    def _catalogued(self, alert: Alert) -> tuple[Runbook, Named] | None:
        """The more labels a route asks for, the more it knows about the alert."""
        fits = [(runbook, named) for runbook in self.own.values() for named in runbook.alerts
                if named.name == alert.name and fits_labels(named.labels, alert.labels)]  # fmt: skip
        return min(fits, key=lambda found: (-len(found[1].labels), found[0].slug), default=None)

    def _fallback(self) -> str:
        return FALLBACK if FALLBACK in self.slugs else next(iter(self.own), FALLBACK)

    def _answer(
        self, asked: Alert | str, slug: str, why: str, how: Literal["alert", "runbook_url", "words", "guess"],
        others: list[str] | None = None,
    ) -> Answer:  # fmt: skip
        own, known = self.own.get(slug), self.table.runbooks.get(slug)
        name, labels = (asked.name, asked.labels) if isinstance(asked, Alert) else (asked, {})
        route = self.table.alerts.get(name)
        said = labels.get("severity", "").lower()
        severity = said if said in SEVERITIES else route.severity if route else own.severity if own else "warning"
        also = [*(others or []), *([FALLBACK] if how == "guess" else [])]
        return Answer(
            asked=name, runbook=slug, title=own.title if own else known.title if known else slug, why=why, how=how,
            severity=severity, exists=own is not None, instead="" if own else self._instead(slug),
            response_time=_within(route.response_minutes) if route else own.response_time if own else "",
            others=tuple(dict.fromkeys(other for other in also if other != slug and other in self.slugs)),
        )  # fmt: skip

    def _instead(self, slug: str) -> str:
        """Return what helps while this project has no such runbook; empty where nothing does."""
        theme = self.table.runbooks.get(slug)
        return next((near for near in (theme.instead if theme else []) if near in self.own), "")

    def command(self, answer: Answer, inventory: Iterable[str], alert_file: str = "") -> str:
        """Return the command line that carries out what was answered, quoted for a shell; empty where there is none."""
        runbook = self.own.get(answer.carried_out)
        if runbook is None:
            return ""
        words = [
            "runbook",
            "run",
            runbook.slug,
            *(word for name in inventory or ["INVENTORY"] for word in ("-i", name)),
        ]
        if runbook.mode == "maintain":
            words.append("--check")  # such a runbook acts by itself: an alert is a reason to look first
        return shlex.join([*words, *(["--alert", alert_file] if alert_file else [])])


def _within(minutes: int) -> str:
    return "one working day" if minutes >= 1440 else counted(minutes, "minute")


def fits_labels(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in wanted.items())


def _slug_of(address: str) -> str:
    """Given a runbook_url, return the slug at its end; empty where there is none."""
    try:
        last = urlsplit(address).path.rstrip("/").rpartition("/")[2]
    except ValueError:
        return ""
    last = last.removesuffix(".md").removesuffix(".html")
    return last if re.fullmatch(r"[a-z][a-z0-9-]*", last) else ""


def grouped(answers: Iterable[Answer]) -> list[Answer]:
    """Given answers, return one for each that is told alike, with how many there were; the most severe come first."""
    counts = Counter(answers)
    found = [replace(answer, count=count) for answer, count in counts.items()]
    return sorted(found, key=lambda a: (-SEVERITIES.index(a.severity), not a.certain, a.asked))
