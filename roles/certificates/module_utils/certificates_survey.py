# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""One look at all certificates of a host: what is in files, what is served, what was issued and when it is due."""

from __future__ import annotations

import atexit
import fnmatch
import functools
import os
import socket
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from ansible.module_utils.certificates_acme import Account, Challenge
from ansible.module_utils.certificates_ari import Cache, renewal_window
from ansible.module_utils.certificates_authority import Authority, due
from ansible.module_utils.certificates_consumers import Ask, Reach, ask_now, endpoint_of
from ansible.module_utils.certificates_deploy import candidate_of, silent_consumers
from ansible.module_utils.certificates_endpoints import Endpoint, Served
from ansible.module_utils.certificates_files import Found, FoundFile, scan
from ansible.module_utils.certificates_judge import Fault, Policy, judge, verify_chain
from ansible.module_utils.certificates_keys import KeyError_, KeyInfo, read_key
from ansible.module_utils.certificates_ledger import Budget, Entry, Ledger, Limits, budget
from ansible.module_utils.certificates_model import Managed
from ansible.module_utils.certificates_renewal import Decision, Window, decide
from ansible.module_utils.certificates_revocation import Revocation, revocation
from ansible.module_utils.certificates_store import CERTIFICATE, KEY, Shelf, StoreError, version_name
from ansible.module_utils.certificates_x509 import Certificate, CertificateError, parse_chain, to_pem
from ansible.module_utils.runbook_state import read_json, write_json

SYSTEM_ROOTS = "/etc/ssl/certs/ca-certificates.crt"
HOUR = 3600.0
ARI_SECONDS = 5.0
REVOCATION_SECONDS = 5.0


@dataclass(frozen=True)
class Acme:
    """How a public authority is reached."""

    account: Account
    challenge: Challenge
    staging: str | None = None
    trust_file: str | None = None
    limits: Limits = field(default_factory=Limits)
    limit_seconds: float = 300


