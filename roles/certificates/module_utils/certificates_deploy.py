# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""The deployment of a certificate as a transaction: all its consumers present the new one, or all of them the old one.

Killed at any point, the next run ends it: what was written down before each step says whether it goes forward or back.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from ansible.module_utils.certificates_consumers import Services, presents
from ansible.module_utils.certificates_judge import Fault
from ansible.module_utils.certificates_ledger import Ledger
from ansible.module_utils.certificates_model import Consumer, Managed
from ansible.module_utils.certificates_store import CERTIFICATE, Shelf, StoreError, read_chain, version_name
from ansible.module_utils.certificates_x509 import Certificate, CertificateError, parse_chain
from ansible.module_utils.runbook_psql import PsqlUnreachable
from ansible.module_utils.runbook_result import action, finding
from ansible.module_utils.runbook_state import StateError, replace_text
from ansible.module_utils.runbook_tools import ToolError

# Judges a version in its folder (or what was issued, in `next`; None: the files that consumers read): what is wrong with it.
Judge = Callable[[Managed, "Path | None"], Sequence[Fault]]


class Refused(Exception):
    """A step is not carried out; the text says why and what to do."""


@dataclass(frozen=True)
class Deployment:
    """What is deployed with: services, the judge of versions, the ledger, and how many versions are kept."""

    services: Services
    judge: Judge
    ledger: Ledger
    authority: Mapping[str, str]
    keep_versions: int = 5
    clock: Callable[[], float] = time.time


