# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""The private authority as it is on the control node: what of it is due, and what its hosts are given.

A generation is a root, an issuing authority signed by it, and a list of what was revoked. The issuing authority's key signs every day;
the root's key is away, and comes for a new generation alone. A new root is trusted everywhere before anything is signed below it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible.module_utils.certificates_revocation import CrlError, crl_times
from ansible.module_utils.certificates_x509 import Certificate, CertificateError, parse_chain
from ansible.module_utils.runbook_result import finding

HOUR, DAY = 3600.0, 86400.0
# Part of its life that is left when an authority is renewed: what it signs has to end before it does.
RENEW_FRACTION = 1 / 3
CRL_FRACTION = 1 / 2


@dataclass(frozen=True)
class Generation:
    """One generation; PEM texts, empty where a file is missing. `published` is when its root was first trusted (seconds, 0: unknown)."""

    number: int
    root: str
    issuing: str
    crl: str
    root_crl: str
    published: float

    def certificate(self, pem: str) -> Certificate | None:
        try:
            return parse_chain(pem.encode())[0]
        except CertificateError:
            return None


@dataclass(frozen=True)
class Authority:
    """The authority of the inventory."""

    active: int
    trust: str
    generations: tuple[Generation, ...]
    overlap_hours: float = 24
    renew: bool = False
    leaf_hours: float = 2160

    def generation(self, number: int) -> Generation | None:
        return next((one for one in self.generations if one.number == number), None)

    def generation_of(self, leaf: Certificate) -> Generation | None:
        """Return the generation whose issuing authority signed a certificate, as its names say."""
        for one in self.generations:
            issuing = one.certificate(one.issuing)
            if issuing is not None and issuing.subject_der == leaf.issuer_der:
                return one
        return None

    def files(self) -> dict[str, str]:
        """Return the texts that hosts are given: `trust` the roots, `crl` the lists of all generations in use."""
        lists = [text for one in self.generations for text in (one.root_crl, one.crl)]
        return {"trust": self.trust, "crl": "".join(text.strip() + "\n" for text in lists if text.strip())}


def authority_from(given: Mapping[str, Any] | None) -> Authority | None:
    """Return the authority that the module argument describes."""
    if not given:
        return None
    files: dict[int, dict[str, str]] = {}
    for path, text in given["files"].items():
        number, name = path.split("/")[-2:]
        files.setdefault(int(number), {})[name] = text
    generations = tuple(
        Generation(number, row.get("root.crt", ""), row.get("issuing.crt", ""), row.get("crl.pem", ""), row.get("root.crl", ""),
                   float(row.get("published") or 0))
        for number, row in sorted(files.items())
    )  # fmt: skip
    trust = given["trust"].strip()
    return Authority(int(given["active"]), trust + "\n" if trust else "", generations, float(given["overlap_hours"]),
                     bool(given["renew"]), float(given["leaf_hours"]))  # fmt: skip


def due(authority: Authority, now: float) -> list[tuple[str, str]]:
    """Return what of the authority is due, each with its reason: `missing`, `issuing`, `root`, `activate`, `crl`."""
    active = authority.generation(authority.active)
    issuing = active.certificate(active.issuing) if active else None
    root = active.certificate(active.root) if active else None
    if active is None or issuing is None or root is None:
        return [("missing", "there is no private authority yet")]
    told: list[tuple[str, str]] = []
    published = authority.generation(authority.active + 1)
    if published is not None and published.published and published.certificate(published.issuing):
        since = (now - published.published) / HOUR
        if since >= authority.overlap_hours:
            told.append(("activate", f"generation {published.number} is trusted since {since:.1f} h, {authority.overlap_hours:g} h were asked for"))
    elif authority.renew:
        told.append(("root", "certificates_ca_renew asks for it"))
    elif root.fraction_left(now) < RENEW_FRACTION:
        told.append(("root", f"{root.fraction_left(now):.0%} of the root's life is left"))
    elif issuing.fraction_left(now) < RENEW_FRACTION or issuing.left(now) < authority.leaf_hours * HOUR:
        told.append(("issuing", f"{issuing.left(now) / DAY:.0f} days of the issuing authority are left"))
    if not told and any(_crl_due(one, now) for one in authority.generations if _signs(one, now)):
        told.append(("crl", "more than half of the time until the next list of revoked certificates is over"))
    return told


def _signs(generation: Generation, now: float) -> bool:
    issuing = generation.certificate(generation.issuing)
    return issuing is not None and issuing.left(now) > 0


def _crl_due(generation: Generation, now: float) -> bool:
    try:
        made, until = crl_times(generation.crl.encode())
    except CrlError:
        return True
    return until is None or now > made + (until - made) * (1 - CRL_FRACTION)


def findings(authority: Authority, now: float) -> list[dict[str, Any]]:
    """Return what is to be told of the authority."""
    told = []
    active = authority.generation(authority.active)
    for what, certificate in (("root", active and active.certificate(active.root)), ("issuing", active and active.certificate(active.issuing))):
        if certificate and certificate.fraction_left(now) < RENEW_FRACTION:
            told.append(finding(
                "authority-expiring", "The private authority ends soon", subject=f"{what} of generation {authority.active}",
                observed=round(certificate.left(now) / DAY, 1), expected="more than a third of its life", section="verification",
                severity="critical" if certificate.left(now) < authority.leaf_hours * HOUR else "warning",
                remedy="Run it with certificates_ca_root_dir set to the folder of the root's key"))  # fmt: skip
    return told


def names_of(reasons: Sequence[tuple[str, str]]) -> list[str]:
    return [name for name, _ in reasons]
