# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""What a server presents: its chain as it sends it, whoever signed it and whatever else it demands.

OpenSSL's s_client asks: Python shows the whole chain since 3.13 only, speaks no PostgreSQL before TLS, and keeps nothing of a
handshake that ends in "a client certificate is required".
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ansible.module_utils.certificates_x509 import Certificate, CertificateError, is_address, parse_chain
from ansible.module_utils.runbook_tools import ToolError, Tools

ADDRESS = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?\]):([0-9]{1,5})")
SERVER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}")
STARTTLS = ("", "postgres")
PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
# What is asked is which certificate is served, so that old versions and weak keys, which the host's own policy refuses, are talked
# to. Left out are the ciphers that need no certificate: a server might choose one.
CIPHERS = "ALL:!aNULL:!eNULL:!PSK:!SRP:@SECLEVEL=0"
LENIENT = ("-no-CAfile", "-no-CApath", "-no-CAstore", "-min_protocol", "TLSv1", "-cipher", CIPHERS, "-legacy_server_connect")


@dataclass(frozen=True)
class Endpoint:
    """Where a server answers: `address` host:port ([::1]:443 for an IPv6 one), `server_name` the name that is sent ("": none),
    `starttls` "postgres" where TLS is asked for first, else ""."""

    address: str
    server_name: str = ""
    starttls: str = ""


@dataclass(frozen=True)
class Served:
    """What an endpoint sent: its chain, the leaf first as a rule. `error` says why there is none, and is "" otherwise;
    `seconds` is how long it took, `protocol` such as TLSv1.3 ("" where the handshake did not get that far)."""

    endpoint: Endpoint
    chain: tuple[Certificate, ...] = ()
    error: str = ""
    seconds: float = 0.0
    protocol: str = ""

    @property
    def serial_hex(self) -> str:
        """The serial number of what it presents, "" where it presents nothing."""
        return self.chain[0].serial_hex if self.chain else ""


def ask(endpoint: Endpoint, limit_seconds: float = 5.0, tools: Tools | None = None) -> Served:
    """Return what a server presents within `limit_seconds`. What goes wrong is in `error`, never raised."""
    began = time.monotonic()
    wrong = _wrong(endpoint)
    if wrong:
        return Served(endpoint, error=wrong)
    try:
        done = (tools or Tools()).run(_command(endpoint), limit_seconds=limit_seconds, ok=range(-64, 256))
    except ToolError as error:
        seconds = time.monotonic() - began
        late = f"{endpoint.address} did not finish a TLS handshake within {limit_seconds:g} s"
        return Served(endpoint, error=late if "took longer" in str(error) else str(error), seconds=seconds)
    seconds = time.monotonic() - began
    protocol = _protocol(done.out)
    blocks = "\n".join(PEM.findall(done.out))
    if not blocks:
        return Served(endpoint, error=_why(endpoint, done.out + done.err), seconds=seconds, protocol=protocol)
    try:
        return Served(endpoint, tuple(parse_chain(blocks.encode("ascii", "replace"))), "", seconds, protocol)
    except CertificateError as error:
        told = f"{endpoint.address} sent a certificate that cannot be read: {error}"
        return Served(endpoint, error=told, seconds=seconds, protocol=protocol)


def ask_all(endpoints: Sequence[Endpoint], limit_seconds: float = 5.0, workers: int = 8, tools: Tools | None = None) -> list[Served]:
    """Ask several servers at once, and return their answers in the same order. `limit_seconds` is for each of them."""
    if not endpoints:
        return []
    with ThreadPoolExecutor(max_workers=max(1, min(workers, len(endpoints)))) as pool:
        return list(pool.map(lambda endpoint: ask(endpoint, limit_seconds, tools), endpoints))


def _wrong(endpoint: Endpoint) -> str:
    found = ADDRESS.fullmatch(endpoint.address)
    if not found or not 0 < int(found.group(1)) < 65536:
        return f"the address is {endpoint.address!r}; it must be host:port, or [address]:port for IPv6"
    if endpoint.server_name and not is_address(endpoint.server_name) and not SERVER_NAME.fullmatch(endpoint.server_name):
        return f"the server name is {endpoint.server_name!r}; it must be a host name"
    if endpoint.starttls not in STARTTLS:
        return f"starttls is {endpoint.starttls!r}; it must be postgres, or nothing"
    return ""


def _command(endpoint: Endpoint) -> list[str]:
    # RFC 6066: an address is never sent as the server's name.
    named = endpoint.server_name and not is_address(endpoint.server_name)
    name = ["-servername", endpoint.server_name] if named else ["-noservername"]
    starttls = ["-starttls", endpoint.starttls] if endpoint.starttls else []
    return ["openssl", "s_client", "-connect", endpoint.address, *name, *starttls, "-showcerts", *LENIENT]


def _protocol(output: str) -> str:
    cipher = re.search(r"^New, (\S+), Cipher is (\S+)", output, re.MULTILINE)
    if not cipher or cipher.group(2) == "(NONE)":
        return ""
    # Before 1.3 this line has the version that brought the cipher, and another one the version that is spoken.
    said = re.search(r"^ *Protocol *: *(\S+)", output, re.MULTILINE)
    return said.group(1) if said else cipher.group(1)


def _why(endpoint: Endpoint, output: str) -> str:
    address = endpoint.address
    if re.search(r"getaddrinfo|BIO_lookup_ex", output):
        return f"{address} cannot be reached: there is no such host name"
    refused = re.search(r"^connect:errno=(\d+)", output, re.MULTILINE)
    if refused:
        return f"{address} cannot be reached: {os.strerror(int(refused.group(1))).lower()}"
    # PostgreSQL's answer to SSLRequest is one byte, S or N; with N nothing else is said.
    if endpoint.starttls and "handshake has read 1 bytes and written 8 bytes" in output:
        return f"{address} has TLS switched off: it said no to starttls {endpoint.starttls}"
    if re.search("wrong version number|packet length too long|unexpected message|record layer failure|bad record type", output):
        return f"{address} answers, but does not speak TLS"
    alert = re.search(r"(?:alert|tlsv1|sslv3) (?:alert )?([a-z ]+):[^\n]*SSL alert number (\d+)", output)
    if alert:
        return f"{address} ended the handshake: {alert.group(1)}"
    return f"{address} ended the connection before it sent a certificate"
