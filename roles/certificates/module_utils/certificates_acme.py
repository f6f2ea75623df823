# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Certificates from an authority that speaks ACME (RFC 8555), through lego, which only issues.

Key, request, decision and deployment are ours; so are the few things that lego's command line cannot do without a secret
among its arguments (external account binding before it read the environment) or at all (revoking with a certificate's key).
Attempts are counted: at most two, and none more after a failed validation or a rate limit.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import json
import os
import re
import shutil
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.module_utils import certificates_x509 as x509
from ansible.module_utils.certificates_ari import (
    AriError,
    Reply,
    base64url,
    check_address,
    directory,
    exchange,
    seconds_of,
)
from ansible.module_utils.certificates_ledger import Ledger, LedgerError, Limits, budget, moment, set_of
from ansible.module_utils.runbook_tools import Done, ToolError, ToolMissing, Tools, version

LEAST_VERSION = (4, 9)
PROBE_SECONDS = 20.0
HOUR = 3600.0
# Longer than any window of a public authority; what says more is a mistake of its clock or of ours.
RETRY_MOST_SECONDS = 32 * 86400.0
# An authority may refuse a nonce at any time (RFC 8555 section 6.5); more often than this it is broken.
NONCE_TRIES = 8
LEFTOVER_SECONDS = HOUR
# Staging areas allow thousands; a production that keeps failing must not use up what is tried before it.
STAGING_MORE = 10

KEY_TYPES = {"ec256": "ec256", "ec384": "ec384", "rsa2048": "rsa2048", "rsa4096": "rsa4096",
             "ecdsa-p256": "ec256", "ecdsa-p384": "ec384", "rsa-2048": "rsa2048", "rsa-4096": "rsa4096"}  # fmt: skip
NEW_KEY = {"ec256": ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout"],
           "ec384": ["openssl", "ecparam", "-name", "secp384r1", "-genkey", "-noout"],
           "rsa2048": ["openssl", "genrsa", "-traditional"], "rsa4096": ["openssl", "genrsa", "-traditional"]}  # fmt: skip
CHALLENGES = ("http-01", "dns-01", "tls-alpn-01")
# RFC 5280 section 5.3.1; 7 is not used, and 6 and 8 are no end.
REASONS = {0: "unspecified", 1: "keyCompromise", 2: "cACompromise", 3: "affiliationChanged", 4: "superseded",
           5: "cessationOfOperation", 9: "privilegeWithdrawn", 10: "aACompromise"}  # fmt: skip

PROBLEM = r"urn:ietf:params:acme:error:(\w+)"
OF_VALIDATION = ("caa", "connection", "dns", "dnssec", "incorrectResponse", "tls", "unauthorized", "unknownHost")
# A challenge's error has no request in it, unlike one that an answer to a request carries.
OF_NAME = re.compile(r"^\s*\[([^\]\s]+)\][^\n]*?acme: error: \d+ :: " + PROBLEM, re.MULTILINE)
STATUS = re.compile(r"acme: error: (\d{3})")
OF_THIS_HOST = re.compile(r"could not start HTTPS? server|bind: |error presenting token|propagation: time limit")
NO_CONTACT = re.compile(
    r"dial tcp|no such host|connection refused|connection reset|i/o timeout|x509: |tls: |\bEOF\b|exceeded|get directory at"
)
RETRY_AFTER = re.compile(r"retry after (\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.\d+)?\s*(?:Z|UTC|GMT)", re.IGNORECASE)
CHATTER = re.compile(r"^(?:\d{4}/\d\d/\d\d \d\d:\d\d:\d\d )?(?:\[INFO\]|No key found|Saved key)[^\n]*\n?", re.MULTILINE)
STAMP = re.compile(r"^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d ", re.MULTILINE)
WORDS = 900


class AcmeError(Exception):
    """No certificate was issued, or none revoked; the text says why and what to do.

    `kind`: "budget" (ours: the authority was not contacted), "rate-limited", "validation", "account" (it does not know the
    account), "unreachable", "rejected", "client" (this host). `names` are those that failed validation, `retry_at` is when
    to come again in seconds since the epoch. `may_have_issued`: the end was not seen, so there may be a certificate.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        names: Sequence[str] = (),
        retry_at: float | None = None,
        transient: bool = False,
        may_have_issued: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.names = tuple(names)
        self.retry_at = retry_at
        self.transient = transient
        self.may_have_issued = may_have_issued


@dataclass(frozen=True)
class Account:
    """An account with an authority. `directory` is its URL, `path` a folder of ours for account keys (0700).

    `eab_kid` and `eab_hmac` (base64url) bind it to an account that the authority knows otherwise; `ca_file` is trusted instead
    of the host's roots.
    """

    directory: str
    email: str
    path: str
    eab_kid: str = ""
    eab_hmac: str = field(default="", repr=False)
    ca_file: str = ""
    key_type: str = "ec256"

    @property
    def folder(self) -> Path:
        """Where lego keeps this account."""
        server = urllib.parse.urlsplit(self.directory).netloc.rpartition("@")[2].replace(":", "_")
        return Path(self.path, "accounts", server, self.email)


@dataclass(frozen=True)
class Challenge:
    """How control of the names is proven.

    http-01: `webroot`, a folder that is served at port 80, or "" to listen at `http_port` (address:port). tls-alpn-01: listen at
    `tls_port`. dns-01: `dns_hook` is a program, called with present or cleanup, record name and value; `dns_resolvers`
    (host:port) are asked instead of the host's; `propagation` waits until the record is seen.
    """

    kind: str
    http_port: str = ":80"
    webroot: str = ""
    tls_port: str = ":443"
    dns_hook: str = ""
    dns_resolvers: tuple[str, ...] = ()
    propagation: bool = True


@dataclass(frozen=True)
class Issued:
    """A new certificate: the leaf, its intermediates, both together as servers want them, and how long it took.

    `serial` is upper-case hexadecimal; `trouble` is what went wrong after it was issued ("": nothing).
    """

    certificate_pem: str
    chain_pem: str
    fullchain_pem: str
    seconds: float
    serial: str
    trouble: str = ""


@dataclass(frozen=True)
class Client:
    """The lego of this host: its version in words, what it says of its options, and whether those follow the command (5)."""

    version: str
    help: str
    options_last: bool

    def knows(self, option: str) -> bool:
        """Return whether there is an option of this name."""
        return re.search(rf"(?<![\w.-]){re.escape(option)}(?![\w.-])", self.help) is not None

    def first(self, *options: str) -> str:
        """Return the first of these names that it knows. Raise AcmeError where it knows none."""
        for option in options:
            if self.knows(option):
                return option
        raise AcmeError("client", f"lego {self.version} has no option {' or '.join(options)}; use one of 4.9 or newer")


def probe(tools: Tools) -> Client:
    """Return what lego this host has. Raise AcmeError where there is none, or an old one."""
    try:
        said = tools.run(["lego", "--version"], limit_seconds=PROBE_SECONDS, as_us=True).out.strip()
        number = version(said)
        if number == (0,):
            # Debian's was built without its number.
            number = version(_packaged(tools))
        if number != (0,) and number < LEAST_VERSION:
            raise AcmeError("client", f"lego on this host is {'.'.join(map(str, number))}; 4.9 or newer is needed: install that")
        whole = tools.run(["lego", "--help"], limit_seconds=PROBE_SECONDS, as_us=True).out
        last = "--csr" not in whole
        if last:
            whole = tools.run(["lego", "run", "--help"], limit_seconds=PROBE_SECONDS, as_us=True).out
    except ToolMissing as error:
        raise AcmeError("client", f"{error}; it issues certificates (Debian: apt-get install lego)") from error
    except ToolError as error:
        raise AcmeError("client", str(error)) from error
    name = ".".join(map(str, number)) if number != (0,) else said[:60]
    return Client(name, whole, last)


def _packaged(tools: Tools) -> str:
    try:
        return tools.run(["dpkg-query", "-W", "-f=${Version}", "lego"], limit_seconds=PROBE_SECONDS, as_us=True).out
    except ToolError:
        return ""


def issue(
    tools: Tools,
    account: Account,
    challenge: Challenge,
    csr_path: str,
    names: Sequence[str],
    limit_seconds: float,
    *,
    clock: Callable[[], float] = time.time,
    on_order: Callable[[], None] = lambda: None,
    on_failure: Callable[[AcmeError], None] = lambda error: None,
) -> Issued:
    """Have a certificate issued for the request in `csr_path`, whose names are `names`, within `limit_seconds`.

    `on_order` is called before each attempt, of which there are two at most, `on_failure` after one that failed. An account
    that the authority has forgotten is moved aside and made anew. Raise AcmeError.
    """
    began = time.monotonic()
    client = probe(tools)
    options, environment = _checked(client, account, challenge, names, limit_seconds)
    for attempt in (1, 2):
        on_order()
        left = limit_seconds - (time.monotonic() - began)
        try:
            ensure_account(tools, client, account, clock, left)
            pem = _obtain(tools, client, account, [*options, "--csr", os.path.abspath(csr_path)], environment, names, left, clock)
            return _issued(pem, names, time.monotonic() - began)
        except AcmeError as error:
            on_failure(error)
            again = attempt == 1 and time.monotonic() - began < limit_seconds
            if not again or not (error.kind == "account" or error.transient):
                raise
            if error.kind == "account":
                move_aside(account, clock())
    raise AssertionError("both attempts return or raise")


def issue_within_budget(
    ledger: Ledger,
    limits: Limits,
    tools: Tools,
    account: Account,
    challenge: Challenge,
    certificate: str,
    csr_path: str,
    names: Sequence[str],
    limit_seconds: float,
    *,
    staging_directory: str | None = None,
) -> Issued:
    """Have a certificate issued as issue() does, where the ledger says that the authority allows it.

    A set of names that `account.directory` never gave a certificate for is tried at `staging_directory` first (None: it is
    not), with an account of its own and ten times the certificates. What is ordered and what comes of it is written down
    under the name `certificate`. Raise AcmeError, and LedgerError where an order cannot be written; the authority is not contacted then.
    """
    wanted = set_of(names)
    entries, damaged = ledger.entries()
    known = any(e.event == "issued" and e.authority == account.directory and e.names == wanted for e in entries)
    stages = [account]
    if staging_directory and staging_directory != account.directory and not known:
        stages.insert(0, replace(account, directory=staging_directory, path=os.path.join(account.path, "staging")))
    for stage in stages:
        kept = limits if stage is account else replace(limits, certificates=limits.certificates * STAGING_MORE)
        told = budget(entries, wanted, stage.directory, ledger.clock(), kept)
        if not told.allowed:
            until = told.next_allowed
            when = moment(until) if until is not None else "later"
            raise AcmeError(
                "budget",
                f"{stage.directory} was not asked for {', '.join(wanted)}: {told.reason}; the next order is allowed from {when}",
                retry_at=until,
            )
    issued: Issued | None = None
    for stage in stages:
        try:
            issued = _written(ledger, stage, certificate, wanted, tools, challenge, csr_path, limit_seconds)
        except AcmeError as error:
            if stage is account:
                raise
            raise AcmeError(
                error.kind,
                f"{account.directory} was not asked, since {stage.directory}, which is tried first, failed: {error}",
                names=error.names,
                retry_at=error.retry_at,
                may_have_issued=error.may_have_issued,
            ) from error
    if issued is None:
        raise AssertionError("there is always a stage")
    return replace(issued, trouble="; ".join(filter(None, [*damaged, issued.trouble])))


def _written(
    ledger: Ledger, account: Account, certificate: str, names: tuple[str, ...], tools: Tools, challenge: Challenge, csr_path: str,
    limit_seconds: float,
) -> Issued:  # fmt: skip
    """Issue, with the ledger kept. What cannot be written after the order is told and loses no certificate."""

    def order() -> None:
        ledger.write("order", certificate, names, account.directory)

    def failure(error: AcmeError) -> None:
        if error.may_have_issued:
            return  # an order without an end counts as issued
        event = "rate-limited" if error.kind == "rate-limited" else "failed"
        failed = error.names if event == "failed" else None
        with contextlib.suppress(LedgerError):  # the order that stays open is the stricter record
            ledger.write(event, certificate, names, account.directory, reason=f"{error.kind}: {error}"[:500],
                         retry_at=error.retry_at, failed_names=failed)  # fmt: skip

    issued = issue(
        tools, account, challenge, csr_path, names, limit_seconds, clock=ledger.clock, on_order=order, on_failure=failure
    )
    try:
        ledger.write("issued", certificate, names, account.directory, serial=issued.serial)
    except LedgerError as error:
        return replace(issued, trouble=str(error))
    return issued


def revoke(
    tools: Tools,
    account: Account,
    certificate_pem: str,
    key_path: str | None = None,
    reason: int = 0,
    *,
    limit_seconds: float = 60.0,
    clock: Callable[[], float] = time.time,
) -> bool:
    """Revoke a certificate, signed by the account that ordered it, or by its own key where `key_path` is given.

    `reason` is a number of RFC 5280 (1 key compromise, 4 superseded). Return False where it was revoked already.
    Raise AcmeError.
    """
    if reason not in REASONS:
        raise AcmeError("client", f"reason is {reason}; it must be one of {', '.join(f'{n} ({w})' for n, w in REASONS.items())}")
    try:
        leaf = x509.parse_chain(certificate_pem.encode())[0]
    except x509.CertificateError as error:
        raise AcmeError("client", f"what is to be revoked is no certificate: {error}") from error
    try:
        _check_account(account)
        client = None if key_path else probe(tools)
        if client is not None and not client.options_last:
            _revoke_by_lego(tools, client, account, x509.to_pem(leaf.der), reason, limit_seconds, clock)
        else:
            # lego has no way to sign with another key; its fifth version wants records that only it can write.
            key = Path(key_path) if key_path else _account_key(account)
            _revoke_by_hand(tools, account, leaf.der, key, key_path is not None, reason, limit_seconds, clock)
    except AcmeError as error:
        if "alreadyRevoked" in str(error):
            return False
        raise
    return True


# What goes to lego, and what it says.


def _check_account(account: Account) -> None:
    try:
        check_address(account.directory)
    except AriError as error:
        raise AcmeError("client", str(error)) from error
    if not re.fullmatch(r"[^@\s/\\-][^@\s/\\]*@[^@\s/\\]+", account.email):
        raise AcmeError("client", f"the account's e-mail address is {account.email!r}; lego needs one such as ops@example.com")
    if account.key_type not in KEY_TYPES:
        raise AcmeError("client", f"the account's key type is {account.key_type!r}; it must be one of {', '.join(KEY_TYPES)}")
    if bool(account.eab_kid) != bool(account.eab_hmac):
        raise AcmeError("client", "external account binding needs a key identifier and an HMAC key; one of them is missing")


def _checked(
    client: Client, account: Account, challenge: Challenge, names: Sequence[str], limit_seconds: float
) -> tuple[list[str], dict[str, str]]:
    """Return lego's options and environment but for account and request. Raise AcmeError for what cannot work."""
    _check_account(account)
    if not names:
        raise AcmeError("client", "there is no name to have a certificate for")
    wild = [name for name in names if name.startswith("*.")]
    if challenge.kind not in CHALLENGES:
        raise AcmeError("client", f"the challenge is {challenge.kind!r}; it must be one of {', '.join(CHALLENGES)}")
    if wild and challenge.kind != "dns-01":
        raise AcmeError("client", f"{wild[0]} is a wildcard, which is proven by dns-01 only; the challenge is {challenge.kind}")
    if challenge.kind == "http-01":
        if not challenge.webroot:
            return [client.first("--http"), client.first("--http.port", "--http.address"), challenge.http_port], {}
        if not os.path.isdir(challenge.webroot):
            raise AcmeError("client", f"the webroot {challenge.webroot} is no folder; name the one that is served at port 80")
        return ["--http", client.first("--http.webroot"), challenge.webroot], {}
    if challenge.kind == "tls-alpn-01":
        return [client.first("--tls"), client.first("--tls.port", "--tls.address"), challenge.tls_port], {}
    hook = challenge.dns_hook
    if not os.path.isabs(hook) or not os.path.isfile(hook) or not os.access(hook, os.X_OK):
        raise AcmeError("client", f"the hook of dns-01 is {hook!r}; it must be the path of a program")
    options = [client.first("--dns"), "exec"]
    for resolver in challenge.dns_resolvers:
        options += [client.first("--dns.resolvers"), resolver]
    if not challenge.propagation:
        options.append(client.first("--dns.propagation-disable-ans", "--dns.disable-cp", "--dns.propagation.disable-ans"))
        options += ["--dns.propagation.disable-rns"] if client.knows("--dns.propagation.disable-rns") else []
    # lego would wait a minute between two names; its hook is called for one after the other all the same.
    waits = {"EXEC_SEQUENCE_INTERVAL": "1", "EXEC_POLLING_INTERVAL": "1", "EXEC_PROPAGATION_TIMEOUT": str(int(max(10, limit_seconds / 2)))}
    return options, {"EXEC_PATH": hook, **waits}


def _command(client: Client, account: Account, path: Path, command: Sequence[str], options: Sequence[str]) -> list[str]:
    shared = ["--server", account.directory, "--email", account.email, "--path", str(path), "--key-type", KEY_TYPES[account.key_type]]
    # lego insists on it wherever the authority demands binding, for an account that is bound already too.
    shared += ["--eab"] if account.eab_kid else []
    if client.options_last:
        return ["lego", *command[:1], *shared, *options, *command[1:]]
    return ["lego", *shared, *options, *command]


def _environment(account: Account, more: Mapping[str, str]) -> dict[str, str | None]:
    """Return lego's environment, without what the host's says of other accounts."""
    kept = ("LEGO_CA_", "LEGO_DISABLE_CNAME_SUPPORT")
    ours = [name for name in os.environ if name.startswith(("LEGO_", "EXEC_")) and not name.startswith(kept)]
    trusted = {"LEGO_CA_CERTIFICATES": os.path.abspath(account.ca_file)} if account.ca_file else {}
    return {**dict.fromkeys(ours), **trusted, **more}


@contextlib.contextmanager
def _work(account: Account) -> Iterator[Path]:
    """A folder for one call of lego, with the account's beside it: what it had before is of no interest to it."""
    root = Path(account.path).absolute()
    try:
        (root / "accounts").mkdir(mode=0o700, parents=True, exist_ok=True)
        root.chmod(0o700)
        for old in root.glob(".work-*"):
            with contextlib.suppress(OSError):
                if time.time() - old.stat().st_mtime > LEFTOVER_SECONDS:
                    shutil.rmtree(old)
        work = Path(tempfile.mkdtemp(prefix=".work-", dir=root))
    except OSError as error:
        raise AcmeError("client", f"the account's folder {root} cannot be written: {error.strerror}") from error
    try:
        (work / "accounts").symlink_to(root / "accounts")
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        # lego leaves its keys to the umask; the folder above is closed, and so are they.
        for key in (root / "accounts").rglob("*.key"):
            with contextlib.suppress(OSError):
                key.chmod(0o600)


def _obtain(
    tools: Tools, client: Client, account: Account, options: Sequence[str], environment: Mapping[str, str], names: Sequence[str],
    limit_seconds: float, clock: Callable[[], float],
) -> str:  # fmt: skip
    """Run lego once and return what it got, leaf and intermediates in PEM. Raise AcmeError."""
    each = str(int(min(30, max(1, limit_seconds))))
    # lego looks for the certificate sixty times within its time limit: twice a second with its own 30 s.
    waits = ["--accept-tos", "--http-timeout", each, "--cert.timeout", str(int(max(1, min(30, limit_seconds / 2))))]
    more = dict(environment)
    if account.eab_kid and client.knows("$LEGO_EAB_HMAC"):
        more.update(LEGO_EAB_KID=account.eab_kid, LEGO_EAB_HMAC=account.eab_hmac)
    with _work(account) as work:
        argv = _command(client, account, work, ["run"], [*waits, *options])
        _run(tools, argv, _environment(account, more), account, names, limit_seconds, clock)
        found = [path for path in sorted((work / "certificates").glob("*.crt")) if not path.name.endswith(".issuer.crt")]
        if len(found) != 1:
            raise AcmeError("client", f"lego {client.version} ended well and left {len(found)} certificates", may_have_issued=True)
        return found[0].read_text(encoding="ascii", errors="replace")


def _run(
    tools: Tools, argv: Sequence[str], environment: Mapping[str, str | None], account: Account, names: Sequence[str],
    limit_seconds: float, clock: Callable[[], float],
) -> Done:  # fmt: skip
    if limit_seconds <= 0:
        raise AcmeError("client", "there was no time left to contact the authority")
    try:
        return tools.run(argv, env=environment, limit_seconds=limit_seconds, as_us=True)
    except ToolMissing as error:
        raise AcmeError("client", str(error)) from error
    except ToolError as error:
        if error.rc is None:
            raise AcmeError("unreachable", f"{account.directory}: {error}", may_have_issued=True) from error
        hidden = error.output.replace(account.eab_hmac, "***") if account.eab_hmac else error.output
        raise explain(hidden, account.directory, names, clock()) from error


def explain(output: str, authority: str, names: Sequence[str], now: float) -> AcmeError:
    """Return what lego's words mean. `names` are those of the request."""
    text = STAMP.sub("", CHATTER.sub("", output)).strip()
    at = text.find("Could not ")
    text = text[at:] if at >= 0 else text
    words = re.sub(r"\s*\n\s*", "; ", text).encode("utf-8", "replace").decode()
    words = f"{authority}: {words[:WORDS] or 'lego said nothing'}"
    kinds = re.findall(PROBLEM, text)
    status = max((int(number) for number in STATUS.findall(text)), default=0)
    failed = [name for name, kind in OF_NAME.findall(text) if kind in OF_VALIDATION]
    if "rateLimited" in kinds or status == 429:
        return AcmeError("rate-limited", words, retry_at=retry_at(text, now))
    if "accountDoesNotExist" in kinds:
        return AcmeError("account", f"{words} (the authority has forgotten the account)")
    if failed:
        return AcmeError("validation", words, names=set_of(failed))
    if OF_THIS_HOST.search(text):
        return AcmeError("client", f"{words} (the challenge could not be answered from this host)")
    return _of_the_exchange(text, words, status, "badNonce" in kinds, "requesting certificates" in output)


def _of_the_exchange(text: str, words: str, status: int, nonce: bool, sought: bool) -> AcmeError:
    """Return what an error means that is of no name; `sought`: a certificate may have been made."""
    if nonce or status >= 500:
        return AcmeError("unreachable", words, transient=True, may_have_issued=sought)
    if status >= 400:
        return AcmeError("rejected", words)
    if "requires External Account Binding" in text:
        hint = "ask the authority for a key identifier and an HMAC key, and set them"
        return AcmeError("rejected", f"{words.partition(' Use --eab')[0]} ({hint})")
    if NO_CONTACT.search(text):
        untrusted = "x509: " in text or "tls: " in text
        hint = " (its own certificate is not trusted here: set the authority's CA file)" if untrusted else ""
        return AcmeError("unreachable", words + hint, may_have_issued=sought)
    return AcmeError("client", words, may_have_issued=sought)


def retry_at(text: str, now: float) -> float:
    """Return when an authority's refusal says to come again, an hour from now where it does not."""
    found = RETRY_AFTER.search(text)
    told = seconds_of(f"{found.group(1)}T{found.group(2)}Z") if found else None
    if told is None:
        return now + HOUR
    return min(max(told, now), now + RETRY_MOST_SECONDS)


def _issued(pem: str, names: Sequence[str], seconds: float) -> Issued:
    try:
        chain = x509.parse_chain(pem.encode())
    except x509.CertificateError as error:
        raise AcmeError("client", f"what the authority gave cannot be read: {error}", may_have_issued=True) from error
    leaf, *rest = chain
    missing = [name for name in names if not leaf.covers(name) and name not in leaf.names]
    if missing:
        raise AcmeError("rejected", f"the authority gave a certificate without {', '.join(missing)}", may_have_issued=True)
    blocks = [x509.to_pem(one.der) for one in (leaf, *rest)]
    return Issued(blocks[0], "".join(blocks[1:]), "".join(blocks), seconds, leaf.serial_hex)


def _revoke_by_lego(
    tools: Tools, client: Client, account: Account, pem: str, reason: int, limit_seconds: float, clock: Callable[[], float]
) -> None:
    if not account.folder.is_dir():
        raise AcmeError("account", f"there is no account in {account.folder}; revoke with the certificate's key instead")
    with _work(account) as work:
        # All that it reads is this file; --keep has it leave the archive alone.
        (work / "certificates").mkdir(mode=0o700)
        (work / "certificates" / "certificate.crt").write_text(pem)
        argv = _command(client, account, work, ["revoke", "--reason", str(reason), "--keep"], ["--domains", "certificate"])
        _run(tools, argv, _environment(account, {}), account, (), limit_seconds, clock)


def move_aside(account: Account, now: float) -> Path | None:
    """Move an account that the authority does not know out of lego's way; return where to. Nothing is deleted."""
    if not account.folder.exists():
        return None
    stamp = datetime.fromtimestamp(now, timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    for number in range(1000):
        aside = account.folder.with_name(f"{account.email}.forgotten-{stamp}{f'-{number}' if number else ''}")
        if not os.path.lexists(aside):
            try:
                os.rename(account.folder, aside)
            except OSError as error:
                raise AcmeError("client", f"{account.folder} cannot be moved aside: {error.strerror}") from error
            return aside
    raise AcmeError("client", f"{account.folder} was moved aside too often: look at the authority")


# What lego cannot do: a few signed requests of our own (RFC 8555 section 6.2).


def ensure_account(tools: Tools, client: Client, account: Account, clock: Callable[[], float], limit_seconds: float) -> None:
    """Register an account with external binding where lego would want the HMAC key among its arguments.

    The account is left as lego keeps it. Raise AcmeError.
    """
    if not account.eab_kid or client.knows("$LEGO_EAB_HMAC") or (account.folder / "account.json").exists():
        return
    key = account.folder / "keys" / f"{account.email}.key"
    try:
        secret = base64.urlsafe_b64decode(account.eab_hmac + "=" * (-len(account.eab_hmac) % 4))
    except (ValueError, binascii.Error) as error:
        raise AcmeError("client", "the HMAC key of the external account binding is not base64url") from error
    with _work(account):
        _ensure_key(tools, key, KEY_TYPES[account.key_type])
        session = _Session(tools, account, key, clock, limit_seconds)
        url = session.page("newAccount")
        binding = _jws({"alg": "HS256", "kid": account.eab_kid, "url": url}, json.dumps(session.jwk).encode(),
                       lambda data: hmac.new(secret, data, hashlib.sha256).digest())  # fmt: skip
        contact = [f"mailto:{account.email}"]
        reply = session.post(url, {"termsOfServiceAgreed": True, "contact": contact, "externalAccountBinding": binding})
        body = {"status": "valid", "contact": contact}
        made = {"email": account.email, "registration": {"body": body, "uri": reply.headers.get("location", "")}}
        part = account.folder / ".account.json"
        try:
            part.write_text(json.dumps(made, indent="\t"), encoding="utf-8")
            part.chmod(0o600)
            os.replace(part, account.folder / "account.json")
        except OSError as error:
            raise AcmeError("client", f"{account.folder} cannot be written: {error.strerror}") from error


def _ensure_key(tools: Tools, path: Path, key_type: str) -> None:
    """Make an account key where there is none, closed from its first byte."""
    if path.exists() and path.stat().st_size:
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        bits = [key_type[3:]] if key_type.startswith("rsa") else []
        tools.run([*NEW_KEY[key_type], "-out", str(path), *bits], limit_seconds=PROBE_SECONDS, as_us=True)
    except OSError as error:
        raise AcmeError("client", f"account key {path} cannot be written: {error.strerror}") from error
    except ToolError as error:
        raise AcmeError("client", f"no account key could be made: {error}") from error


def _account_key(account: Account) -> Path:
    for key in (account.folder / "keys" / f"{account.email}.key", account.folder / f"{account.email}.key"):
        if key.exists():
            return key
    raise AcmeError("account", f"there is no account in {account.folder}; revoke with the certificate's key instead")


def _revoke_by_hand(
    tools: Tools, account: Account, der: bytes, key: Path, own_key: bool, reason: int, limit_seconds: float, clock: Callable[[], float]
) -> None:
    session = _Session(tools, account, key, clock, limit_seconds)
    if not own_key:
        session.kid = session.post(session.page("newAccount"), {"onlyReturnExisting": True}).headers.get("location", "")
    session.post(session.page("revokeCert"), {"certificate": base64url(der), "reason": reason})


def _jws(protected: Mapping[str, Any], payload: bytes, sign: Callable[[bytes], bytes]) -> dict[str, str]:
    head, body = base64url(json.dumps(protected).encode()), base64url(payload)
    return {"protected": head, "payload": body, "signature": base64url(sign(f"{head}.{body}".encode()))}


class _Session:
    """Requests to one authority, signed with a key, which openssl reads and we do not."""

    def __init__(self, tools: Tools, account: Account, key: Path, clock: Callable[[], float], limit_seconds: float) -> None:
        self.tools, self.account, self.key, self.clock = tools, account, key, clock
        self.until = time.monotonic() + limit_seconds
        self.kid = ""
        self.nonce = ""
        self.jwk, self.algorithm, self.size = self._public()
        try:
            self.pages = directory(account.directory, account.ca_file or None, self._left())
        except AriError as error:
            raise AcmeError("unreachable", str(error)) from error

    def page(self, name: str) -> str:
        """Return the address of a resource. Raise AcmeError."""
        url = self.pages.get(name)
        if not isinstance(url, str):
            raise AcmeError("rejected", f"{self.account.directory} has no {name}")
        return url

    def post(self, url: str, payload: Mapping[str, Any]) -> Reply:
        """Return a good answer to a signed request. Raise AcmeError."""
        words = ""
        for _ in range(NONCE_TRIES):
            reply = self._post_once(url, json.dumps(payload).encode())
            if reply.status in (200, 201):
                return reply
            words = self._words(url, reply)
            if "badNonce" not in words:
                break
        raise explain(words, self.account.directory, (), self.clock())

    def _post_once(self, url: str, payload: bytes) -> Reply:
        try:
            if not self.nonce:
                fresh = exchange(self.page("newNonce"), self.account.ca_file or None, self._left(), method="HEAD")
                self.nonce = fresh.headers.get("replay-nonce", "")
            who = {"kid": self.kid} if self.kid else {"jwk": self.jwk}
            signed = _jws({"alg": self.algorithm, "nonce": self.nonce, "url": url, **who}, payload, self._sign)
            body = json.dumps(signed).encode()
            reply = exchange(url, self.account.ca_file or None, self._left(), method="POST", body=body,
                             content_type="application/jose+json")  # fmt: skip
        except AriError as error:
            raise AcmeError("unreachable", str(error)) from error
        self.nonce = reply.headers.get("replay-nonce", "")
        return reply

    def _words(self, url: str, reply: Reply) -> str:
        """Return an error as lego would say it."""
        try:
            told = json.loads(reply.body)
            kind, detail = told.get("type", ""), told.get("detail", "")
        except (ValueError, AttributeError, RecursionError):
            kind, detail = "", reply.body[:200].decode("utf-8", "replace")
        return f"acme: error: {reply.status} :: POST :: {url} :: {kind} :: {detail}"

    def _left(self) -> float:
        left = self.until - time.monotonic()
        if left <= 0:
            raise AriError(f"{self.account.directory} took too long")
        return left

    def _public(self) -> tuple[dict[str, str], str, int]:
        """Return the public half of the key as JWK, the algorithm it signs with, and the size of its numbers in bytes."""
        argv = ["openssl", "pkey", "-in", str(self.key), "-passin", "pass:", "-pubout"]
        try:
            pem = self.tools.run(argv, limit_seconds=PROBE_SECONDS, as_us=True).out
            der = base64.b64decode("".join(line for line in pem.splitlines() if not line.startswith("-----")))
            spki = x509.element(der)[0]
            algorithm, _, curve = x509.public_key(spki)
            bits = x509.elements(spki.content)[1].content[1:]
            size = {"secp256r1": 32, "secp384r1": 48}.get(curve, 0)
            if algorithm == "rsa":
                modulus, exponent = (x509.integer(one) for one in x509.elements(x509.element(bits)[0].content))
                return {"e": _number(exponent), "kty": "RSA", "n": _number(modulus)}, "RS256", 0
            if size:
                point = bits[-2 * size :]
                name = {32: "P-256", 48: "P-384"}[size]
                jwk = {"crv": name, "kty": "EC", "x": base64url(point[:size]), "y": base64url(point[size:])}
                return jwk, {32: "ES256", 48: "ES384"}[size], size
        except ToolError as error:
            raise AcmeError("client", f"key {self.key} cannot be read: {error}") from error
        except (ValueError, binascii.Error) as error:
            raise AcmeError("client", f"key {self.key} cannot be read: {error}") from error
        raise AcmeError("client", f"key {self.key} is of kind {algorithm} {curve}, with which ACME requests are not signed here")

    def _sign(self, data: bytes) -> bytes:
        digest = "-sha384" if self.algorithm == "ES384" else "-sha256"
        with tempfile.TemporaryDirectory(prefix="signature-") as folder:
            out = os.path.join(folder, "signature")
            argv = ["openssl", "dgst", digest, "-passin", "pass:", "-sign", str(self.key), "-out", out]
            try:
                self.tools.run(argv, stdin=data.decode("ascii"), limit_seconds=PROBE_SECONDS, as_us=True)
                made = Path(out).read_bytes()
            except (ToolError, OSError) as error:
                raise AcmeError("client", f"key {self.key} does not sign: {error}") from error
        if not self.size:
            return made
        return b"".join(x509.integer(one).to_bytes(self.size, "big") for one in x509.elements(x509.element(made)[0].content))


def _number(value: int) -> str:
    return base64url(value.to_bytes((value.bit_length() + 7) // 8, "big"))
