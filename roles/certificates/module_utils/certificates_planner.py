# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""What is due and what is wrong: a picture of one host in, actions and findings out. Nothing here touches anything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ansible.module_utils.certificates_authority import findings as authority_findings
from ansible.module_utils.certificates_authority import names_of
from ansible.module_utils.certificates_consumers import presents
from ansible.module_utils.certificates_judge import Fault
from ansible.module_utils.certificates_renewal import too_late
from ansible.module_utils.certificates_survey import Given, Look, Picture, unmanaged
from ansible.module_utils.certificates_x509 import utc
from ansible.module_utils.runbook_result import action, finding

DAY, HOUR = 86400.0, 3600.0
SEVERITIES = {"error": "critical", "warning": "warning", "info": "info"}
# What time alone mends.
WAITS = ("not-yet-valid", "chain-not-yet-valid")
# What makes an issued certificate useless whoever looks at it. What else is wrong with one (its chain, its algorithms) the authority would
# do again, so nothing is ordered until a person has looked.
USELESS = ("unreadable", "empty", "expired", "key-mismatch", "name-not-covered", "lifetime-odd")
TITLES = {
    "expired": "A certificate has expired",
    "not-yet-valid": "A certificate is not valid yet",
    "name-not-covered": "A certificate does not cover a name that it should",
    "key-mismatch": "A certificate and its key do not belong together",
    "chain-incomplete": "A chain lacks an intermediate certificate",
    "weak-key": "A key is weaker than allowed",
    "weak-signature": "A signature uses a hash that is not allowed",
    "unreadable": "A certificate cannot be read",
    "key-missing": "The key of a certificate is lost",
}


@dataclass
class Plan:
    """What is due (actions with result planned) and what is wrong. `issue` has the certificates to be issued, with the reason."""

    actions: list[dict[str, Any]] = field(default_factory=list)
    findings: list[dict[str, Any]] = field(default_factory=list)
    issue: dict[str, str] = field(default_factory=dict)
    deploy: list[str] = field(default_factory=list)


def plan(picture: Picture, given: Given) -> Plan:
    made = Plan()
    for reason, why in picture.authority_due:
        made.actions.append(action("authority", f"private authority, {reason}", why))
    for look in picture.looks:
        why = issue_due(look, given, activates=bool({"activate", "issuing", "missing"} & set(names_of(picture.authority_due))))
        if why:
            made.issue[look.managed.name] = why
            left = round(look.leaf.left(picture.now) / DAY, 2) if look.leaf else None
            made.actions.append(action("issue", look.managed.name, why, number=left, unit="days" if left is not None else ""))
        reasons = deploy_due(look)
        if reasons or why:
            made.deploy.append(look.managed.name)
            made.actions.append(action("deploy", look.managed.name, "; ".join(reasons) or "what is issued has to be served"))
        for version in look.revoke or ([look.current or "?"] if given.reissue == look.managed.name and look.leaf else []):
            made.actions.append(action("revoke", f"{look.managed.name}, {version}", "asked for by certificates_reissue", kind="destructive"))
        made.findings += findings_of(look, given, picture, due=why)
    made.findings += _of_found(picture, given)
    made.findings += _of_endpoints(picture)
    if picture.clock_faults:
        made.findings.append(finding("clock-wrong", "The clock of this host cannot be right", severity="critical",
                                     observed="; ".join(picture.clock_faults)[:600],
                                     remedy="Set the clock (timedatectl, chronyc makestep); dates are judged by it"))  # fmt: skip
    if picture.ledger_fault:
        made.findings.append(finding("ledger-torn", "The ledger of orders has lines that cannot be read", observed=picture.ledger_fault,
                                     severity="info", remedy="A run was killed while it wrote; what it ordered counts as issued"))  # fmt: skip
    if given.authority is not None:
        made.findings += authority_findings(given.authority, picture.now)
        if "root" in names_of(picture.authority_due) or "missing" in names_of(picture.authority_due):
            made.findings.append(finding("authority-due", "The private authority needs its root",
                                         observed="; ".join(why for _, why in picture.authority_due),
                                         remedy="Run it with certificates_ca_root_dir set to the folder of the root's key"))  # fmt: skip
    return made


