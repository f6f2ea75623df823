# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Whether a certificate was revoked: by a list that is at hand, by the list its authority publishes, or by OCSP.

An answer counts only where the issuer signed it and it is of now; everything else is "unknown", with the reason.
"""

from __future__ import annotations

import base64
import functools
import http.client
import os
import re
import tempfile
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import datetime, timezone

from ansible.module_utils.certificates_x509 import (
    INTEGER,
    SEQUENCE,
    Certificate,
    CertificateError,
    Element,
    dotted,
    element,
    elements,
    integer,
    is_pem,
    moment,
    pem_blocks,
    to_pem,
    utc,
)
from ansible.module_utils.runbook_tools import ToolError, Tools

# The largest lists of public authorities that are still published whole have some megabytes.
MAX_CRL_BYTES = 16 << 20
# How far two clocks may be apart before an answer is from the future.
CLOCK_SECONDS = 300.0
VERIFY_SECONDS = 10.0
CRL_NUMBER, DELTA, ISSUING_POINT, REASON = "2.5.29.20", "2.5.29.27", "2.5.29.28", "2.5.29.21"
ENUMERATED = 0x0A
ONLY_USERS, ONLY_AUTHORITIES, SOME_REASONS, INDIRECT, ONLY_ATTRIBUTES = 0x81, 0x82, 0x83, 0x84, 0x85
REASONS = {0: "unspecified", 1: "keyCompromise", 2: "cACompromise", 3: "affiliationChanged", 4: "superseded", 5: "cessationOfOperation",
           6: "certificateHold", 8: "removeFromCRL", 9: "privilegeWithdrawn", 10: "aACompromise"}  # fmt: skip
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True)
class Revocation:
    """`state`: good, revoked, unknown (it could not be found out, see `detail`), not-offered (its authority tells nobody).

    `source` is where the answer is from (a list at hand, or a URL), `at` when it was revoked, in seconds since the epoch;
    `detail` has the reason of a revocation, or why nothing is known.
    """

    state: str
    source: str = ""
    at: float | None = None
    detail: str = ""


class Unusable(Exception):
    """A source says nothing about the certificate; the text says why."""


class CrlError(Unusable):
    """These bytes are no revocation list."""


@dataclass(frozen=True)
class Crl:
    """A revocation list. `entries` are its DER entries, unread; `fault` says why it is not for every certificate, or is ""."""

    der: bytes
    issuer_der: bytes
    this_update: float
    next_update: float | None
    entries: tuple[Element, ...]
    fault: str
    only_users: bool = False
    only_authorities: bool = False


def revocation(
    cert: Certificate,
    issuer_cert: Certificate,
    limit_seconds: float,
    now: float,
    crl_pem: bytes | None = None,
    tools: Tools | None = None,
) -> Revocation:
    """Return whether `cert` was revoked, as of `now` (seconds since the epoch), asking for `limit_seconds` at most.

    `crl_pem` is a list at hand (PEM or DER), which is believed before all others. Nothing is raised.
    """
    tools = tools or Tools()
    end = time.monotonic() + limit_seconds
    wrong: list[str] = []
    if not issuer_cert.issued(cert):
        return Revocation("unknown", detail=f"{issuer_cert.subject} is not the issuer of {cert.subject or cert.serial_hex}")
    if crl_pem is not None:
        try:
            return _by_crl(crl_pem, cert, issuer_cert, now, "the list at hand", tools)
        except Unusable as error:
            wrong.append(f"the list at hand: {error}")
    for url in cert.crl_urls:
        try:
            return _by_crl(fetch(url, end - time.monotonic()), cert, issuer_cert, now, url, tools)
        except Unusable as error:
            wrong.append(f"{url}: {error}")
    for url in cert.ocsp_urls:
        try:
            return _by_ocsp(url, cert, issuer_cert, end - time.monotonic(), now, tools)
        except Unusable as error:
            wrong.append(f"{url}: {error}")
    if not wrong:
        return Revocation("not-offered", detail="the certificate names neither a revocation list nor an OCSP server")
    return Revocation("unknown", detail="; ".join(wrong))


def parse_crl(data: bytes) -> Crl:
    """Return the revocation list in PEM or DER. Raise CrlError where these bytes are none."""
    try:
        if is_pem(data):
            data = next((der for label, der in pem_blocks(data) if label == b"X509 CRL"), b"")
        if not data:
            raise CrlError("it holds no revocation list")
        return _crl(data)
    except CertificateError as error:
        raise CrlError(f"it is no revocation list: {error}") from None
    except (ValueError, IndexError, OverflowError):
        raise CrlError("it is no revocation list") from None


def crl_times(data: bytes) -> tuple[float, float | None]:
    """Return when a revocation list was made and when the next one is due (None where it does not say), in seconds since the
    epoch. Its signature is not looked at. Raise CrlError."""
    crl = parse_crl(data)
    return crl.this_update, crl.next_update


def fetch(url: str, limit_seconds: float, limit_bytes: int = MAX_CRL_BYTES) -> bytes:
    """Return what is at a http URL. Raise Unusable for all other URLs, for more than `limit_bytes`, and after `limit_seconds`."""
    if not url.lower().startswith("http://"):
        raise Unusable("it is not asked, since only http is")
    if limit_seconds <= 0:
        raise Unusable("there was no time left to ask")
    got: list[bytes | str] = []
    # A server that sends a byte now and then passes every time limit of a socket, so that somebody else waits for it.
    thread = threading.Thread(target=_fetch, args=(url, limit_seconds, limit_bytes, got), daemon=True)
    thread.start()
    thread.join(limit_seconds)
    if not got:
        raise Unusable(f"it did not answer within {limit_seconds:.1f} s")
    if isinstance(got[0], str):
        raise Unusable(got[0])
    return got[0]


def _fetch(url: str, limit_seconds: float, limit_bytes: int, got: list[bytes | str]) -> None:
    # No redirects, and no other protocols: a certificate's URL leads to its list and nowhere else.
    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler(), urllib.request.HTTPHandler(), urllib.request.HTTPErrorProcessor(),
                    urllib.request.HTTPDefaultErrorHandler()):  # fmt: skip
        opener.add_handler(handler)
    end = time.monotonic() + limit_seconds
    try:
        # The socket's own limit is past ours: it only ends the thread that nobody waits for any more.
        with opener.open(url, timeout=limit_seconds + 1) as response:
            data = b""
            while time.monotonic() < end:
                part = response.read1(1 << 16)
                data += part
                if len(data) > limit_bytes:
                    got.append(f"it has more than {limit_bytes} bytes, which are not read")
                    return
                if not part:
                    got.append(data)
                    return
    except urllib.error.HTTPError as error:
        got.append(f"the server answered {error.code}")
    except urllib.error.URLError as error:
        got.append(f"it cannot be reached: {error.reason}")
    except (OSError, ValueError, http.client.HTTPException) as error:
        got.append(f"it cannot be read: {error or type(error).__name__}")


def _by_crl(data: bytes, cert: Certificate, issuer: Certificate, now: float, source: str, tools: Tools) -> Revocation:
    crl = parse_crl(data)
    if crl.issuer_der != cert.issuer_der:
        raise Unusable("it is the list of another authority")
    wrong = crl.fault
    if (crl.only_users and cert.is_ca) or (crl.only_authorities and not cert.is_ca):
        wrong = wrong or "it is a list for other certificates"
    if wrong:
        raise Unusable(wrong)
    _signed_by(crl, issuer, tools)
    found = _entry(crl, cert.serial)
    late = crl.next_update is not None and now > crl.next_update
    if found and found[1] != "removeFromCRL" and not (late and found[1] == "certificateHold"):
        return Revocation("revoked", source, found[0], found[1])
    # What an old list says about others stays true; that there are no more is what only a new one can say.
    if late:
        raise Unusable(f"its time was over {utc(crl.next_update or 0)}")
    if crl.this_update > now + CLOCK_SECONDS:
        raise Unusable(f"it is from the future ({utc(crl.this_update)}): is the clock right?")
    return Revocation("good", source, None, f"list of {utc(crl.this_update)}")


def _crl(data: bytes) -> Crl:
    whole, end = element(data)
    if whole.tag != SEQUENCE or end != len(data):
        raise CrlError("it is no revocation list")
    body, signed_with, _ = elements(whole.content)
    parts = elements(body.content)
    if parts[0].tag == INTEGER:
        parts = parts[1:]
    algorithm, issuer, this_update = parts[:3]
    if algorithm.raw != signed_with.raw or issuer.tag != SEQUENCE:
        raise CrlError("it is no revocation list")
    parts = parts[3:]
    next_update = None
    if parts and parts[0].tag in (0x17, 0x18):
        next_update, parts = moment(parts[0]), parts[1:]
    entries: list[Element] = []
    if parts and parts[0].tag == SEQUENCE:
        entries, parts = elements(parts[0].content), parts[1:]
    fault, flags = _extensions(parts[0]) if parts else ("", set())
    only = (ONLY_USERS in flags, ONLY_AUTHORITIES in flags)
    return Crl(data, issuer.raw, moment(this_update), next_update, tuple(entries), fault, *only)


def _extensions(part: Element) -> tuple[str, set[int]]:
    fault, flags = "", set()
    for one in elements(element(part.content)[0].content):
        fields = elements(one.content)
        key, critical = dotted(fields[0]), len(fields) == 3
        if key == ISSUING_POINT:
            flags = {flag.tag for flag in elements(element(fields[-1].content)[0].content) if flag.content != b"\x00"}
        elif key == DELTA:
            fault = "it has only what changed since another list"
        elif critical and key != CRL_NUMBER:
            fault = f"it has the extension {key}, which is not known here"
    if flags & {SOME_REASONS, INDIRECT, ONLY_ATTRIBUTES}:
        fault = fault or "it is a list for some reasons or some authorities only"
    return fault, flags


def _entry(crl: Crl, serial: int) -> tuple[float, str] | None:
    """Return when and why a certificate was revoked, None where the list does not have it."""
    size = max(1, (serial if serial >= 0 else ~serial).bit_length() // 8 + 1)
    wanted = bytes([INTEGER, size]) + serial.to_bytes(size, "big", signed=True)
    for one in crl.entries:
        if not one.content.startswith(wanted):
            continue
        try:
            fields = elements(one.content)
            if integer(fields[0]) != serial:
                continue
            reason = "unspecified"
            for extension in elements(fields[2].content) if len(fields) > 2 else ():
                parts = elements(extension.content)
                value = element(parts[-1].content)[0]
                if dotted(parts[0]) == REASON and value.tag == ENUMERATED:
                    number = int.from_bytes(value.content, "big")
                    reason = REASONS.get(number, str(number))
            return moment(fields[1]), reason
        except (CertificateError, IndexError):
            raise Unusable("its entry for the certificate is damaged") from None
    return None


def _signed_by(crl: Crl, issuer: Certificate, tools: Tools) -> None:
    _signature(crl.der, issuer, tools)


# One list is asked about many certificates of its authority.
@functools.lru_cache(maxsize=16)
def _signature(der: bytes, issuer: Certificate, tools: Tools) -> None:
    text = base64.encodebytes(der).decode("ascii")
    with tempfile.TemporaryDirectory(prefix="certificates-") as folder:
        issuer_path = _put(folder, "issuer", to_pem(issuer.der))
        crl_path = _put(folder, "crl", f"-----BEGIN X509 CRL-----\n{text}-----END X509 CRL-----\n")
        argv = ["openssl", "crl", "-noout", "-verify", "-no-CApath", "-no-CAstore", "-CAfile", issuer_path, "-in", crl_path]
        try:
            done = tools.run(argv, limit_seconds=VERIFY_SECONDS, ok=range(256))
        except ToolError as error:
            raise Unusable(f"its signature cannot be verified: {error}") from None
    # Its exit status says so since OpenSSL 3 only.
    if done.rc != 0 or "verify OK" not in done.err + done.out:
        raise Unusable(f"its signature is not of {issuer.subject}")


def _by_ocsp(url: str, cert: Certificate, issuer: Certificate, limit_seconds: float, now: float, tools: Tools) -> Revocation:
    if not url.lower().startswith("http://"):
        raise Unusable("it is not asked, since only http is")
    if limit_seconds <= 0:
        raise Unusable("there was no time left to ask")
    with tempfile.TemporaryDirectory(prefix="certificates-") as folder:
        issuer_path, cert_path = _put(folder, "issuer", to_pem(issuer.der)), _put(folder, "cert", to_pem(cert.der))
        # A nonce is answered by few authorities; that an answer is of now is said by its times.
        argv = ["openssl", "ocsp", "-no_nonce", "-issuer", issuer_path, "-cert", cert_path, "-url", url, "-CAfile", issuer_path,
                "-no-CApath", "-no-CAstore", "-partial_chain", "-attime", str(int(now)), "-timeout", str(max(1, int(limit_seconds)))]  # fmt: skip
        try:
            done = tools.run(argv, limit_seconds=limit_seconds, ok=range(256))
        except ToolError as error:
            raise Unusable(str(error)) from None
    said = done.out + "\n" + done.err
    if "Response verify OK" not in said:
        raise Unusable(_ocsp_words(said))
    answer = re.search(r"/cert: (good|revoked|unknown)$", said, re.MULTILINE)
    if not answer:
        raise Unusable("its answer is about another certificate")
    if answer.group(1) == "revoked":
        reason = re.search(r"^\s*Reason: (\S+)", said, re.MULTILINE)
        return Revocation("revoked", url, _ocsp_time(said, "Revocation Time"), reason.group(1) if reason else "unspecified")
    if answer.group(1) == "unknown":
        raise Unusable("it does not know the certificate")
    begin, end = _ocsp_time(said, "This Update"), _ocsp_time(said, "Next Update")
    if begin is None or begin > now + CLOCK_SECONDS or (end is not None and now > end + CLOCK_SECONDS):
        raise Unusable("its answer is not of now: is the clock right?")
    return Revocation("good", url, None, f"answer of {utc(begin)}")


def _ocsp_words(said: str) -> str:
    for words in ("Responder Error: [^\\n]*", "Response Verify Failure", "Error connecting[^\\n]*", "Connection refused", "timed? ?out"):
        found = re.search(words, said, re.IGNORECASE)
        if found:
            return f"it gave no answer that counts: {found.group(0).lower()}"
    return "it gave no answer that counts"


def _ocsp_time(said: str, what: str) -> float | None:
    found = re.search(rf"^\s*{what}: (\w{{3}}) +(\d+) (\d+):(\d+):(\d+) (\d{{4}}) GMT", said, re.MULTILINE)
    if not found or found.group(1) not in MONTHS:
        return None
    day, hour, minute, second, year = (int(found.group(at)) for at in range(2, 7))
    return datetime(year, MONTHS.index(found.group(1)) + 1, day, hour, minute, second, tzinfo=timezone.utc).timestamp()


def _put(folder: str, name: str, text: str) -> str:
    path = os.path.join(folder, name)
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
    return path
