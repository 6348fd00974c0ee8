"""A VPC on one machine: EC2, instance metadata, a fabric that carries packets, a Kubernetes API and nodes.

    api           `Lab`, `Node`, `Pod`: what the command line, tests, demo and benchmarks use
    cli           `vpccni lab ...`
    cloud         one process: EC2 (`ec2_server` over `ec2_model`), metadata (`imds`), packets (`fabric`), the internet host
    kube          the other process: the Kubernetes API
    runtime       runs a conflist as the CNI specification says
    node_holder   the mount namespace of a node, held by one small process
    namespaces    entering, making and ending namespaces

Everything lives in namespaces of the lab; the machine's own links, routes, firewall and sysctls are never touched.
"""
