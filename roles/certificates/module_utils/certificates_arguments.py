# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Arguments that the modules of the role share, and how they become what is given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable, TypeVar

from ansible.module_utils.certificates_acme import Account, AcmeError, Challenge
from ansible.module_utils.certificates_authority import authority_from
from ansible.module_utils.certificates_consumers import Reach, Redis
from ansible.module_utils.certificates_endpoints import Endpoint
from ansible.module_utils.certificates_ledger import LedgerError, Limits
from ansible.module_utils.certificates_model import CERTIFICATE_ARGUMENT, Managed, managed_from
from ansible.module_utils.certificates_store import StoreError
from ansible.module_utils.certificates_survey import Acme, Given
from ansible.module_utils.certificates_x509 import CertificateError
from ansible.module_utils.runbook_components import MANAGERS
from ansible.module_utils.runbook_lease import LeaseHeld
from ansible.module_utils.runbook_psql import CONNECTION_ARGUMENT, PsqlError, PsqlUnreachable, connection_from
from ansible.module_utils.runbook_result import report
from ansible.module_utils.runbook_state import StateError
from ansible.module_utils.runbook_tools import ToolError, Tools

Value = TypeVar("Value")
CHALLENGES = ("http-01", "dns-01", "tls-alpn-01")
ARGUMENTS: dict[str, Any] = {
    "certificates": CERTIFICATE_ARGUMENT,
    "host": {"type": "str", "default": ""},
    "state_dir": {"type": "path", "required": True},
    "store_dir": {"type": "path", "default": "/etc/llm-cost-tracker/certificates"},
    "scan_paths": {"type": "list", "elements": "path", "default": []},
    "ignored_paths": {"type": "list", "elements": "str", "default": []},
    "endpoints": {"type": "list", "elements": "dict", "default": [], "options": {
        "address": {"type": "str", "required": True},
        "server_name": {"type": "str", "default": ""},
        "starttls": {"type": "str", "choices": ["postgres"]},
    }},
    "discover_ports": {"type": "list", "elements": "int", "default": []},
    "components": {"type": "dict", "default": {}},
    "connection": {**CONNECTION_ARGUMENT, "required": False},
    "redis": {"type": "dict", "options": {
        "socket": {"type": "path"},
        "host": {"type": "str", "default": "127.0.0.1"},
        "port": {"type": "int", "default": 6379},
        "user": {"type": "str"},
        "password": {"type": "str", "no_log": True},
        "tls": {"type": "bool", "default": False},
        "ca_file": {"type": "path"},
        "certificate_file": {"type": "path"},
        "key_file": {"type": "path", "no_log": False},
    }},
    "acme": {"type": "dict", "options": {
        "directory": {"type": "str", "required": True},
        "staging_directory": {"type": "str"},
        "email": {"type": "str"},
        "eab_kid": {"type": "str"},
        "eab_hmac": {"type": "str", "no_log": True},
        "ca_file": {"type": "path"},
        "trust_file": {"type": "path"},
        "challenge": {"type": "str", "choices": list(CHALLENGES), "default": "http-01"},
        "http_port": {"type": "str", "default": ":80"},
        "tls_port": {"type": "str", "default": ":443"},
        "webroot": {"type": "path"},
        "dns_hook": {"type": "path"},
        "dns_resolvers": {"type": "list", "elements": "str", "default": []},
        "limit_seconds": {"type": "float", "default": 300},
        "max_per_week": {"type": "int", "default": 5},
        "max_failures_per_hour": {"type": "int", "default": 5},
    }},
    "authority": {"type": "dict", "no_log": False},
    "trust_file": {"type": "path"},
    "self_signed_days": {"type": "float", "default": 30},
    "run_interval_hours": {"type": "float", "default": 24},
    "reload_wait_seconds": {"type": "float", "default": 30},
    "revocation_check_hours": {"type": "float", "default": 24},
    "keep_versions": {"type": "int", "default": 5},
    "metrics_file": {"type": "path"},
    "manage_packages": {"type": "bool", "default": True},
    "reissue": {"type": "str"},
    "confirm": {"type": "list", "elements": "str", "default": []},
}  # fmt: skip


class BadInput(ValueError):
    """The inputs make no sense; the text says which, the value seen and what to do."""