def issue_due(look: Look, given: Given, activates: bool = False) -> str:
    """Return why a certificate has to be issued anew, "" if it has not.

    `activates`: the next generation of the private authority signs before this run issues.
    """
    managed, leaf = look.managed, look.leaf
    if managed.issuer == "external":
        return ""
    if given.reissue == managed.name and not look.revoke:
        return "certificates_reissue asks for a new key"
    # What was issued and waits for its deployment is as good as issued; what can never be deployed is not.
    if look.candidate is not None and not useless(look.candidate_faults):
        return ""
    if leaf is None:
        return look.fault or f"{managed.certificate_file} is not there"
    worst = [fault.detail for fault in look.faults if fault.severity == "error" and fault.code not in WAITS]
    extra = sorted(set(leaf.names) - set(managed.names))
    revoked = look.revocation is not None and look.revocation.state == "revoked"
    reasons = [
        *worst,
        f"it covers {', '.join(extra)}, which the inventory does not have" if extra else "",
        f"it is self-signed, and its issuer is to be {managed.issuer}" if leaf.self_signed and managed.issuer != "self_signed" else "",
        f"it was revoked ({look.revocation.source})" if revoked and look.revocation is not None else "",
        _of_former_generation(look, given, activates),
        look.decision.why if look.decision is not None and look.decision.due else "",
    ]
    return next((reason for reason in reasons if reason), "")


def _of_former_generation(look: Look, given: Given, activates: bool) -> str:
    """Return why the private authority has to sign anew what it signed, "" if it has not."""
    authority, leaf = given.authority, look.leaf
    if look.managed.issuer != "private_ca" or authority is None or leaf is None or not (authority.active or activates):
        return ""
    generation = authority.generation_of(leaf)
    if generation is None:
        return "no generation of the private authority in use has signed it"
    former = generation.number < authority.active + activates
    return "the private authority has a new generation, which everyone trusts" if former else ""


def useless(faults: Iterable[Fault]) -> list[Fault]:
    return [fault for fault in faults if fault.code in USELESS or fault.code.startswith("key-")]


def deploy_due(look: Look) -> list[str]:
    """Return why files and services of a certificate have to be brought in order."""
    why = []
    if look.transaction is not None:
        why.append("a run before was ended while it deployed")
    if look.candidate is not None:
        again = look.candidate in look.rejected
        why.append("a consumer refused it before; it is tried again" if again else "it was issued and is not served yet")
    if look.linked and not (look.leaf is None and look.candidate is None):
        why.append(", ".join(f"{path} is {how}" for path, how in sorted(look.linked.items())))
    if look.wrong_modes:
        why.append(f"owner or mode of {', '.join(look.wrong_modes)} is not that of the inventory")
    if look.stale_authority:
        why.append(f"{', '.join(look.stale_authority)} is not what the authority says")
    if look.leaf is not None:
        leaf = look.leaf
        why += [f"{name} presents another certificate" for name, seen in look.served.items() if seen.chain and not presents(seen, leaf)]
        if look.silent and (look.shelf.current() or look.managed.issuer == "external"):
            why.append(f"not told of their files yet: {', '.join(look.silent)}")
    return why


def findings_of(look: Look, given: Given, picture: Picture, due: str) -> list[dict[str, Any]]:
    """Return what is wrong with one certificate of the inventory."""
    return [*_of_files(look), *_of_services(look), *_of_issue(look, picture, due), *_of_time(look, given, picture)]


def _of_files(look: Look) -> list[dict[str, Any]]:
    managed = look.managed
    name, told = managed.name, []
    if look.fault:
        told.append(finding("certificate-unreadable", "A certificate of the inventory cannot be read", subject=name, observed=look.fault,
                            severity="critical", remedy="It is issued anew, unless its issuer is external"))  # fmt: skip
    # That nobody signed it is told where an authority is expected, and what signs itself is an authority of its own.
    nobody = look.leaf is not None and look.leaf.self_signed
    for fault in [fault for fault in look.faults if fault.code != "self-signed" and not (nobody and fault.code == "is-ca")]:
        id = fault.code if fault.code.startswith("key-") else f"certificate-{fault.code}"
        told.append(finding(id, TITLES.get(fault.code, "A certificate is not as it should be"), subject=name, observed=fault.detail,
                            severity=SEVERITIES[fault.severity]))  # fmt: skip
    if look.wrong_modes:
        told.append(finding("permissions-wrong", "Owner or mode of a certificate's files is wrong", subject=name,
                            observed=", ".join(look.wrong_modes),
                            expected=f"{managed.owner}:{managed.group}, key {managed.key_mode:04o}"))  # fmt: skip
    if look.revocation is not None and look.revocation.state == "revoked":
        told.append(finding("certificate-revoked", "A certificate was revoked", subject=name, severity="critical",
                            observed=f"{look.revocation.source}: {look.revocation.detail}"))  # fmt: skip
    if managed.issuer == "self_signed":
        told.append(finding("self-signed", "A certificate is signed by nobody", subject=name, observed="a bootstrap certificate",
                            remedy="Give it an issuer: acme or private_ca"))  # fmt: skip
    return told


