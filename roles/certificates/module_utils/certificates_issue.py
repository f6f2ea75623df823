# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""The step that issues: a new key and a request on this host, and whoever signs it.

Nothing that is served changes here: what is issued waits in the store, also for a run that comes after this one was killed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from ansible.module_utils.certificates_acme import AcmeError, issue_within_budget, revoke
from ansible.module_utils.certificates_keys import make_csr, make_key, self_sign
from ansible.module_utils.certificates_ledger import LedgerError
from ansible.module_utils.certificates_planner import plan
from ansible.module_utils.certificates_store import (
    CERTIFICATE,
    KEY,
    REQUEST,
    Shelf,
    StoreError,
    read_chain,
    version_name,
)
from ansible.module_utils.certificates_survey import Look, Surveyor
from ansible.module_utils.certificates_x509 import CertificateError
from ansible.module_utils.runbook_result import action, finding
from ansible.module_utils.runbook_tools import ToolError

KEY_COMPROMISE = 1  # RFC 5280, 5.3.1


class Issuer:
    """Issues what is due; `requests` are those that the private authority has to sign."""

    def __init__(self, surveyor: Surveyor) -> None:
        self.surveyor, self.given = surveyor, surveyor.given
        self.actions: list[dict[str, Any]] = []
        self.findings: list[dict[str, Any]] = []
        self.requests: list[dict[str, Any]] = []
        self.revoked: list[dict[str, Any]] = []

    # --- issue --------------------------------------------------------------------------------------------------

    def issue(self) -> None:
        """Issue each certificate that is due. One that fails does not keep the others."""
        picture = self.surveyor.look()
        due = plan(picture, self.given).issue
        for look in [one for one in picture.looks if one.managed.name in due]:
            with self._acting("issue", look.managed.name, due[look.managed.name]) as entry:
                if picture.clock_faults:
                    raise StoreError(f"nothing is issued while the clock cannot be right: {picture.clock_faults[0]}")
                self._keep_for_revocation(look)
                {"acme": self._acme, "private_ca": self._request, "self_signed": self._self_sign}[look.managed.issuer](look, entry)

    def _keep_for_revocation(self, look: Look) -> None:
        """Note which certificate has to be revoked once the new one is served: also a run after a crash knows it then."""
        if self.given.reissue != look.managed.name or look.leaf is None:
            return
        kept = look.shelf.current() or look.shelf.adopt()
        if kept is not None:
            look.shelf.note(revoke={kept: "certificates_reissue asked for it"})

    def _prepare(self, look: Look) -> Shelf:
        """Make a new key and its request. A renewal never uses a key again."""
        shelf, managed = look.shelf, look.managed
        shelf.ids()
        folder = shelf.open_next()
        make_key(managed.key_type, str(folder / KEY), 0o600, tools=self.given.reach.tools)
        purposes = managed.purposes if managed.issuer == "private_ca" else ()
        make_csr(str(folder / KEY), managed.names, str(folder / REQUEST), self.given.reach.tools, purposes)
        return shelf

    def _request(self, look: Look, entry: dict[str, Any]) -> None:
        shelf = self._prepare(look)
        text = (shelf.next / REQUEST).read_text(encoding="ascii")
        self.requests.append({"name": look.managed.name, "request": text, "names": list(look.managed.names)})
        entry["detail"] = "key and request are made; the private authority signs it"

    def _self_sign(self, look: Look, entry: dict[str, Any]) -> None:
        shelf = self._prepare(look)
        managed = look.managed
        path = shelf.next / "self-signed.pem"
        self_sign(str(shelf.next / KEY), managed.names, self.given.self_signed_days, str(path), managed.client, self.surveyor.clock(),
                  self.given.reach.tools)  # fmt: skip
        shelf.put_issued(path.read_text(encoding="ascii"), "")
        path.unlink()
        self._write("issued", look, "self_signed", read_chain(shelf.next / CERTIFICATE)[0].serial_hex)
        entry["detail"] = f"valid for {self.given.self_signed_days:g} days"

    def _acme(self, look: Look, entry: dict[str, Any]) -> None:
        acme = self.given.acme
        if acme is None:
            raise StoreError("its issuer is acme, and certificates_acme_directory is not set")
        shelf = self._prepare(look)
        issued = issue_within_budget(
            self.surveyor.ledger, acme.limits, self.given.reach.tools, acme.account, acme.challenge, look.managed.name,
            str(shelf.next / REQUEST), look.managed.names, acme.limit_seconds, staging_directory=acme.staging,
        )  # fmt: skip
        shelf.put_issued(issued.certificate_pem, issued.chain_pem)
        entry["detail"] = "; ".join(filter(None, [f"by {acme.account.directory} in {issued.seconds:.1f} s", issued.trouble]))

    # --- revoke -------------------------------------------------------------------------------------------------

    def revoke(self) -> None:
        """Revoke what was replaced for good, once something else is served; `revoked` says what, and what the private authority has to list."""
        for managed in self.given.managed:
            shelf = self.surveyor.shelf(managed)
            for version in [name for name, why in shelf.notes()["revoke"].items() if why and name != shelf.current()]:
                if shelf.transaction() is not None:
                    continue
                with self._revoking(shelf, version):
                    self._revoke_one(shelf, version)

    def _revoke_one(self, shelf: Shelf, version: str) -> None:
        leaf = read_chain(shelf.versions / version / CERTIFICATE)[0]
        row: dict[str, Any] = {"name": shelf.managed.name, "version": version, "generation": None}
        row.update(serial=str(leaf.serial), serial_hex=leaf.serial_hex)
        authority = self.given.authority
        generation = authority.generation_of(leaf) if authority is not None else None
        if generation is not None:
            row["generation"] = generation.number
        elif self.given.acme is not None and not leaf.self_signed:
            # By its own key: that is there also where the account is not.
            text = (shelf.versions / version / CERTIFICATE).read_text(encoding="ascii")
            revoke(self.given.reach.tools, self.given.acme.account, text, str(shelf.versions / version / KEY), KEY_COMPROMISE)
        self.revoked.append(row)

    @contextlib.contextmanager
    def _revoking(self, shelf: Shelf, version: str) -> Iterator[None]:
        try:
            yield
        except (AcmeError, CertificateError, ToolError, StoreError, OSError) as error:
            self.findings.append(finding("revoke-failed", "A certificate could not be revoked", subject=f"{shelf.managed.name}, {version}",
                                         observed=str(error)[:600], severity="critical",
                                         remedy="Run this again; it is noted that it has to be revoked"))  # fmt: skip

    # --- small things -------------------------------------------------------------------------------------------

    def _write(self, event: str, look: Look, authority: str, serial: str) -> None:
        self.surveyor.ledger.write(event, look.managed.name, look.managed.names, authority, serial=serial)

    @contextlib.contextmanager
    def _acting(self, step: str, subject: str, reason: str) -> Iterator[dict[str, Any]]:
        entry = action(step, subject, reason)
        began = time.monotonic()
        self.actions.append(entry)
        try:
            yield entry
        except (AcmeError, LedgerError, StoreError, ToolError, CertificateError, OSError, ValueError) as error:
            entry.update(result="failed", detail=str(error)[:600])
            spent = getattr(error, "kind", "") in ("budget", "rate-limited")
            self.findings.append(finding("budget-spent" if spent else "issue-failed", "A certificate could not be issued", subject=subject,
                                         observed=str(error)[:600], severity="critical",
                                         remedy="The certificate before is still served"))  # fmt: skip
        else:
            entry["result"] = "done"
        finally:
            entry["seconds"] = round(time.monotonic() - began, 2)


def take_signed(surveyor: Surveyor, signed: Mapping[str, str], chain: str) -> None:
    """Put what the private authority signed beside its key. Raise CertificateError for what is no certificate."""
    shelves = {managed.name: surveyor.shelf(managed) for managed in surveyor.given.managed}
    for name, pem in signed.items():
        shelf = shelves[name]
        shelf.put_issued(pem, chain)
        leaf = read_chain(shelf.next / CERTIFICATE)[0]
        surveyor.ledger.write("issued", name, shelf.managed.names, "private_ca", serial=leaf.serial_hex, reason=version_name(leaf))


def note_revoked(surveyor: Surveyor, rows: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Note in store and ledger that certificates are revoked; return that as actions."""
    shelves = {managed.name: surveyor.shelf(managed) for managed in surveyor.given.managed}
    actions = []
    for row in rows:
        shelf = shelves[row["name"]]
        surveyor.ledger.write("revoked", row["name"], shelf.managed.names, shelf.managed.issuer, serial=row["serial_hex"])
        shelf.note(revoke={row["version"]: None})
        subject = f"{row['name']}, {row['version']}"
        actions.append(action("revoke", subject, "the certificate that replaced it is served", kind="destructive", result="done"))
    return actions
