#!/usr/bin/python
# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT

from __future__ import annotations

DOCUMENTATION = r"""
module: certificates_maintenance_info
short_description: Read what certificates there are, what is served, and what is due
description:
  - In one call, files, keys, chains, addresses, the ledger of orders and the private authority are read and judged.
  - Nothing that is served is changed. Answers of authorities (renewal information, revocation) are remembered in C(state_dir), and a
    file for Prometheus is written where C(metrics_file) is set; neither in check mode.
options:
  certificates:
    description: The certificates of the inventory
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: Name of the certificate in this inventory, type: str, required: true}
      names: {description: Host names and addresses that it covers, type: list, elements: str, required: true}
      issuer: {description: Who signs it, type: str, required: true, choices: [acme, private_ca, self_signed, external]}
      key_type:
        description: Kind of its next key
        type: str
        default: ecdsa-p256
        choices: [ecdsa-p256, ecdsa-p384, rsa-2048, rsa-3072, rsa-4096, ed25519]
      certificate_file: {description: File with the certificate and its intermediates, type: path, required: true}
      key_file: {description: File with its key, type: path, required: true}
      chain_file: {description: File with the intermediates alone, type: path}
      trust_file: {description: File that gets the roots of the private authority, type: path}
      crl_file: {description: File that gets the lists of revoked certificates, type: path}
      owner: {description: Owner of the files, type: str, default: root}
      group: {description: Group of the files, type: str, default: root}
      key_mode: {description: Mode of the key, type: str, default: "0600"}
      client: {description: Whether clients show it too, type: bool, default: false}
      renew_at_fraction: {description: Part of the lifetime that is left when it is renewed, type: float}
      consumers:
        description: Services that present it
        type: list
        elements: dict
        default: []
        suboptions:
          name: {description: Name in reports, type: str}
          kind: {description: What it is, type: str, required: true, choices: [nginx, postgresql, redis, app, grafana, command]}
          address: {description: Where it answers, as host:port, type: str}
          server_name: {description: Name that is asked for, type: str}
          starttls: {description: What is said before the handshake, type: str, choices: [postgres]}
          component: {description: Name in C(components), type: str}
          reload: {description: How it is told; auto is the way of its kind, type: str, default: auto, choices: [auto, reload, restart, none]}
          command: {description: Program that has it read its certificate, type: list, elements: str}
  host: {description: Name of the host in the inventory; confirmations begin with it, type: str, default: ""}
  state_dir: {description: Folder of the state of the runbooks, type: path, required: true}
  store_dir: {description: Folder of versions, accounts and the ledger, type: path, default: /etc/llm-cost-tracker/certificates}
  scan_paths: {description: Folders that are searched for certificates, type: list, elements: path, default: []}
  ignored_paths: {description: Globs of files that are no concern, type: list, elements: str, default: []}
  endpoints:
    description: More addresses that are looked at
    type: list
    elements: dict
    default: []
    suboptions:
      address: {description: host:port, type: str, required: true}
      server_name: {description: Name that is asked for, type: str, default: ""}
      starttls: {description: What is said before the handshake, type: str, choices: [postgres]}
  discover_ports: {description: Ports that are asked where something listens on them, type: list, elements: int, default: []}
  components: {description: Components of the deployment and their managers, type: dict, default: {}}
  connection:
    description: How PostgreSQL is reached
    type: dict
    suboptions:
      database: {description: Database, type: str, required: true}
      host: {description: Host or folder of its socket, type: str}
      port: {description: Port, type: int}
      user: {description: Role, type: str}
      password: {description: Password, type: str}
      os_user: {description: User as whom psql runs, type: str}
      bin_dir: {description: Folder of psql, type: path}
      psql: {description: Command of psql, type: list, elements: str, default: [psql]}
  redis:
    description: How Redis is reached
    type: dict
    suboptions:
      socket: {description: Its socket, type: path}
      host: {description: Its host, type: str, default: 127.0.0.1}
      port: {description: Its port, type: int, default: 6379}
      user: {description: User, type: str}
      password: {description: Password, type: str}
      tls: {description: Whether TLS is spoken, type: bool, default: false}
      ca_file: {description: Whom to trust, type: path}
      certificate_file: {description: Certificate that is shown, type: path}
      key_file: {description: Its key, type: path}
  acme:
    description: The public authority
    type: dict
    suboptions:
      directory: {description: URL of its directory, type: str, required: true}
      staging_directory: {description: Directory that is tried first for new names, type: str}
      email: {description: Mail address of the account, type: str}
      eab_kid: {description: Key identifier of an external account, type: str}
      eab_hmac: {description: Key of an external account, type: str}
      ca_file: {description: Whom to trust instead of the system's roots when it is contacted, type: path}
      trust_file: {description: Roots that its certificates lead to, type: path}
      challenge: {description: How names are proven, type: str, default: http-01, choices: [http-01, dns-01, tls-alpn-01]}
      http_port: {description: Address for http-01 without webroot, type: str, default: ":80"}
      tls_port: {description: Address for tls-alpn-01, type: str, default: ":443"}
      webroot: {description: Folder that a web server shows, type: path}
      dns_hook: {description: Program that sets DNS records, type: path}
      dns_resolvers: {description: Resolvers that are asked, type: list, elements: str, default: []}
      limit_seconds: {description: Time limit of one order, type: float, default: 300}
      max_per_week: {description: Certificates per exact set of names and 7 days, type: int, default: 5}
      max_failures_per_hour: {description: Failed validations per name and hour, type: int, default: 5}
  authority: {description: The private authority as it is on the control node, type: dict}
  trust_file: {description: Roots that certificates of others lead to; those of the system where it is left out, type: path}
  self_signed_days: {description: Lifetime of self-signed certificates, type: float, default: 30}
  run_interval_hours: {description: Time between two runs, type: float, default: 24}
  reload_wait_seconds: {description: Time that a service has to present a new certificate, type: float, default: 30}
  revocation_check_hours: {description: How long an answer on revocation is good, type: float, default: 24}
  keep_versions: {description: Versions that are kept, type: int, default: 5}
  metrics_file: {description: File for Prometheus, type: path}
  manage_packages: {description: Whether programs may be installed, type: bool, default: true}
  reissue: {description: Certificate that gets a new key and whose former one is revoked, type: str}
  confirm: {description: Confirmations that were given, type: list, elements: str, default: []}
author: The LLM Cost Tracker runbooks authors
"""

