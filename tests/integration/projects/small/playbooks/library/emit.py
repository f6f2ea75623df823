#!/usr/bin/python
"""Reports a runbook result, as the modules of the real frame do."""

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    spec = {"runbook": {"type": "dict", "required": True}, "fail": {"type": "bool", "default": False}}
    spec["changed"] = {"type": "bool", "default": False}
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    result = {"runbook": module.params["runbook"], "changed": module.params["changed"]}
    if module.params["fail"]:
        module.fail_json(msg="the step gave up", **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
