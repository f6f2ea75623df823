"""The listener: takes alerts from Alertmanager and carries out runbooks, never more than its configuration allows."""