class Deployer:
    """Deploys one certificate; `actions` and `findings` say what was done and what could not be, `failed` why a step failed."""

    def __init__(self, shelf: Shelf, deployment: Deployment) -> None:
        self.shelf, self.managed = shelf, shelf.managed
        self.given, self.services = deployment, deployment.services
        self.actions: list[dict[str, Any]] = []
        self.findings: list[dict[str, Any]] = []
        self.failed = ""

    def run(self) -> None:
        """Bring files and consumers to what they should be, whatever a run before left."""
        name = self.managed.name
        try:
            self.shelf.ids()
            # First: a service that demands certificates of clients does not start without the file of whom it trusts.
            self._put_authority()
            self._recover()
            if self.managed.issuer != "external":
                self._take_over()
                candidate = candidate_of(self.shelf, self.given.judge)
                if candidate is not None and self._accepted(candidate):
                    self._deploy(candidate)
            if not self.failed:
                self._converge()
        except (StoreError, StateError, CertificateError, ToolError, PsqlUnreachable, Refused, OSError) as error:
            self._fail("deploy-failed", "A certificate could not be deployed", str(error))
        if not self.failed:
            for version in self.shelf.prune(self.given.keep_versions):
                self.actions.append(action("deploy", name, f"version {version} is older than the ones that are kept", result="done"))

    # --- forward and back ---------------------------------------------------------------------------------------

    def _deploy(self, candidate: str) -> None:
        """Make `candidate` current and have all consumers present it, or go back."""
        before = self.shelf.current()
        old = self._leaf(before)
        new = read_chain(self.shelf.folder_of(candidate) / CERTIFICATE)[0]
        reason = "it was issued and is not served yet"
        told = {"before": old.serial_hex if old else None, "after": new.serial_hex}
        with self._acting(reason, **told) as entry:
            absent = self._absent()
            self.shelf.begin(before, candidate)
            self._forward(before, candidate, absent, entry)

    def _forward(self, before: str | None, after: str, absent: Sequence[str], entry: dict[str, Any]) -> None:
        if not (self.shelf.versions / after).is_dir():
            self.shelf.promote()
        # One that was taken back may have been so for its owner or mode.
        self.shelf.set_modes(self.shelf.versions / after)
        self.shelf.swap(after)
        self.shelf.link_paths()
        leaf = self.shelf.chain(after)[0]
        self.services.names.clear()
        fault = self.services.bring(self.managed, leaf, absent=absent) or self._tell_silent(after)
        if fault and before is not None:
            self._back(before, after, fault)
            raise Refused(f"{fault}; all consumers are back on the certificate before")
        if fault:
            self.shelf.end()
            raise Refused(f"{fault}; there is none before to go back to")
        self.shelf.note(told=self._marks(after), rejected={after: None})
        self._write("deployed", leaf)
        self.shelf.end()
        entry["detail"] = "; ".join(self.services.told[-8:])

    def _back(self, before: str, after: str, reason: str) -> None:
        """Bring every consumer back to the version before."""
        self.shelf.turn_back(reason)
        self.shelf.note(rejected={after: reason[:600]})
        self.shelf.swap(before)
        fault = self.services.bring(self.managed, self.shelf.chain(before)[0])
        self._write("rolled-back", self.shelf.chain(after)[0], reason)
        if fault:
            # The transaction stays: the next run goes back again.
            raise Refused(f"{reason}; and going back failed: {fault}")
        self.shelf.end()

    def _recover(self) -> None:
        """End what a killed run began."""
        found = self.shelf.transaction()
        if found is None:
            return
        before, after = found["before"], found["after"]
        there = (self.shelf.versions / after).is_dir() or candidate_name(self.shelf) == after
        if found["phase"] == "back" and before is not None:
            with self._acting("a run before was ended while it went back", after=before):
                self._back(before, after, found.get("reason", "a consumer did not take it"))
        elif there and self._accepted(after):
            with self._acting("a run before was ended while it deployed", before=before, after=after) as entry:
                self._forward(before, after, [], entry)
        else:
            if before is not None:
                self.shelf.swap(before)
            self.shelf.end()

    def _take_over(self) -> None:
        """Keep what consumers read now as a version, and have their paths lead into the store."""
        wrong = self.shelf.linked()
        if not wrong:
            return
        current = self.shelf.current()
        if set(wrong.values()) == {"missing"} and current is None:
            return  # the first certificate of all; its deployment makes the links
        with self._acting(f"{', '.join(sorted(wrong))}: {', '.join(sorted(set(wrong.values())))}") as entry:
            found = self.shelf.adopt() if set(wrong.values()) != {"missing"} else None
            good = found is not None and not errors(self.given.judge(self.managed, self.shelf.versions / found))
            if found is not None and (current is None or (good and self._newer(found, current))):
                self.shelf.swap(found)
                entry["detail"] = f"kept as version {found}, and current"
            elif found is not None:
                entry["detail"] = f"kept as version {found}; current stays {current}"
            self.shelf.link_paths()

    def _converge(self) -> None:
        """Have consumers present what is in the files, and files have their owners and modes."""
        current = self.shelf.current() if self.managed.issuer != "external" else None
        if current is not None:
            wrong = self.shelf.wrong_modes(self.shelf.versions / current)
            if wrong:
                with self._acting(f"owner or mode of {', '.join(wrong)} is not that of the inventory"):
                    self.shelf.set_modes(self.shelf.versions / current)
        try:
            leaf = read_chain(Path(self.managed.certificate_file))[0]
        except (OSError, CertificateError):
            return  # a finding of the look
        folder = self.shelf.versions / current if current is not None else None
        served = self.services.serving(self.managed.consumers)
        differ = [name for name, answer in served.items() if answer.chain and not presents(answer, leaf)]
        silent = self._silent(current or version_name(leaf))
        if not differ and not silent:
            return
        why = f"not the certificate of the file: {', '.join(differ)}" if differ else f"not told of their files: {', '.join(silent)}"
        # What is expired is served all the same: the other one may have been worse.
        faults = [fault for fault in errors(self.given.judge(self.managed, folder)) if fault.code != "expired"]
        if faults and differ:
            raise Refused(f"{why}; and the file is not deployed: {'; '.join(fault.detail for fault in faults)}")
        with self._acting(why, after=leaf.serial_hex) as entry:
            absent = [name for name, answer in served.items() if not answer.chain]
            self.services.names.clear()
            fault = self.services.bring(self.managed, leaf, absent=absent) or self._tell_silent(current or version_name(leaf))
            if fault:
                raise Refused(fault)
            entry["detail"] = "; ".join(self.services.told[-8:])
            self.shelf.ensure()
            self.shelf.note(told=self._marks(current or version_name(leaf)))

    def _put_authority(self) -> None:
        """Write the files of the private authority: whom to trust, before any certificate of a new one is served."""
        for kind, path in self.managed.authority_paths.items():
            text = self.given.authority.get(kind, "")
            if text and _text(path) != text:
                with self._acting(f"{path} is not what the authority says"):
                    Path(path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                    replace_text(Path(path), text, mode=0o644)

    # --- consumers that cannot be asked -------------------------------------------------------------------------

    def _marks(self, version: str) -> dict[str, str]:
        """Return, for each consumer, of what it has been told when all is well."""
        mark = marks(self.managed, version)
        return {consumer.name: mark for consumer in self.managed.consumers}

    def _silent(self, version: str) -> list[str]:
        return [one.name for one in silent_consumers(self.managed, version, self.shelf.notes()["told"])]

    def _tell_silent(self, version: str) -> str:
        """Tell the consumers that have no address, or whose authority files changed, and were not told yet."""
        silent = silent_consumers(self.managed, version, self.shelf.notes()["told"])
        todo = [one for one in silent if one.name not in self.services.names]
        done: set[tuple[Any, ...]] = set()
        for consumer in todo:
            if consumer.how in done:
                continue
            done.add(consumer.how)
            try:
                self.services.tell(consumer, self.managed)
            except Exception as error:
                return f"{consumer.name}: {error}"
        return ""

    # --- small things -------------------------------------------------------------------------------------------

    def _absent(self) -> list[str]:
        """Return the consumers that do not answer before anything is changed."""
        return [name for name, answer in self.services.serving(self.managed.consumers).items() if not answer.chain]

    def _accepted(self, version: str) -> bool:
        worst = errors(self.given.judge(self.managed, self.shelf.folder_of(version)))
        if worst:
            self._fail("deploy-refused", "A certificate was issued that must not be deployed", "; ".join(f.detail for f in worst))
        return not worst

    def _leaf(self, version: str | None) -> Certificate | None:
        try:
            return self.shelf.chain(version)[0] if version else None
        except (OSError, CertificateError):
            return None

    def _newer(self, found: str, current: str) -> bool:
        one, other = self._leaf(found), self._leaf(current)
        return one is not None and (other is None or one.not_before > other.not_before)

    def _write(self, event: str, leaf: Certificate, reason: str = "") -> None:
        self.given.ledger.write(event, self.managed.name, self.managed.names, self.managed.issuer, serial=leaf.serial_hex, reason=reason[:600])

    def _fail(self, id: str, title: str, why: str) -> None:
        self.failed = f"{self.managed.name}: {why}"
        self.findings.append(finding(id, title, subject=self.managed.name, observed=why[:600], severity="critical", section="verification",
                                     remedy="The certificate before is still served; see what was observed, then run this again"))  # fmt: skip

    @contextlib.contextmanager
    def _acting(self, reason: str, **told: Any) -> Iterator[dict[str, Any]]:
        entry = action("deploy", self.managed.name, reason, measure="serial" if told else "", **told)
        began = time.monotonic()
        self.actions.append(entry)
        try:
            yield entry
        except Exception as error:
            entry.update(result="failed", detail=str(error)[:600])
            raise
        else:
            entry["result"] = "done"
        finally:
            entry["seconds"] = round(time.monotonic() - began, 2)


def errors(faults: Sequence[Fault]) -> list[Fault]:
    """Return the faults for which clients refuse a certificate."""
    return [fault for fault in faults if fault.severity == "error"]


def candidate_name(shelf: Shelf) -> str | None:
    """Return the name of the version that was issued and is not one yet."""
    text = shelf.staged()
    try:
        return version_name(parse_chain(text.encode())[0]) if text else None
    except CertificateError:
        return None


def candidate_of(shelf: Shelf, judge: Judge) -> str | None:
    """Return the version that is to be deployed next: what was issued, else one that was taken back and is still good."""
    issued = candidate_name(shelf)
    if issued is not None:
        return issued
    current = shelf.current()
    for version in [name for name, why in shelf.notes()["rejected"].items() if why and name != current]:
        folder = shelf.versions / version
        if folder.is_dir() and not errors(judge(shelf.managed, folder)):
            return version
    return None


def marks(managed: Managed, version: str) -> str:
    """Return what a consumer is told of: the version, and the files of the authority as they are now."""
    files = [hashlib.sha256(_text(path).encode()).hexdigest()[:12] for path in managed.authority_paths.values()]
    return "/".join([version, *files])


def silent_consumers(managed: Managed, version: str, told: Mapping[str, str]) -> list[Consumer]:
    """Return the consumers whose address does not tell whether they know their files, and who were not told of them yet."""
    mark = marks(managed, version)
    return [
        one
        for one in managed.consumers
        if (not one.address or managed.authority_paths) and one.reload != "none" and told.get(one.name) != mark
    ]


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
