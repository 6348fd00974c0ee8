#!/bin/sh
# /opt/cni/bin/aws-eks-na-cli: looks into the policy agent's maps (spec policy.md 5.16). The agent is Python and the node may have none:
# this runs the command in the agent's container.

fail() {
    echo "Failed to execute the cmd -  $1"
    exit 0 # as the original's ends
}

command -v crictl >/dev/null 2>&1 || fail "crictl is not on this node"
container=$(crictl ps --quiet --name '^aws-eks-nodeagent$' | head -n 1)
[ -n "$container" ] || fail "no container aws-eks-nodeagent runs on this node"
exec crictl exec "$container" /opt/cni/bin/aws-eks-na-cli "$@"
