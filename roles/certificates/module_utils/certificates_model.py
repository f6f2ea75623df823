# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""What the inventory says about a certificate: its names, who issues it, its files, and who serves it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible.module_utils.certificates_x509 import is_address

ISSUERS = ("acme", "private_ca", "self_signed", "external")
KINDS = ("nginx", "postgresql", "redis", "app", "grafana", "command")
KEY_TYPES = ("ecdsa-p256", "ecdsa-p384", "rsa-2048", "rsa-3072", "rsa-4096", "ed25519")
RELOADS = ("auto", "reload", "restart", "none")
MODES = r"0?[0-7]{3}"
NAME = r"[a-z0-9][a-z0-9-]{0,62}"
HOST_NAME = r"(\*\.)?([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"

CERTIFICATE_ARGUMENT: dict[str, Any] = {
    "type": "list",
    "elements": "dict",
    "required": True,
    "options": {
        "name": {"type": "str", "required": True},
        "names": {"type": "list", "elements": "str", "required": True},
        "issuer": {"type": "str", "required": True, "choices": list(ISSUERS)},
        "key_type": {"type": "str", "choices": list(KEY_TYPES), "default": "ecdsa-p256", "no_log": False},
        "certificate_file": {"type": "path", "required": True},
        "key_file": {"type": "path", "required": True, "no_log": False},
        "chain_file": {"type": "path"},
        "trust_file": {"type": "path"},
        "crl_file": {"type": "path"},
        "owner": {"type": "str", "default": "root"},
        "group": {"type": "str", "default": "root"},
        "key_mode": {"type": "str", "default": "0600", "no_log": False},
        "client": {"type": "bool", "default": False},
        "renew_at_fraction": {"type": "float"},
        "consumers": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "name": {"type": "str"},
                "kind": {"type": "str", "required": True, "choices": list(KINDS)},
                "address": {"type": "str"},
                "server_name": {"type": "str"},
                "starttls": {"type": "str", "choices": ["postgres"]},
                "component": {"type": "str"},
                "reload": {"type": "str", "choices": list(RELOADS), "default": "auto"},
                "command": {"type": "list", "elements": "str"},
            },
        },
    },
}


@dataclass(frozen=True)
class Consumer:
    """A service that presents the certificate: where it answers, and how it is told of a new one.

    `address` is host:port ("" for one that cannot be asked, such as a client), `server_name` the name sent with the handshake.
    """

    name: str
    kind: str
    address: str = ""
    server_name: str = ""
    starttls: str = ""
    component: str = ""
    reload: str = "auto"
    command: tuple[str, ...] = ()

    @property
    def how(self) -> tuple[Any, ...]:
        """How it is told: consumers of which this is the same are told once."""
        return self.kind, self.component, self.reload, self.command


@dataclass(frozen=True)
class Managed:
    """One certificate of the inventory. `certificate_file` holds leaf and intermediates, as servers want it."""

    name: str
    names: tuple[str, ...]
    issuer: str
    certificate_file: str
    key_file: str
    key_type: str = "ecdsa-p256"
    chain_file: str | None = None
    trust_file: str | None = None
    crl_file: str | None = None
    owner: str = "root"
    group: str = "root"
    key_mode: int = 0o600
    client: bool = False
    renew_at_fraction: float | None = None
    consumers: tuple[Consumer, ...] = ()

    @property
    def paths(self) -> dict[str, str]:
        """The paths that consumers read, by the name of the file in the store that each leads to."""
        named = {
            "certificate.pem": self.certificate_file,
            "key.pem": self.key_file,
            "chain.pem": self.chain_file,
        }
        return {name: path for name, path in named.items() if path}

    @property
    def purposes(self) -> tuple[str, ...]:
        """What it is shown for: by servers, by clients, or by both."""
        serves = any(consumer.address for consumer in self.consumers) or not self.client
        return (("serverAuth",) if serves else ()) + (("clientAuth",) if self.client else ())

    @property
    def authority_paths(self) -> dict[str, str]:
        """The files that follow the private authority, not the certificate: whom to trust, and what was revoked."""
        return {name: path for name, path in (("trust", self.trust_file), ("crl", self.crl_file)) if path}


