# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""What is wrong with a certificate, its chain and its key, as the clients that will be shown it see it."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ansible.module_utils.certificates_keys import KeyInfo
from ansible.module_utils.certificates_x509 import Certificate, utc
from ansible.module_utils.runbook_tools import ToolError, ToolMissing, Tools

VERIFY_SECONDS = 10.0
# What OpenSSL says against a chain is told by these already.
EXPLAINED = ("expired", "not-yet-valid", "lifetime-odd", "chain-expired", "chain-not-yet-valid", "chain-incomplete", "wrong-usage",
             "weak-key", "weak-signature")  # fmt: skip


@dataclass(frozen=True)
class Policy:
    """What keys and signatures must be. `allowed_curves` by their names in SEC 2; `long_lifetime_seconds` is what only information
    is given about: public authorities issue for less than 398 days."""

    min_rsa_bits: int = 2048
    allowed_curves: tuple[str, ...] = ("secp256r1", "secp384r1", "secp521r1")
    forbidden_hashes: tuple[str, ...] = ("md5", "sha1")
    long_lifetime_seconds: float = 398 * 86400.0


@dataclass(frozen=True)
class Fault:
    """`severity`: error (clients refuse it), warning (some do, or soon will), info."""

    code: str
    detail: str
    severity: str = "error"


def judge(
    chain: Sequence[Certificate],
    key: KeyInfo | None,
    names: Iterable[str],
    now: float,
    policy: Policy | None = None,
    verified: str | None = None,
    *,
    trust: Sequence[Certificate] = (),
    client: bool = False,
) -> list[Fault]:
    """Return what is wrong with a certificate that is served with this chain, as it is in the file or was sent.

    `key` is the private key beside it (None: not looked at), `names` what it has to cover, `now` seconds since the epoch,
    `verified` what verify_chain said ("": all is well, None: not asked), `trust` the roots that are known; with `client` it is
    shown by a client. Codes: empty, expired, not-yet-valid, lifetime-odd, long-lifetime, name-not-covered, no-san, is-ca,
    wrong-usage, self-signed, key-mismatch, weak-key, weak-signature, chain-incomplete, chain-order, chain-foreign, chain-expired,
    chain-not-yet-valid, not-verified.
    """
    policy = policy or Policy()
    if not chain:
        return [Fault("empty", "there is no certificate")]
    path, strays = _path(chain, key.spki_sha256 if key else "")
    leaf = path[0]
    faults = _times(leaf, now, policy)
    faults += _identity(leaf, names, client)
    if key and key.spki_sha256 and key.spki_sha256 != leaf.spki_sha256:
        faults.append(Fault("key-mismatch", f"the key beside it belongs to another certificate than {leaf.subject or leaf.serial_hex}"))
    for one in path:
        faults += _strength(one, policy)
    faults += _chain(chain, path, strays, trust)
    for one in path[1:]:
        faults += _issuer_times(one, now)
    if verified and not any(fault.code in EXPLAINED for fault in faults):
        faults.append(Fault("not-verified", f"openssl verify says: {verified}"))
    return faults


def order(chain: Sequence[Certificate], spki_sha256: str = "") -> list[Certificate]:
    """Return the certificates in the order of TLS, each followed by its issuer; what does not belong is last, nothing is left
    out. The first is the one of the key `spki_sha256`, where that is given and there."""
    if not chain:
        return []
    path, strays = _path(chain, spki_sha256)
    return path + strays


def verify_chain(
    leaf_pem: str, chain_pem: str, trust_path: str, now: float, purpose: str = "sslserver", tools: Tools | None = None
) -> str:
    """Return "" where the signatures lead from the leaf through the chain to a certificate in `trust_path`, all of them valid
    at `now` and good for `purpose` (sslserver, sslclient); else OpenSSL's words. Raise ToolError where it does not answer."""
    with tempfile.TemporaryDirectory(prefix="certificates-") as folder:
        leaf, chain = os.path.join(folder, "leaf"), os.path.join(folder, "chain")
        for path, text in ((leaf, leaf_pem), (chain, chain_pem)):
            with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(text)
        argv = ["openssl", "verify", "-no-CApath", "-no-CAstore", "-partial_chain", "-purpose", purpose, "-attime", str(int(now)),
                "-CAfile", trust_path, *(["-untrusted", chain] if "-----BEGIN" in chain_pem else []), leaf]  # fmt: skip
        try:
            (tools or Tools()).run(argv, limit_seconds=VERIFY_SECONDS)
        except ToolMissing:
            raise
        except ToolError as error:
            if error.rc is None:
                raise
            return _openssl_words(error.output)
    return ""


def _openssl_words(output: str) -> str:
    found = re.search(r"error \d+ at (\d+) depth lookup: *(.*)", output)
    if found:
        return f"{found.group(2).strip()} (at depth {found.group(1)})"
    for line in output.splitlines():
        # "Could not read ... from ..." and "Error loading file ..." are about the files it was given.
        if line.strip() and ":error:" not in line:
            return re.sub(r"/\S*/certificates-[^/\s]*/", "the ", line.strip())
    return "it failed and said nothing"


def _path(chain: Sequence[Certificate], spki_sha256: str) -> tuple[list[Certificate], list[Certificate]]:
    """Return the leaf with the issuers that follow from it, and the certificates that do not belong to these."""
    leaf = _leaf(chain, spki_sha256)
    path, left = [leaf], list(chain)
    left.remove(leaf)
    while not path[-1].self_signed:
        issuers = [one for one in left if path[-1].issuer_der == one.subject_der and one.issued(path[-1]) and one.der != path[-1].der]
        if not issuers:
            break
        # Of several with one name and key (renewed, or signed across), the first one is what most clients take.
        path.append(issuers[0])
        left.remove(issuers[0])
    return path, left