def _of_services(look: Look) -> list[dict[str, Any]]:
    told = []
    leaf = look.leaf
    for consumer in [one for one in look.managed.consumers if one.name in look.served]:
        seen = look.served[consumer.name]
        subject = f"{look.managed.name}, {consumer.name}"
        if not seen.chain:
            told.append(finding("endpoint-gone", "An address that should present a certificate does not answer", subject=subject,
                                observed=f"{consumer.address}: {seen.error}", severity="critical",
                                remedy="See the runbook service-down"))  # fmt: skip
        elif leaf is not None and not presents(seen, leaf):
            told.append(finding("served-differs", "A service presents another certificate than that of its file", subject=subject,
                                observed=seen.chain[0].serial_hex, expected=leaf.serial_hex, severity="critical",
                                remedy="It is told again, and has to present it"))  # fmt: skip
        elif leaf is not None and len(seen.chain) < len(look.chain) and look.managed.issuer != "self_signed":
            told.append(finding("served-incomplete", "A service presents fewer certificates than its file holds", subject=subject,
                                observed=len(seen.chain), expected=len(look.chain),
                                remedy="Name the file with the intermediates in its configuration"))  # fmt: skip
    for version, why in look.rejected.items():
        told.append(finding("deployment-rolled-back", "A certificate was taken back, as a consumer did not take it", subject=look.managed.name,
                            observed=why, expected=f"version {version}", severity="critical",
                            remedy="Correct the consumer; the next run tries again without ordering anew"))  # fmt: skip
    return told


def _of_issue(look: Look, picture: Picture, due: str) -> list[dict[str, Any]]:
    name, leaf, told = look.managed.name, look.leaf, []
    worst = [fault.detail for fault in look.candidate_faults if fault.severity == "error"]
    if look.candidate is not None and worst:
        told.append(finding("deploy-refused", "A certificate was issued that must not be deployed", subject=name, observed="; ".join(worst),
                            severity="critical", remedy="Look at it in the folder next of the store"))  # fmt: skip
    if look.ari_fault:
        told.append(finding("renewal-information-missing", "The authority's renewal information cannot be had", subject=name,
                            observed=look.ari_fault, severity="info", remedy="The lifetime decides until it is there"))  # fmt: skip
    if look.budget is not None and not look.budget.allowed and due:
        soon = leaf is None or leaf.left(picture.now) < DAY
        until = utc(look.budget.next_allowed) if look.budget.next_allowed is not None else "never"
        told.append(finding("budget-spent", "No certificate may be ordered now", subject=name, observed=look.budget.reason,
                            severity="critical" if soon else "warning",
                            remedy=f"It is allowed again from {until}; the ledger has what was ordered"))  # fmt: skip
    return told


def _of_time(look: Look, given: Given, picture: Picture) -> list[dict[str, Any]]:
    leaf, now = look.leaf, picture.now
    if leaf is None or look.decision is None or leaf.left(now) <= 0:
        return []
    late = too_late(now, leaf.not_after, given.run_interval_hours * HOUR)
    if not (look.decision.due or late):
        return []
    external = look.managed.issuer == "external"
    return [finding("certificate-expiring", "A certificate ends soon", subject=look.managed.name, observed=round(leaf.left(now) / DAY, 2),
                    expected=f"renewed by {utc(look.decision.due_at)}", severity="critical" if late else "warning",
                    remedy="Whoever issues it has to renew it" if external else "It is renewed by this runbook")]  # fmt: skip