EXAMPLES = r"""
- name: See what is due
  certificates_maintenance_info:
    state_dir: /var/lib/runbooks
    certificates:
      - name: proxy
        names: [tracker.example.org]
        issuer: acme
        certificate_file: /etc/ssl/certs/tracker.crt
        key_file: /etc/ssl/private/tracker.key
        consumers:
          - {kind: nginx, address: "127.0.0.1:443", component: proxy}
    acme: {directory: "https://acme-v02.api.letsencrypt.org/directory"}
"""

RETURN = r"""
plan: {description: What is due; step, subject, reason and the number that asked for it, type: list, elements: dict, returned: always}
missing: {description: Packages that are needed and not there, type: list, elements: str, returned: always}
authority_due:
  description: What of the private authority is due; missing, issuing, root, activate or crl
  type: list
  elements: str
  returned: always
facts: {description: Certificates with their moments (seconds since the epoch) and what is served, type: dict, returned: always}
runbook: {description: Findings, and the plan as actions, type: dict, returned: always}
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.certificates_arguments import ARGUMENTS, carried_out, given_from
from ansible.module_utils.certificates_planner import Plan, facts, metrics, plan
from ansible.module_utils.certificates_survey import Picture, Surveyor
from ansible.module_utils.runbook_result import report
from ansible.module_utils.runbook_state import replace_text


def plan_lines(actions: list) -> str:
    """Return the plan as lines of text, for --diff."""
    return "".join(f"{a['step']}: {a['subject']}: {a['reason']}\n" for a in actions)


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)

    def act() -> tuple[Picture, Plan, dict]:
        given = given_from(module.params)
        picture = Surveyor(given, remember=not module.check_mode).look()
        if module.params["metrics_file"] and not module.check_mode:
            # The exporter reads it as somebody else.
            replace_text(Path(module.params["metrics_file"]), metrics(picture), mode=0o644)
        return picture, plan(picture, given), facts(picture, given)

    picture, made, figures = carried_out(module, act, dict)
    module.exit_json(
        changed=bool(module.check_mode and made.actions),
        diff={"before_header": "due", "after_header": "planned", "before": "", "after": plan_lines(made.actions)},
        plan=made.actions,
        missing=picture.missing if module.params["manage_packages"] else [],
        authority_due=[what for what, _ in picture.authority_due],
        facts=figures,
        runbook=report(made.findings, made.actions if module.check_mode else [], complete=True),
    )


if __name__ == "__main__":
    main()
