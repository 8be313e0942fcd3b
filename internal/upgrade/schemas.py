"""Writes, for each resource type of a template, the properties whose change replaces the resource.

They are the createOnlyProperties of CloudFormation's resource provider schemas, which the package cfn-lint carries; those
that replace under some circumstances count. Run it with make schemas when a template has a type that it had not before.
"""

import json
import sys

from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER

with open(sys.argv[1], encoding="utf-8") as file:
    resources = json.load(file)["Resources"]
table = {}
for resource_type in {resource["Type"] for resource in resources.values()}:
    if not resource_type.startswith("Custom::"):
        schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", resource_type).schema
        pointers = schema.get("createOnlyProperties", []) + schema.get("conditionalCreateOnlyProperties", [])
        table[resource_type] = sorted({pointer.split("/")[2] for pointer in pointers})
lines = (f"{json.dumps(name)}: {json.dumps(table[name])}" for name in sorted(table))
print("{\n  " + ",\n  ".join(lines) + "\n}")
