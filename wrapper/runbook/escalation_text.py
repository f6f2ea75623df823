"""What people are told of a run: short, masked, and with the next command."""

from __future__ import annotations

from runbook.alerts import clean
from runbook.record import Action, Finding, Record
from runbook.redact import shared
from runbook.render import because, change, headline, is_root, next_commands
from runbook.units import counted, moment

FINDINGS, ACTIONS = 5, 8
LINE, EVIDENCE, TITLE = 300, 800, 200


def _line(text: str, limit: int = LINE) -> str:
    return clean(shared().clean(text), limit)


def title(record: Record, severity: str, event: str, why: str) -> str:
    """Return one line: how bad it is, what, and where."""
    where = f" on {', '.join(record.hosts[:3])}{' …' if len(record.hosts) > 3 else ''}" if record.hosts else ""
    if event == "resolve":
        return _line(f"[recovered] {record.title}{where}", TITLE)
    roots = [finding for finding in record.ranked_findings if finding.counts]
    what = roots[0].title or roots[0].id if roots else record.state.replace("_", " ")
    return _line(f"[{severity}] {record.title}: {what}{where}", TITLE)


def body(record: Record, event: str, why: str) -> str:
    """Return the lines of a message."""
    lines = [headline(record)]
    lines += [f"Why you are told: {why}"] if why else []
    lines += [record.message] if record.message and event == "trigger" else []
    if event == "trigger":
        lines += [*_findings(record), *_tried(record)]
        commands = next_commands(record)
        lines += [f"Next: {commands[0]}"] if commands else []
    lines += [f"Alert: {alert.name} since {alert.starts_at or 'an unknown time'}" for alert in record.alerts[:3]]
    lines.append(f"Run: {record.id} of {record.runbook}, {moment(record.started)}, by {record.owner}")
    evidence = _evidence(record) if event == "trigger" else ""
    return "\n".join([_line(line) for line in lines] + ([f"Evidence:\n{evidence}"] if evidence else []))


def _findings(record: Record) -> list[str]:
    found = [finding for finding in record.ranked_findings if finding.counts]
    lines = [_finding(record, finding) for finding in found[:FINDINGS]]
    return lines + ([f"and {counted(len(found) - FINDINGS, 'more finding')}"] if len(found) > FINDINGS else [])


def _finding(record: Record, finding: Finding) -> str:
    root = "root cause, " if is_root(record, finding) else ""
    where = " ".join(filter(None, (finding.subject, f"on {finding.host}")))
    seen = "" if finding.observed is None else f": {finding.observed}"
    after = f" (follows from {finding.cause})" if finding.cause else ""
    return f"- {root}{finding.severity}: {finding.title or finding.id}, {where}{seen}{after}"


def _tried(record: Record) -> list[str]:
    done = [action for action in record.actions if action.result in ("done", "failed")]
    if not done:
        return ["Tried: nothing, this was a diagnosis" if record.plan and not record.fix else "Tried: nothing"]
    return [f"Tried: {_action(action)}" for action in done[-ACTIONS:]]


def _action(action: Action) -> str:
    turned = change(action)
    told = ", ".join(filter(None, (because(action), turned)))
    return f"{action.step} {action.subject} on {action.host}: {action.result}{f' ({told})' if told else ''}"


def _evidence(record: Record) -> str:
    for finding in record.ranked_findings:
        if finding.counts and finding.evidence:
            text = shared().clean(str(finding.evidence))
            return text if len(text) <= EVIDENCE else f"{text[:EVIDENCE]}…"
    return ""