def _leaf(chain: Sequence[Certificate], spki_sha256: str) -> Certificate:
    # The key of an authority further up is a wrong key, and makes no leaf of it.
    of_key = [one for one in chain if one.spki_sha256 == spki_sha256 and (one is chain[0] or not one.is_ca)]
    if of_key:
        return of_key[0]
    if not chain[0].is_ca:
        return chain[0]
    return next((one for one in chain if not one.is_ca), _lowest(chain))


def _lowest(chain: Sequence[Certificate]) -> Certificate:
    """Return the first certificate that has issued none of the others, of authorities alone."""
    issued_none = (one for one in chain if not any(one.issued(other) for other in chain if other.der != one.der))
    return next(issued_none, chain[0])


def _times(leaf: Certificate, now: float, policy: Policy) -> list[Fault]:
    if leaf.lifetime() <= 0:
        return [Fault("lifetime-odd", f"it ends {utc(leaf.not_after)}, and begins {utc(leaf.not_before)} only")]
    faults = []
    if now > leaf.not_after:
        faults.append(Fault("expired", f"it expired {utc(leaf.not_after)}"))
    if now < leaf.not_before:
        faults.append(Fault("not-yet-valid", f"it is valid from {utc(leaf.not_before)}; is the clock right?"))
    if leaf.lifetime() > policy.long_lifetime_seconds:
        faults.append(Fault("long-lifetime", f"it is valid for {leaf.lifetime() / 86400:.0f} days", "info"))
    return faults


def _issuer_times(one: Certificate, now: float) -> list[Fault]:
    # A root that is sent is passed over: clients use their own copy.
    severity = "warning" if one.self_signed else "error"
    if now > one.not_after:
        return [Fault("chain-expired", f"its issuer {one.subject} expired {utc(one.not_after)}", severity)]
    if now < one.not_before:
        return [Fault("chain-not-yet-valid", f"its issuer {one.subject} is valid from {utc(one.not_before)}", severity)]
    return []


def _identity(leaf: Certificate, names: Iterable[str], client: bool) -> list[Fault]:
    faults = []
    has = ", ".join(leaf.names) or "none"
    for name in dict.fromkeys(names):
        if not leaf.covers(name):
            faults.append(Fault("name-not-covered", f"{name} is not among its names, {has}"))
    if not leaf.has_san and not client:
        faults.append(Fault("no-san", "it has no subject alternative names; clients do not look at the common name"))
    if leaf.is_ca:
        faults.append(Fault("is-ca", "it is the certificate of an authority: who has its key can sign for every name", "warning"))
    needed = "clientAuth" if client else "serverAuth"
    # Of anyExtendedKeyUsage alone OpenSSL's clients say "unsuitable certificate purpose".
    if leaf.usages and needed not in leaf.usages:
        faults.append(Fault("wrong-usage", f"it is made for {', '.join(leaf.usages)}, and not for {needed}"))
    if leaf.self_signed:
        faults.append(Fault("self-signed", "no authority has signed it", "info"))
    return faults


def _strength(one: Certificate, policy: Policy) -> list[Fault]:
    faults = []
    whose = one.subject or f"serial number {one.serial_hex}"
    if one.key_algorithm == "rsa" and one.key_bits < policy.min_rsa_bits:
        faults.append(Fault("weak-key", f"{whose} has an RSA key of {one.key_bits} bits; {policy.min_rsa_bits} at least are demanded"))
    elif one.key_algorithm == "ec" and one.curve not in policy.allowed_curves:
        faults.append(Fault("weak-key", f"{whose} has a key on {one.curve}; it must be on one of {', '.join(policy.allowed_curves)}"))
    elif one.key_algorithm == "dsa":
        faults.append(Fault("weak-key", f"{whose} has a DSA key, which TLS has no use for"))
    # Nobody verifies what a certificate says of itself.
    if one.signature_hash in policy.forbidden_hashes and not one.self_signed:
        faults.append(Fault("weak-signature", f"{whose} is signed with {one.signature_hash}"))
    return faults


def _chain(
    chain: Sequence[Certificate], path: Sequence[Certificate], strays: Sequence[Certificate], trust: Sequence[Certificate]
) -> list[Fault]:
    faults = []
    if [one for one in chain if one in path] != list(path) and not _twice(chain, path):
        right = " > ".join(one.subject or one.serial_hex for one in path)
        faults.append(Fault("chain-order", f"each certificate must be followed by its issuer: {right}"))
    for one in strays:
        what = "is in it twice" if one in path else "does not belong to it"
        faults.append(Fault("chain-foreign", f"{one.subject or one.serial_hex} {what}", "warning"))
    top = path[-1]
    # Without known roots, an intermediate is believed to be signed by one.
    known = not trust and len(path) > 1
    if not (top.self_signed or known or any(root.issued(top) or root.der == top.der for root in trust)):
        where = "neither with it nor among the trusted ones" if trust else "not with it"
        faults.append(Fault("chain-incomplete", f"the issuer {top.issuer} is {where}"))
    return faults


def _twice(chain: Sequence[Certificate], path: Sequence[Certificate]) -> bool:
    """Whether the order is right but for certificates that are there again."""
    return list(dict.fromkeys(one for one in chain if one in path)) == list(path)