def managed_from(rows: Iterable[Mapping[str, Any]], components: Sequence[str]) -> tuple[Managed, ...]:
    """Return the certificates of the inventory. Raise ValueError with everything that is wrong in them."""
    faults: list[str] = []
    made: list[Managed] = []
    for row in rows:
        told = _faults(row, components)
        faults += [f"{row['name']}: {fault}" for fault in told]
        if not told:
            made.append(_managed(row))
    taken: dict[str, str] = {}
    for one in made:
        if [m.name for m in made].count(one.name) > 1:
            faults.append(f"{one.name}: there are two of this name")
        for path in [*one.paths.values(), *one.authority_paths.values()]:
            if path in taken:
                faults.append(f"{one.name}: {path} is a file of {taken[path]} too; each file belongs to one certificate")
            taken[path] = one.name
    if faults:
        raise ValueError("; ".join(dict.fromkeys(faults)))
    return tuple(made)


def _managed(row: Mapping[str, Any]) -> Managed:
    consumers = tuple(_consumer(entry, row["names"][0]) for entry in row["consumers"])
    same = ("name", "issuer", "certificate_file", "key_file", "key_type", "chain_file", "trust_file", "crl_file", "owner", "group", "client",
            "renew_at_fraction")  # fmt: skip
    return Managed(
        **{key: row[key] for key in same},
        names=tuple(normal_name(name) for name in row["names"]),
        key_mode=int(row["key_mode"], 8),
        consumers=consumers,
    )


def _consumer(row: Mapping[str, Any], first_name: str) -> Consumer:
    address = row["address"] or ""
    return Consumer(
        name=row["name"] or (f"{row['kind']} {address}" if address else row["kind"]),
        kind=row["kind"],
        address=address,
        server_name=row["server_name"] or first_name.replace("*.", "www."),
        starttls=row["starttls"] or ("postgres" if row["kind"] == "postgresql" else ""),
        component=row["component"] or "",
        reload=row["reload"],
        command=tuple(row["command"] or ()),
    )


def normal_name(name: str) -> str:
    """Return a subject name as it is compared: an address in its short form, a host name in lower case."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.lower().rstrip(".")


def _faults(row: Mapping[str, Any], components: Sequence[str]) -> list[str]:
    faults = []
    if not re.fullmatch(NAME, row["name"]):
        faults.append("name must be lower case letters, digits and hyphens")
    if not row["names"]:
        faults.append("names is empty; a certificate needs one name at least")
    for name in row["names"]:
        if not is_address(name) and not (re.fullmatch(HOST_NAME, name) and len(name) < 254):
            faults.append(f"{name!r} is neither a host name nor an address")
        if row["issuer"] == "acme" and is_address(name):
            faults.append(f"{name} is an address; issuer acme takes host names")
    for key in ("certificate_file", "key_file", "chain_file", "trust_file", "crl_file"):
        if row[key] and not row[key].startswith("/"):
            faults.append(f"{key} is {row[key]!r}; it must be an absolute path")
    if not re.fullmatch(MODES, row["key_mode"]):
        faults.append(f"key_mode is {row['key_mode']!r}; it must be octal, such as 0640")
    elif int(row["key_mode"], 8) & 0o037:
        faults.append(f"key_mode is {row['key_mode']}; a key is read by its owner and at most its group (0640)")
    if row["issuer"] == "acme" and row["key_type"] == "ed25519":
        faults.append("key_type is ed25519, which public authorities do not sign; use ecdsa-p256")
    fraction = row["renew_at_fraction"]
    if fraction is not None and not 0 < fraction < 1:
        faults.append(f"renew_at_fraction is {fraction}; it is the part of the lifetime that is left, between 0 and 1")
    for consumer in row["consumers"]:
        faults += _consumer_faults(consumer, components)
    return faults


def _consumer_faults(row: Mapping[str, Any], components: Sequence[str]) -> list[str]:
    kind = row["kind"]
    faults = []
    if row["address"]:
        host, _, port = row["address"].rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            faults.append(f"address of {kind} is {row['address']!r}; it must be host:port")
    if kind == "command" and not row["command"]:
        faults.append("a consumer of kind command needs command, the program that has it read its certificate")
    if row["component"] and row["component"] not in components:
        faults.append(f"component of {kind} is {row['component']!r}; tracker_components has {', '.join(components) or 'none'}")
    if kind in ("app", "grafana") and not row["component"] and row["reload"] != "none" and not row["command"]:
        faults.append(f"a consumer of kind {kind} is restarted: set component to its name in tracker_components, or command")
    return faults