def given_from(params: Mapping[str, Any]) -> Given:
    """Return what the module arguments describe. Raise BadInput with what is wrong, before anything was looked at."""
    components = params["components"] or {}
    if strange := [name for name, about in components.items() if not isinstance(about, dict) or about.get("manager") not in MANAGERS]:
        raise BadInput(f"tracker_components: {', '.join(strange)} have no manager out of {', '.join(MANAGERS)}")
    try:
        managed = managed_from(params["certificates"], list(components))
    except ValueError as error:
        raise BadInput(f"certificates_managed: {error}") from error
    _check_needs(managed, params)
    redis = params["redis"]
    connection = params["connection"]
    reach = Reach(
        tools=Tools(),
        components=components,
        postgresql=connection_from(connection, connection.get("bin_dir")) if connection else None,
        redis=Redis(**{key: value or "" for key, value in redis.items()}) if redis else None,
        wait_seconds=params["reload_wait_seconds"],
    )
    same = ("trust_file", "self_signed_days", "run_interval_hours", "revocation_check_hours", "keep_versions", "manage_packages", "host", "reissue")
    return Given(
        managed=managed,
        store_dir=Path(params["store_dir"]),
        state_dir=Path(params["state_dir"]),
        reach=reach,
        scan_paths=tuple(params["scan_paths"]),
        ignored_paths=tuple(params["ignored_paths"]),
        endpoints=tuple(Endpoint(row["address"], row["server_name"] or "", row["starttls"] or "") for row in params["endpoints"]),
        discover_ports=tuple(params["discover_ports"]),
        acme=_acme_from(params),
        authority=authority_from(params["authority"]),
        **{key: params[key] for key in same},
    )


def _check_needs(managed: tuple[Managed, ...], params: Mapping[str, Any]) -> None:
    faults = []
    for one in managed:
        kinds = {consumer.kind for consumer in one.consumers if not consumer.command and consumer.reload == "auto"}
        if "redis" in kinds and not params["redis"]:
            faults.append(f"{one.name} has a consumer redis, and this host has no part cache: set certificates_redis and tracker_parts")
        if "postgresql" in kinds and not params["connection"]:
            faults.append(f"{one.name} has a consumer postgresql, and this host has no part database: set tracker_parts")
    reissue = params["reissue"]
    if reissue:
        known = {one.name: one for one in managed}
        if reissue not in known:
            faults.append(f"certificates_reissue is {reissue!r}; certificates_managed has {', '.join(known) or 'none'}")
        elif known[reissue].issuer == "external":
            faults.append(f"certificates_reissue is {reissue!r}, whose issuer is external: whoever issues it has to")
        elif f"{params['host']}/{reissue}" not in params["confirm"]:
            faults.append(f"certificates_reissue={reissue} makes a new key and revokes the certificate that is served now; confirm it with "
                          f"--confirm {params['host']}/{reissue}")  # fmt: skip
    if faults:
        raise BadInput("; ".join(faults))


def _acme_from(params: Mapping[str, Any]) -> Acme | None:
    given = params["acme"]
    if not given:
        return None
    if not given["directory"].startswith("https://"):
        raise BadInput(f"certificates_acme_directory is {given['directory']!r}; it must be an https URL")
    if bool(given["eab_kid"]) != bool(given["eab_hmac"]):
        raise BadInput("certificates_acme_eab_kid and certificates_acme_eab_hmac go together; one of them is not set")
    if given["challenge"] == "dns-01" and not given["dns_hook"]:
        raise BadInput("certificates_acme_challenge is dns-01, and certificates_acme_dns_hook is not set: name the program that sets records")
    account = Account(
        directory=given["directory"],
        email=given["email"] or "",
        path=str(Path(params["store_dir"]) / "accounts"),
        eab_kid=given["eab_kid"] or "",
        eab_hmac=given["eab_hmac"] or "",
        ca_file=given["ca_file"] or "",
    )
    challenge = Challenge(
        kind=given["challenge"],
        http_port=given["http_port"],
        tls_port=given["tls_port"],
        webroot=given["webroot"] or "",
        dns_hook=given["dns_hook"] or "",
        dns_resolvers=tuple(given["dns_resolvers"]),
    )
    limits = Limits(certificates=given["max_per_week"], failures=given["max_failures_per_hour"])
    return Acme(account, challenge, given["staging_directory"] or None, given["trust_file"] or None, limits, given["limit_seconds"])


def carried_out(module: Any, act: Callable[[], Value], told: Callable[[], dict[str, Any]]) -> Value:
    """Return what `act` does. Where that is refused or fails, the module ends with what was `told` so far."""
    outcome: str | None = None
    try:
        return act()
    except (BadInput, LeaseHeld) as error:
        outcome, message = "refused", str(error)
    except (StoreError, StateError, LedgerError, AcmeError, CertificateError, ToolError, PsqlError, PsqlUnreachable) as error:
        message = str(error)
    except (OSError, ValueError) as error:
        message = f"{type(error).__name__}: {error}"
    so_far = told()
    return module.fail_json(
        msg=message, runbook=report(so_far.get("findings", []), so_far.get("actions", []), outcome=outcome, message=message)
    )
