"""The one process that talks to EC2 and instance metadata: it owns the inventory of this instance's ENIs and addresses.

It never decides which pod gets which address and never touches the kernel. Read in this order:

    facts       what EC2 and metadata say, as plain values
    inventory   core: the two pictures merged into one, and what a new look may change
    subnets     core: where ENIs may come from, which subnets are full, which are kept from pods
    planner     core: the allocator's wish turned into the fewest EC2 calls
    ipv6        core: the /80 prefix of each network card of an IPv6 node
    network_cards       core: which network cards are used, and how many ENIs each may have
    hindrance   core: why growing does not go on, and when it is tried again
    manners     core: how often EC2 may be asked
    chores, leaks       core: tags and security groups to be written; leaked ENIs
    limits      core: how many ENIs and addresses an instance type may have (limits.tsv, made by make_limits)
    imds, ec2, journal      adapters: instance metadata, EC2 (the only module with boto3), the intents on disk
    cloud       EC2 calls for the loop: in a thread, in turn, counted, timed
    lifecycle   an ENI's way into the inventory and out of it, one journaled step after the other
    changes     carrying a plan out, and what is made of EC2's refusals
    looking     reading EC2 and metadata on time
    upkeep      writing what is not addresses, removing what is leaked
    service     the loop: messages and timers to the core, its decisions to the adapters (what it knows is in `state`)
    outlook     what the others are told
    remembered  what EC2 told last, for a start while it is silent
    startup     from nothing to the first complete look
    annotations, annotator          pods' addresses in their annotations, where the operator wants them
    kube_facts, reports, reporter, node_count       Kubernetes: what it says of this node, and what it is told
    make_limits, make_model     what makes the generated files; never run on a node
"""