@dataclass(frozen=True)
class Given:
    """Everything the inventory says, for one host."""

    managed: tuple[Managed, ...]
    store_dir: Path
    state_dir: Path
    host: str = ""
    reach: Reach = field(default_factory=Reach)
    scan_paths: tuple[str, ...] = ()
    ignored_paths: tuple[str, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    discover_ports: tuple[int, ...] = ()
    acme: Acme | None = None
    authority: Authority | None = None
    trust_file: str | None = None
    self_signed_days: float = 30
    run_interval_hours: float = 24
    revocation_check_hours: float = 24
    keep_versions: int = 5
    manage_packages: bool = True
    reissue: str | None = None
    policy: Policy = field(default_factory=Policy)


@dataclass
class Look:
    """What was seen of one certificate of the inventory."""

    managed: Managed
    shelf: Shelf
    chain: tuple[Certificate, ...] = ()
    fault: str = ""
    faults: tuple[Fault, ...] = ()
    linked: Mapping[str, str] = field(default_factory=dict)
    wrong_modes: Sequence[str] = ()
    transaction: Mapping[str, Any] | None = None
    candidate: str | None = None
    candidate_faults: tuple[Fault, ...] = ()
    rejected: Mapping[str, str] = field(default_factory=dict)
    revoke: Sequence[str] = ()
    served: Mapping[str, Served] = field(default_factory=dict)
    silent: Sequence[str] = ()
    stale_authority: Sequence[str] = ()
    decision: Decision | None = None
    ari: Window | None = None
    ari_fault: str = ""
    budget: Budget | None = None
    revocation: Revocation | None = None
    renewed_at: float | None = None

    @property
    def leaf(self) -> Certificate | None:
        return self.chain[0] if self.chain else None

    @property
    def current(self) -> str | None:
        """The name of the version whose files consumers read."""
        return self.shelf.current() or (version_name(self.chain[0]) if self.chain else None)


@dataclass
class Picture:
    """Everything that was seen on one host; times are seconds since the epoch, UTC."""

    now: float
    looks: list[Look]
    entries: list[Entry]
    ledger_fault: str = ""
    found: Found = field(default_factory=Found)
    endpoints: list[Served] = field(default_factory=list)
    clock_faults: list[str] = field(default_factory=list)
    authority_due: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


class Surveyor:
    """Looks at a host. Clock and network are given, so that tests can choose them."""

    def __init__(self, given: Given, ask: Ask = ask_now, clock: Callable[[], float] = time.time, remember: bool = True) -> None:
        self.given, self.ask, self.clock = given, ask, clock
        # Answers of authorities are remembered between runs, but not by a run that must write nothing.
        self.remember = remember
        self.now = clock()
        self.ledger = Ledger(given.store_dir / "ledger.jsonl", clock)
        self._roots: dict[str, str] = {}
        self._root_files: dict[str, tuple[str, str]] = {}
        self._lock = threading.Lock()

    def look(self) -> Picture:
        given = self.given
        entries, damaged = self.ledger.entries()
        # Nearly all of the time goes into waiting for openssl.
        with ThreadPoolExecutor(max_workers=4) as pool:
            picture = Picture(self.now, list(pool.map(self._look_at, given.managed)), entries, "; ".join(damaged))
            served = self._ask(picture)
            list(pool.map(lambda look: self._decide(look, picture), picture.looks))
        own = {os.path.realpath(path) for look in picture.looks for path in look.managed.paths.values()}
        own |= {path for look in picture.looks for path in look.managed.authority_paths.values()}
        if given.scan_paths:
            found = scan(given.scan_paths, [*given.ignored_paths, f"{given.store_dir}/*"])
            mine = [file for file in found if file.real_path not in own and not self._ignored(file)]
            picture.found = Found(mine, found.looked_at, found.stopped)
        picture.endpoints = served
        picture.clock_faults = self._clock_faults(picture)
        if given.authority is not None:
            picture.authority_due = due(given.authority, self.now)
        picture.missing = self._missing()
        return picture

    def _ignored(self, file: FoundFile) -> bool:
        """Return whether a file is ignored under the name that it has behind all links."""
        return any(fnmatch.fnmatch(file.real_path, pattern) for pattern in self.given.ignored_paths)

    # --- files --------------------------------------------------------------------------------------------------

    def shelf(self, managed: Managed) -> Shelf:
        return Shelf(self.given.store_dir, managed, self.clock)

    def _look_at(self, managed: Managed) -> Look:
        look = Look(managed, self.shelf(managed))
        shelf = look.shelf
        look.transaction = shelf.transaction()
        notes = shelf.notes()
        look.rejected = {version: why for version, why in notes["rejected"].items() if why}
        look.revoke = [version for version, why in notes["revoke"].items() if why]
        if managed.issuer != "external":
            look.linked = shelf.linked()
            look.candidate = candidate_of(shelf, self.judge)
            if look.candidate is not None:
                look.candidate_faults = tuple(self.judge(managed, shelf.folder_of(look.candidate)))
            current = shelf.current()
            if current is not None:
                try:
                    look.wrong_modes = shelf.wrong_modes(shelf.versions / current)
                except StoreError as error:
                    look.fault = str(error)
        try:
            look.chain = tuple(parse_chain(Path(managed.certificate_file).read_bytes()))
        except FileNotFoundError:
            look.fault = look.fault or f"{managed.certificate_file} is not there"
        except (OSError, CertificateError) as error:
            look.fault = look.fault or f"{managed.certificate_file}: {error}"
        if look.chain:
            look.faults = tuple(self.judge(managed, None))
            look.silent = [one.name for one in silent_consumers(managed, look.current or "", notes["told"])]
        look.stale_authority = self._stale_authority(managed)
        return look

    def _stale_authority(self, managed: Managed) -> list[str]:
        texts = self.given.authority.files() if self.given.authority is not None else {}
        stale = []
        for kind, path in managed.authority_paths.items():
            try:
                seen = Path(path).read_text(encoding="utf-8", errors="replace")
            except OSError:
                seen = ""
            if texts.get(kind) and seen != texts[kind]:
                stale.append(path)
        return stale

    def judge(self, managed: Managed, folder: Path | None) -> list[Fault]:
        """Return what is wrong with a version in a folder of the store, or with the files that consumers read (None)."""
        certificate = folder / CERTIFICATE if folder else Path(managed.certificate_file)
        key_path = folder / KEY if folder else Path(managed.key_file)
        try:
            chain = parse_chain(certificate.read_bytes())
        except (OSError, CertificateError) as error:
            return [Fault("unreadable", f"{certificate}: {error}")]
        trust_path, trust = self._trust(managed, chain)
        faults = []
        key: KeyInfo | None = None
        try:
            key = read_key(key_path)
        except KeyError_ as error:
            faults.append(Fault(f"key-{error.code}", f"{key_path}: {error}"))
        client = "serverAuth" not in managed.purposes
        verified = None
        if managed.issuer != "self_signed" and trust_path and not chain[0].self_signed:
            # Dates are judged by themselves: here it is asked who signed whom.
            at = min(max(self.now, chain[0].not_before + 1), chain[0].not_after - 1)
            pems = [to_pem(one.der) for one in chain]
            verified = verify_chain(pems[0], "".join(pems[1:]), trust_path, at, "sslclient" if client else "sslserver", self.given.reach.tools)
        faults += judge(chain, key, managed.names, self.now, self.given.policy, verified, trust=trust, client=client)
        return faults

    def _trust(self, managed: Managed, chain: Sequence[Certificate]) -> tuple[str, list[Certificate]]:
        """Return the file of the roots that a certificate has to lead to, and these roots."""
        if managed.issuer == "self_signed":
            return "", [chain[0]]
        if managed.issuer == "private_ca":
            text = self.given.authority.trust if self.given.authority is not None else ""
            return self._root_file("private_ca", text), _certificates(text)
        path = (self.given.acme.trust_file if managed.issuer == "acme" and self.given.acme else self.given.trust_file) or SYSTEM_ROOTS
        if path not in self._roots:
            try:
                self._roots[path] = Path(path).read_text(encoding="utf-8", errors="replace")
            except OSError:
                self._roots[path] = ""
        issuers = {one.issuer_der for one in chain}
        return (path if self._roots[path] else ""), [one for one in _certificates(self._roots[path]) if one.subject_der in issuers]

    def _root_file(self, name: str, text: str) -> str:
        """Return a file that holds `text`: openssl takes roots from a file alone."""
        if not text.strip():
            return ""
        with self._lock:
            kept = self._root_files.get(name)
            if kept is None or kept[0] != text:
                with tempfile.NamedTemporaryFile("w", encoding="ascii", suffix=".pem", delete=False) as file:
                    file.write(text)
                atexit.register(Path(file.name).unlink, missing_ok=True)
                self._root_files[name] = kept = (text, file.name)
            return kept[1]

    # --- addresses ----------------------------------------------------------------------------------------------

    def _ask(self, picture: Picture) -> list[Served]:
        """Ask all addresses at once; note what consumers present, and return what the others do."""
        wanted: list[tuple[Look | None, str, Endpoint]] = [
            (look, consumer.name, endpoint_of(consumer)) for look in picture.looks for consumer in look.managed.consumers if consumer.address
        ]
        known = {_port_of(endpoint.address) for _, _, endpoint in wanted}
        wanted += [(None, endpoint.address, endpoint) for endpoint in self.given.endpoints]
        known |= {_port_of(endpoint.address) for endpoint in self.given.endpoints}
        found = [port for port in listening_ports() if port in self.given.discover_ports and port not in known]
        wanted += [(None, f"127.0.0.1:{port}", Endpoint(f"127.0.0.1:{port}", socket.gethostname(), "")) for port in found]
        answers = self.ask([endpoint for _, _, endpoint in wanted]) if wanted else []
        others = []
        for (look, name, _), answer in zip(wanted, answers):
            if look is not None:
                look.served = {**look.served, name: answer}
            else:
                others.append(answer)
        return others

    # --- decisions ----------------------------------------------------------------------------------------------

    def _decide(self, look: Look, picture: Picture) -> None:
        managed, leaf = look.managed, look.leaf
        mine = [entry for entry in picture.entries if entry.certificate == managed.name]
        look.renewed_at = max((entry.at for entry in mine if entry.event == "deployed"), default=None)
        if managed.issuer == "acme" and self.given.acme is not None:
            look.budget = budget(picture.entries, managed.names, self.given.acme.account.directory, self.now, self.given.acme.limits)
        if leaf is None:
            return
        if managed.issuer == "acme":
            self._ask_renewal_information(look, leaf)
        look.decision = decide(self.now, leaf.not_before, leaf.not_after, fraction=managed.renew_at_fraction, ari=look.ari,
                               seed=f"{self.given.host}/{managed.name}/{leaf.serial_hex}")  # fmt: skip
        look.revocation = self._revocation(look, leaf)

    def _ask_renewal_information(self, look: Look, leaf: Certificate) -> None:
        acme = self.given.acme
        if acme is None or not leaf.aki or leaf.self_signed:
            return
        cache = Cache(self.given.state_dir / "certificates" / "renewal-information.json", write=self.remember)
        account = acme.account
        with self._lock:
            look.ari, look.ari_fault = renewal_window(account.directory, leaf.aki, leaf.serial, account.ca_file, cache, self.now, ARI_SECONDS)

    def _revocation(self, look: Look, leaf: Certificate) -> Revocation | None:
        if leaf.self_signed:
            return None
        authority = self.given.authority
        if look.managed.issuer == "private_ca":
            generation = authority.generation_of(leaf) if authority is not None else None
            issuing = generation.certificate(generation.issuing) if generation else None
            if generation is None or issuing is None or not generation.crl:
                return None
            return revocation(leaf, issuing, REVOCATION_SECONDS, self.now, generation.crl.encode())
        issuer = look.chain[1] if len(look.chain) > 1 else None
        if issuer is None or not (leaf.crl_urls or leaf.ocsp_urls):
            return None
        path = self.given.state_dir / "certificates" / "revocation.json"
        with self._lock:
            seen: dict[str, Any] = read_json(path, {})
        cached = seen.get(leaf.fingerprint)
        if cached and 0 <= self.now - cached["asked_at"] < self.given.revocation_check_hours * HOUR and cached["state"] != "unknown":
            return Revocation(cached["state"], cached["source"], cached["at"], cached["detail"])
        asked = revocation(leaf, issuer, REVOCATION_SECONDS, self.now)
        told = {"asked_at": self.now, "state": asked.state, "source": asked.source, "at": asked.at, "detail": asked.detail}
        if self.remember:
            with self._lock:
                write_json(path, {**read_json(path, {}), leaf.fingerprint: told})
        return asked

    def _clock_faults(self, picture: Picture) -> list[str]:
        """Return what speaks against the clock: everything that is known to have happened and would be in the future."""
        told = []
        if picture.entries and (last := max(entry.at for entry in picture.entries)) > self.now + 60:
            told.append(f"the ledger has an entry from {last - self.now:.0f} s in the future")
        for look in picture.looks:
            for answer in look.served.values():
                if answer.chain and not answer.chain[0].self_signed and answer.chain[0].not_before > self.now + 60:
                    told.append(f"{answer.endpoint.address} serves a certificate that begins in {answer.chain[0].not_before - self.now:.0f} s")
        return told

    def _missing(self) -> list[str]:
        """Return the packages of programs that are needed and not there."""
        wanted = {"openssl": "openssl"}
        if any(one.issuer == "acme" for one in self.given.managed):
            wanted["lego"] = "lego"
        return [package for program, package in wanted.items() if not self.given.reach.tools.has(program)]


@functools.lru_cache(maxsize=32)
def _certificates(text: str) -> list[Certificate]:
    try:
        return parse_chain(text.encode()) if text.strip() else []
    except CertificateError:
        return []


def _port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def listening_ports(root: str = "/proc") -> list[int]:
    """Return the TCP ports that something listens on."""
    ports = set()
    for name in ("tcp", "tcp6"):
        try:
            lines = Path(root, "net", name).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if len(fields) > 3 and fields[3] == "0A":
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return sorted(ports)


def unmanaged(file: FoundFile) -> bool:
    """Return whether a found file is somebody's certificate: roots that are trusted, and keys without one, are not."""
    return file.kind in ("certificate", "both") and any(not one.is_ca for one in file.certificates)
