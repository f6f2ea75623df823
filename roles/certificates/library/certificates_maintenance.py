#!/usr/bin/python
# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT

from __future__ import annotations

DOCUMENTATION = r"""
module: certificates_maintenance
short_description: Issue, deploy and revoke certificates
description:
  - C(authority) writes whom to trust and what was revoked, and tells those who read it, before anything of a new authority is served.
  - C(issue) makes a new key and a request for each certificate that is due, and has a public authority sign it; what the private authority
    has to sign is returned as C(requests). Nothing that is served changes.
  - C(deploy) is a transaction for each certificate. What was issued is judged, becomes current by one rename, every consumer is told and
    has to present it; else all of them are brought back to the one before, and the module fails. What a killed run left is ended first.
  - C(revoke) takes back what C(reissue) has replaced, once the new one is served.
  - In check mode nothing is done; M(certificates_maintenance_info) shows the plan.
options:
  step: {description: What is to be done, type: str, required: true, choices: [authority, issue, deploy, revoke]}
  planned: {description: What was done to the private authority on the control node, for the record, type: list, elements: dict, default: []}
  signed: {description: "What the private authority signed, PEM by the name of the certificate", type: dict, default: {}}
  signed_chain: {description: The issuing authority that follows each of them in PEM, type: str, default: ""}
  revoked: {description: What the private authority listed as revoked, type: list, elements: dict, default: []}
  run_id: {description: Identity of the run, type: str, required: true}
  owner: {description: "Who runs it, as user@host", type: str, required: true}
  leases: {description: Resources of the run, type: list, elements: str, default: []}
  lease_seconds: {description: Time after which a lease that is not renewed lapses, type: int, default: 300}
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
- name: Have every consumer present what is in its files
  certificates_maintenance:
    step: deploy
    run_id: 01J8Z3
    owner: ops@laptop
    state_dir: /var/lib/runbooks
    certificates:
      - name: proxy
        names: [tracker.example.org]
        issuer: external
        certificate_file: /etc/ssl/certs/tracker.crt
        key_file: /etc/ssl/private/tracker.key
        consumers:
          - {kind: nginx, address: "127.0.0.1:443", component: proxy}
"""

RETURN = r"""
requests: {description: "Requests for the private authority; name, request (PEM) and names", type: list, elements: dict, returned: for step issue}
revoke:
  description: What was revoked; generation is that of the private authority, none for others
  type: list
  elements: dict
  returned: for step revoke
runbook: {description: Actions with the serials before and after, and findings, type: dict, returned: always}
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.certificates_arguments import ARGUMENTS, carried_out, given_from
from ansible.module_utils.certificates_consumers import Services
from ansible.module_utils.certificates_deploy import Deployer, Deployment
from ansible.module_utils.certificates_issue import Issuer, note_revoked, take_signed
from ansible.module_utils.certificates_store import StoreError
from ansible.module_utils.certificates_survey import Surveyor
from ansible.module_utils.runbook_lease import RENEWED_ARGUMENTS, renewed
from ansible.module_utils.runbook_result import report

OWN: dict[str, Any] = {
    "step": {"type": "str", "required": True, "choices": ["authority", "issue", "deploy", "revoke"]},
    "planned": {"type": "list", "elements": "dict", "default": []},
    "signed": {"type": "dict", "default": {}},
    "signed_chain": {"type": "str", "default": ""},
    "revoked": {"type": "list", "elements": "dict", "default": []},
}


class Work:
    """Carries out one step; `actions` and `findings` say what was done, `more` what the step returns besides."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params
        self.surveyor = Surveyor(given_from(params))
        self.actions: list[dict] = []
        self.findings: list[dict] = []
        self.more: dict[str, Any] = {}

    def authority(self) -> None:
        self.actions += [{**one, "result": "done"} for one in self.params["planned"]]
        self.deploy()

    def issue(self) -> None:
        issuer = Issuer(self.surveyor)
        self.actions, self.findings, self.more = issuer.actions, issuer.findings, {"requests": issuer.requests}
        issuer.issue()

    def revoke(self) -> None:
        issuer = Issuer(self.surveyor)
        self.findings, self.more = issuer.findings, {"revoke": issuer.revoked}
        issuer.revoke()

    def deploy(self) -> None:
        """Deploy every certificate, one after the other. One that fails does not keep the others."""
        surveyor, given = self.surveyor, self.surveyor.given
        take_signed(surveyor, self.params["signed"], self.params["signed_chain"])
        failed = []
        for managed in given.managed:
            authority = given.authority.files() if given.authority is not None else {}
            deployment = Deployment(Services(given.reach, surveyor.ask), surveyor.judge, surveyor.ledger, authority, given.keep_versions)
            deployer = Deployer(surveyor.shelf(managed), deployment)
            deployer.run()
            self.actions += deployer.actions
            self.findings += deployer.findings
            failed += [deployer.failed] if deployer.failed else []
        self.actions += note_revoked(surveyor, self.params["revoked"])
        if failed:
            raise StoreError("; ".join(failed))


def main() -> None:
    module = AnsibleModule(argument_spec={**ARGUMENTS, **RENEWED_ARGUMENTS, **OWN}, supports_check_mode=True)
    given = module.params
    if module.check_mode:
        module.exit_json(changed=False, requests=[], revoke=[], runbook=report())
    made: list[Work] = []

    def told() -> dict:
        return {"findings": made[0].findings, "actions": made[0].actions} if made else {}

    def act() -> None:
        made.append(Work(given))
        lease = (Path(given["state_dir"]), given["leases"], given["run_id"], given["owner"], "certificate-management", given["lease_seconds"])
        with renewed(*lease):
            getattr(made[0], given["step"])()

    carried_out(module, act, told)
    done = told()
    changed = any(one["result"] == "done" for one in done["actions"])
    module.exit_json(changed=changed, runbook=report(done["findings"], done["actions"]), **made[0].more)


if __name__ == "__main__":
    main()