def _of_found(picture: Picture, given: Given) -> list[dict[str, Any]]:
    """Return what was found in files that the inventory does not have."""
    told = []
    scanned = picture.found
    for file in scanned:
        if "key-readable" in file.faults:
            told.append(finding("key-readable", "A private key is readable by all", subject=file.path, severity="critical",
                                observed=f"{file.mode & 0o7777:04o}", expected="0600 or 0640",
                                remedy="chmod 0600, and replace the key: it may have been read"))  # fmt: skip
        if file.kind == "broken" and {"unreadable", "symlink-loop"} & set(file.faults):
            told.append(finding("file-broken", "A file of certificates cannot be read", subject=file.path, severity="info",
                                observed=", ".join(file.faults)))  # fmt: skip
        if not unmanaged(file):
            continue
        leaf = next(one for one in file.certificates if not one.is_ca)
        left, fraction = leaf.left(picture.now), leaf.fraction_left(picture.now)
        severity = "info" if left < 0 or fraction > 1 / 3 else "warning"
        told.append(finding("certificate-unmanaged", "A certificate on this host is in no inventory", subject=file.path, severity=severity,
                            observed=f"{leaf.subject}, until {utc(leaf.not_after)}",
                            remedy="Add it to certificates_managed, or its path to certificates_ignored_paths"))  # fmt: skip
    if scanned.stopped:
        told.append(finding("scan-stopped", "Not all files were looked at", observed=scanned.stopped, severity="info",
                            remedy="Name fewer certificates_scan_paths"))  # fmt: skip
    return told


def _of_endpoints(picture: Picture) -> list[dict[str, Any]]:
    told = []
    for served in picture.endpoints:
        if not served.chain:
            continue
        leaf = served.chain[0]
        soon = leaf.fraction_left(picture.now) < 1 / 3
        told.append(finding("endpoint-unmanaged", "An address presents a certificate that is in no inventory", subject=served.endpoint.address,
                            observed=f"{leaf.subject}, until {utc(leaf.not_after)}", severity="warning" if soon else "info",
                            remedy="Add it to certificates_managed, or take its port from certificates_discover_ports"))  # fmt: skip
    return told


def facts(picture: Picture, given: Given) -> dict[str, Any]:
    """Return the figures of the report. Moments are seconds since the epoch, UTC."""
    rows = []
    for look in picture.looks:
        leaf = look.leaf
        matches = [presents(seen, leaf) for seen in look.served.values()] if leaf is not None else []
        rows.append({
            "name": look.managed.name,
            "issuer": look.managed.issuer,
            "serial": leaf.serial_hex if leaf else None,
            "not_before": leaf.not_before if leaf else None,
            "not_after": leaf.not_after if leaf else None,
            "lifetime_left_percent": round(100 * leaf.fraction_left(picture.now), 1) if leaf else None,
            "renew_at": look.decision.due_at if look.decision else None,
            "served": len(matches),
            "served_matches": sum(matches),
            "last_deployed_at": look.renewed_at,
            "orders_left": look.budget.left_orders if look.budget else None,
        })  # fmt: skip
    others = [
        {"name": f.path, "not_before": leaf.not_before, "not_after": leaf.not_after, "subject": leaf.subject}
        for f in picture.found
        if unmanaged(f)
        for leaf in [next(one for one in f.certificates if not one.is_ca)]
    ]
    return {"certificates": rows, "unmanaged_certificates": others, "certificates_at": picture.now}


def metrics(picture: Picture) -> str:
    """Return the figures as Prometheus reads them from a text file: absolute moments, so that nothing changes but by a renewal."""
    help_of = {
        "not_after_seconds": "Moment at which the certificate ends.",
        "served_matches_file": "Whether an address presents the certificate of the file (1) or another (0).",
        "endpoint_up": "Whether an address presents any certificate.",
        "last_deployed_seconds": "Moment of the last deployment.",
        "orders_left": "Orders that the authority still allows for this set of names.",
    }
    lines: dict[str, list[str]] = {name: [] for name in help_of}
    for look in picture.looks:
        name, leaf = look.managed.name, look.leaf
        if leaf is not None:
            lines["not_after_seconds"].append(f'{{certificate="{name}",issuer="{look.managed.issuer}"}} {leaf.not_after:.0f}')
        for consumer, seen in look.served.items():
            label = f'{{certificate="{name}",consumer="{_label(consumer)}"}}'
            lines["endpoint_up"].append(f"{label} {int(bool(seen.chain))}")
            if seen.chain and leaf is not None:
                lines["served_matches_file"].append(f"{label} {int(presents(seen, leaf))}")
        if look.renewed_at is not None:
            lines["last_deployed_seconds"].append(f'{{certificate="{name}"}} {look.renewed_at:.0f}')
        if look.budget is not None:
            lines["orders_left"].append(f'{{certificate="{name}"}} {look.budget.left_orders}')
    text = ""
    for name, rows in lines.items():
        full = f"tracker_certificate_{name}"
        text += f"# HELP {full} {help_of[name]}\n# TYPE {full} gauge\n" + "".join(f"{full}{row}\n" for row in rows)
    return text


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
