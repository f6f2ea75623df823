"""Carry out a runbook with Ansible, and remember what was done."""

__version__ = "0.1.0"
