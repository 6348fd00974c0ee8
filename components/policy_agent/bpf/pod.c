/* The two programs of the node, attached to the host end of every pod's veth pair; both families in each.
 *
 *   handle_ingress   on the egress hook: packets towards the pod
 *   handle_egress    on the ingress hook: packets from the pod
 *
 * BCC dialect. Constants, structs and sizes come from the header that layout.py generates: Python and C share one source.
 *
 * map           key                            value                     written by      life
 * pods          interface                      rule set, whose           policy_agent    Attach to Detach
 * counters      slot, direction                packets, bytes, drops     the programs    as its pod's entry
 * rule_sets     place of a rule set            both directions           policy_agent    while a pod has it, and some seconds
 * hosts         address table, address         class                     policy_agent    as the table
 * networks      address table, network         class (longest prefix)    policy_agent    as the table
 * classes       rule set, direction, class     decision or port table    policy_agent    as the rule set
 * ports         port table, protocol, port     decision (longest prefix) policy_agent    as the table
 * rules         rule number                    new flows it decided      the programs    as the rule set, made by policy_agent
 * exempt        an address of the node         -                         policy_agent    while the node has it
 * flows         interface, addresses, ports    who began, state, time    the programs    until quiet; swept by policy_agent
 * spare_flows   the same                       the same                  the programs    least recently used goes
 * usage         slot                           flows made                the programs    as its pod's entry
 * swept         slot                           flows taken away          policy_agent    as its pod's entry
 * fragments     datagram                       its ports                 the programs    least recently used goes
 * events        -                              verdicts, a ring          the programs    read by policy_agent
 * event_limits  0                              what was reported, lost   the programs
 * options       0; 1                           OPTION_*; the last rule   policy_agent
 *                                              set's number
 *
 * A pod's slot is its place in the arrays, and the low bits of a rule set's number are its: a look into an array costs next to
 * nothing, one into a hash table some 20 ns.
 *
 * A rule set is never changed while a pod has it: a change of policy is a new one, and one write to the pod's entry.
 */

#define KEEP BPF_F_NO_PREALLOC

BPF_TABLE("hash", u32, struct pod_entry, pods, PODS_AT_MOST);
BPF_TABLE("percpu_array", int, struct counter_value, counters, COUNTERS_AT_MOST);
BPF_TABLE("array", int, struct rule_set, rule_sets, RULE_SETS_AT_MOST);
BPF_F_TABLE("hash", struct host_key, u32, hosts, HOSTS_AT_MOST, KEEP);
BPF_F_TABLE("lpm_trie", struct network_key, u32, networks, NETWORKS_AT_MOST, KEEP);
BPF_F_TABLE("hash", struct class_key, struct decision, classes, CLASSES_AT_MOST, KEEP);
BPF_F_TABLE("lpm_trie", struct port_key, struct decision, ports, PORTS_AT_MOST, KEEP);
BPF_F_TABLE("percpu_hash", u32, u64, rules, RULES_AT_MOST, KEEP);
BPF_F_TABLE("hash", struct address, u32, exempt, EXEMPT_AT_MOST, KEEP);
BPF_F_TABLE("hash", struct flow_key, struct flow, flows, FLOWS_AT_MOST, KEEP);
BPF_TABLE("lru_hash", struct flow_key, struct flow, spare_flows, SPARE_FLOWS_AT_MOST);
BPF_TABLE("array", int, struct usage, usage, PODS_AT_MOST);
BPF_TABLE("array", int, u64, swept, PODS_AT_MOST);
BPF_TABLE("lru_hash", struct fragment_key, struct fragment, fragments, FRAGMENTS_AT_MOST);
BPF_RINGBUF_OUTPUT(events, EVENT_PAGES);
BPF_TABLE("percpu_array", int, struct event_limit, event_limits, 1);
BPF_TABLE("array", int, u32, options, OPTIONS_HELD);

#define inlined static inline __attribute__((always_inline))

#define ETHERNET_BYTES 14
#define PROTOCOL_IP 0x0800
#define PROTOCOL_IPV6 0x86dd
#define PROTOCOL_ARP 0x0806
#define TCP 6
#define UDP 17
#define SCTP 132
#define ICMP 1
#define ICMPV6 58
#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16
#define NEXT_HOP_BY_HOP 0
#define NEXT_ROUTING 43
#define NEXT_FRAGMENT 44
#define NEXT_AUTHENTICATION 51
#define NEXT_DESTINATION 60
#define V4_MARK __builtin_bswap64(0xffff00000000ULL)

struct ipv4 {
	u8 version_length, service;
	__be16 total;
	__be16 identification, offset;
	u8 ttl, protocol;
	__be16 checksum;
	__be32 source, destination;
};
struct ipv6 {
	__be32 version_class;
	__be16 payload;
	u8 next, hops;
	struct address source, destination;
};

/* What a packet turned out to be. */
enum kind {
	KIND_FLOW,    /* judged */
	KIND_FREE,    /* ARP, neighbour discovery, multicast listener discovery: never judged (spec policy.md T-052, T-053) */
	KIND_ERROR,   /* an ICMP error: passes as the flow it speaks of; `key` is that flow's, `outer` its own sender's */
	KIND_UNKNOWN, /* cannot be read to its ports */
};

struct packet {
	struct flow_key key;
	struct address outer;
	u32 kind;
	u32 slot;
	u8 is_v6;
	u8 flags; /* of TCP */
	u8 outer_protocol;
};

inlined void v4_address(struct address *to, __be32 from)
{
	to->high = 0;
	/* The lower half in memory: 00 00 ff ff a b c d. */
	to->low = V4_MARK | (u64)from << 32;
}

/* An IPv6 packet that claims an address of IPv4's part of the space would meet IPv4's rules. */
inlined bool claims_v4(struct address *one)
{
	return one->high == 0 && (one->low & 0xffffffff) == V4_MARK;
}

inlined void set_ports(struct flow_key *key, u32 direction, u16 source, u16 destination)
{
	key->local_port = direction == DIRECTION_INGRESS ? destination : source;
	key->peer_port = direction == DIRECTION_INGRESS ? source : destination;
}

inlined void set_addresses(struct flow_key *key, u32 direction, struct address *source, struct address *destination)
{
	key->local = direction == DIRECTION_INGRESS ? *destination : *source;
	key->peer = direction == DIRECTION_INGRESS ? *source : *destination;
}

inlined bool has_ports(u8 protocol)
{
	return protocol == TCP || protocol == UDP || protocol == SCTP;
}

/* Walk IPv6 extension headers from `next` at *at; leave the protocol there, or the offset of a fragment header in *fragment. */
inlined int skip_extensions(struct __sk_buff *skb, u8 *next, u32 *at, u32 *fragment)
{
	u8 head[2];

#pragma unroll
	for (int i = 0; i < EXTENSION_HEADERS_AT_MOST; i++) {
		if (*next == NEXT_FRAGMENT) {
			if (*fragment)
				return -1;
			*fragment = *at;
		} else if (*next != NEXT_HOP_BY_HOP && *next != NEXT_ROUTING && *next != NEXT_DESTINATION &&
			   *next != NEXT_AUTHENTICATION) {
			return 0;
		}
		if (bpf_skb_load_bytes(skb, *at, head, sizeof(head)))
			return -1;
		u32 bytes = *next == NEXT_FRAGMENT	   ? 8
			    : *next == NEXT_AUTHENTICATION ? (head[1] + 2) * 4
							   : (head[1] + 1) * 8;
		*next = head[0];
		*at += bytes;
		if (*fragment && *at != *fragment + 8)
			continue;
		if (*fragment) {
			__be16 offset;

			if (bpf_skb_load_bytes(skb, *fragment + 2, &offset, sizeof(offset)))
				return -1;
			if (offset & __builtin_bswap16(0xfff8))
				return 0; /* a later fragment: what follows are the datagram's bytes */
		}
	}
	return has_ports(*next) || *next == ICMPV6 ? 0 : -1;
}

/* The flow that an ICMP error quotes: its sender was whom the error is for. `at`: where the quoted IP header begins. */
inlined int read_quoted(struct __sk_buff *skb, struct packet *p, u32 direction, u32 at)
{
	u32 outward = direction == DIRECTION_INGRESS ? DIRECTION_EGRESS : DIRECTION_INGRESS;
	struct address source, destination;
	__be16 pair[2] = {};
	u32 fragment = 0;
	u8 protocol;

	if (p->is_v6) {
		struct ipv6 ip;

		if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)))
			return -1;
		source = ip.source;
		destination = ip.destination;
		protocol = ip.next;
		at += sizeof(ip);
		if (protocol == NEXT_FRAGMENT)
			return -1;
	} else {
		struct ipv4 ip;

		if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || ip.offset & __builtin_bswap16(0x1fff))
			return -1;
		v4_address(&source, ip.source);
		v4_address(&destination, ip.destination);
		protocol = ip.protocol;
		at += (ip.version_length & 15) * 4;
	}
	if (has_ports(protocol)) {
		if (bpf_skb_load_bytes(skb, at, pair, sizeof(pair)))
			return -1;
	} else if (protocol == (p->is_v6 ? ICMPV6 : ICMP)) {
		if (bpf_skb_load_bytes(skb, at + 4, pair, 2))
			return -1;
		pair[1] = pair[0];
	}
	p->key.protocol = protocol;
	set_addresses(&p->key, outward, &source, &destination);
	set_ports(&p->key, outward, pair[0], pair[1]);
	return 0;
}

inlined int read_icmp(struct __sk_buff *skb, struct packet *p, u32 direction, u32 at)
{
	struct {
		u8 type, code;
		__be16 checksum, identifier, sequence;
	} icmp;

	if (bpf_skb_load_bytes(skb, at, &icmp, sizeof(icmp)))
		return -1;
	bool echo = p->is_v6 ? icmp.type == 128 || icmp.type == 129 : icmp.type == 8 || icmp.type == 0;
	bool error = p->is_v6 ? icmp.type >= 1 && icmp.type <= 4 : icmp.type == 3 || icmp.type == 11 || icmp.type == 12;

	if (echo) {
		set_ports(&p->key, direction, icmp.identifier, icmp.identifier);
	} else if (error) {
		/* One that quotes nothing readable is judged by its own sender. */
		struct flow_key own = p->key;

		if (read_quoted(skb, p, direction, at + 8))
			p->key = own;
		else
			p->kind = KIND_ERROR;
	} else if (p->is_v6 && ((icmp.type >= 130 && icmp.type <= 137) || icmp.type == 143)) {
		p->kind = KIND_FREE;
	}
	return 0;
}

/* Ports of a fragment: the first one tells them for all that follow (spec policy.md T-055). */
inlined int fragment_ports(struct __sk_buff *skb, struct packet *p, struct fragment_key *key, u32 at, bool first,
			   struct fragment *ports)
{
	key->ifindex = p->key.ifindex;
	key->protocol = p->key.protocol;
	if (!first) {
		struct fragment *known = fragments.lookup(key);

		if (!known)
			return -1;
		*ports = *known;
		return 0;
	}
	if (bpf_skb_load_bytes(skb, at, ports, sizeof(*ports)))
		return -1;
	fragments.update(key, ports);
	return 0;
}

/* Read what nearly every packet is: TCP or UDP right behind a plain header, in the linear part. Return false for all others. */
inlined bool read_plain(struct __sk_buff *skb, struct packet *p, u32 direction)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct address source, destination;
	u8 *behind;

	if (skb->protocol == __builtin_bswap16(PROTOCOL_IP)) {
		struct ipv4 *ip = data + ETHERNET_BYTES;

		behind = (u8 *)(ip + 1);
		if ((void *)(behind + 8) > end || ip->version_length != 0x45 || ip->offset & __builtin_bswap16(0x3fff))
			return false;
		v4_address(&source, ip->source);
		v4_address(&destination, ip->destination);
		p->key.protocol = ip->protocol;
	} else if (skb->protocol == __builtin_bswap16(PROTOCOL_IPV6)) {
		struct ipv6 *ip = data + ETHERNET_BYTES;

		behind = (u8 *)(ip + 1);
		if ((void *)(behind + 8) > end || (ip->version_class & 0xf0) != 0x60 || claims_v4(&ip->source) ||
		    claims_v4(&ip->destination))
			return false;
		source = ip->source;
		destination = ip->destination;
		p->key.protocol = ip->next;
		p->is_v6 = 1;
	} else {
		return false;
	}
	if (p->key.protocol == TCP) {
		if ((void *)(behind + 14) > end)
			return false;
		p->flags = behind[13];
	} else if (p->key.protocol != UDP) {
		return false;
	}
	set_addresses(&p->key, direction, &source, &destination);
	set_ports(&p->key, direction, *(u16 *)behind, *(u16 *)(behind + 2));
	p->outer = p->key.peer;
	p->outer_protocol = p->key.protocol;
	return true;
}

inlined int read_packet(struct __sk_buff *skb, struct packet *p, u32 direction)
{
	struct fragment_key datagram = {};
	struct fragment pair = {};
	u32 at = ETHERNET_BYTES, fragment = 0;
	bool is_fragment = false, first = true;

	if (skb->protocol == __builtin_bswap16(PROTOCOL_IP)) {
		struct ipv4 ip;

		if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || ip.version_length >> 4 != 4 ||
		    (ip.version_length & 15) < 5)
			return -1;
		v4_address(&datagram.source, ip.source);
		v4_address(&datagram.destination, ip.destination);
		p->key.protocol = ip.protocol;
		at += (ip.version_length & 15) * 4;
		is_fragment = ip.offset & __builtin_bswap16(0x3fff);
		first = !(ip.offset & __builtin_bswap16(0x1fff));
		datagram.identification = ip.identification;
	} else if (skb->protocol == __builtin_bswap16(PROTOCOL_IPV6)) {
		struct ipv6 ip;

		if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || (ip.version_class & 0xf0) != 0x60 ||
		    claims_v4(&ip.source) || claims_v4(&ip.destination))
			return -1;
		p->is_v6 = 1;
		datagram.source = ip.source;
		datagram.destination = ip.destination;
		at += sizeof(ip);
		if (skip_extensions(skb, &ip.next, &at, &fragment))
			return -1;
		p->key.protocol = ip.next;
		if (fragment) {
			struct {
				__be16 reserved, offset;
				__be32 identification;
			} head;

			if (bpf_skb_load_bytes(skb, fragment, &head, sizeof(head)))
				return -1;
			is_fragment = head.offset & __builtin_bswap16(0xfff9);
			first = !(head.offset & __builtin_bswap16(0xfff8));
			datagram.identification = head.identification;
		}
	} else if (skb->protocol == __builtin_bswap16(PROTOCOL_ARP)) {
		p->kind = KIND_FREE;
		return 0;
	} else {
		return -1;
	}
	set_addresses(&p->key, direction, &datagram.source, &datagram.destination);
	p->outer = p->key.peer;
	p->outer_protocol = p->key.protocol;
	if (p->key.protocol == (p->is_v6 ? ICMPV6 : ICMP))
		return is_fragment ? -1 : read_icmp(skb, p, direction, at);
	if (!has_ports(p->key.protocol))
		return 0;
	if (is_fragment) {
		if (fragment_ports(skb, p, &datagram, at, first, &pair))
			return -1;
	} else if (bpf_skb_load_bytes(skb, at, &pair, sizeof(pair))) {
		return -1;
	}
	set_ports(&p->key, direction, pair.source_port, pair.destination_port);
	if (p->key.protocol == TCP && first && bpf_skb_load_bytes(skb, at + 13, &p->flags, 1))
		return -1;
	return 0;
}

inlined u64 timeout_s(u8 protocol, u8 state)
{
	if (protocol == TCP) {
		if (state & FLOW_RESET)
			return TIMEOUT_TCP_CLOSED_S;
		if (state & (FLOW_FIN_FROM_ORIGIN | FLOW_FIN_FROM_OTHER))
			return TIMEOUT_TCP_CLOSING_S;
		return state & FLOW_ANSWERED ? TIMEOUT_TCP_S : TIMEOUT_TCP_NEW_S;
	}
	if (protocol == UDP)
		return state & FLOW_ANSWERED ? TIMEOUT_UDP_S : TIMEOUT_UDP_NEW_S;
	return TIMEOUT_OTHER_S;
}

inlined void refresh(struct flow *flow, struct packet *p, u32 direction, u64 now)
{
	u8 state = flow->state;

	if (direction != flow->origin)
		state |= FLOW_ANSWERED;
	if (p->flags & TCP_FIN)
		state |= direction == flow->origin ? FLOW_FIN_FROM_ORIGIN : FLOW_FIN_FROM_OTHER;
	if (p->flags & TCP_RST)
		state |= FLOW_RESET;
	if (state != flow->state)
		flow->state = state;
	if (now - flow->seen_ns > REFRESH_NS)
		flow->seen_ns = now;
}

inlined struct rule_set *find_rule_set(u32 number)
{
	int place = number & (RULE_SETS_AT_MOST - 1);
	struct rule_set *set = rule_sets.lookup(&place);

	return set && set->number == number ? set : 0;
}

/* The decision of a rule set about an address, protocol and port in one direction. */
inlined struct decision decide(u32 rule_set, u32 direction, struct address *peer, bool is_v6, u8 protocol, u16 port)
{
	struct decision closed = {.tier = TIER_ERROR};
	struct rule_set *set = find_rule_set(rule_set);

	if (!set)
		return closed; /* cannot be: it is written before it is named. Dropped, and told as an error */

	struct side *side = direction == DIRECTION_INGRESS ? &set->side[0] : &set->side[1];
	struct decision *found = is_v6 ? &side->outside[1] : &side->outside[0];
	u32 *class = 0;

	if (side->flags & SIDE_HOSTS) {
		struct host_key host = {.table = side->addresses, .address = *peer};

		class = hosts.lookup(&host);
	}
	if (!class && side->flags & SIDE_NETWORKS) {
		struct network_key network = {.bits = 192, .table_low = side->addresses, .table_high = side->addresses >> 32};

		__builtin_memcpy(network.address, peer, sizeof(*peer));
		class = networks.lookup(&network);
	}
	if (class) {
		struct class_key key = {.rule_set = rule_set, .number = *class | direction << 31};

		found = classes.lookup(&key);
		if (!found)
			return closed;
	}
	if (found->ports) {
		struct port_key key = {.bits = 96,
				       .table_low = found->ports,
				       .table_high = found->ports >> 32,
				       .protocol = protocol,
				       .port = port};

		found = ports.lookup(&key);
		if (!found)
			return closed;
	}
	return *found;
}

inlined void report(struct __sk_buff *skb, struct packet *p, u32 direction, struct decision *decision, u64 now)
{
	int zero = 0;
	u32 *option = options.lookup(&zero);
	struct event_limit *limit;

	if (!option || !(*option & OPTION_EVENTS))
		return;
	limit = event_limits.lookup(&zero);
	if (!limit)
		return;
	if (now - limit->window_ns > EVENT_WINDOW_NS) {
		limit->window_ns = now;
		limit->reported = 0;
	}
	if (limit->reported >= EVENTS_A_WINDOW) {
		limit->lost++;
		return;
	}
	limit->reported++;

	struct event event = {};

	event.source = direction == DIRECTION_INGRESS ? p->outer : p->key.local;
	event.destination = direction == DIRECTION_INGRESS ? p->key.local : p->outer;
	event.ifindex = p->key.ifindex;
	event.rule = decision->rule;
	event.bytes = skb->len;
	event.source_port = direction == DIRECTION_INGRESS ? p->key.peer_port : p->key.local_port;
	event.destination_port = direction == DIRECTION_INGRESS ? p->key.local_port : p->key.peer_port;
	event.protocol = p->outer_protocol;
	event.allowed = decision->allowed;
	event.tier = decision->tier;
	event.direction = direction;
	if (events.ringbuf_output(&event, sizeof(event), 0))
		limit->lost++;
}

inlined void remember(struct packet *p, u32 direction, u32 rule_set, u32 rule, bool known, u64 now)
{
	struct flow flow = {.seen_ns = now, .rule_set = rule_set, .rule = rule, .origin = direction};
	int slot = p->slot;
	struct usage *used = usage.lookup(&slot);
	u64 *gone = swept.lookup(&slot);

	if (p->flags & TCP_FIN)
		flow.state = FLOW_FIN_FROM_ORIGIN;
	if (p->flags & TCP_RST)
		flow.state |= FLOW_RESET;
	if (!used || !gone)
		return;
	if ((known || used->made - *gone < FLOWS_A_POD) && !flows.update(&p->key, &flow)) {
		if (!known)
			__sync_fetch_and_add(&used->made, 1);
		return;
	}
	spare_flows.update(&p->key, &flow);
	__sync_fetch_and_add(&used->spared, 1);
}

inlined int judge_flow(struct __sk_buff *skb, struct packet *p, u32 direction, u32 rule_set)
{
	u64 now = bpf_ktime_get_coarse_ns();
	struct flow *flow = flows.lookup(&p->key);
	bool in_table = flow;
	u32 judged = direction;

	if (!flow) {
		int slot = p->slot;
		struct usage *used = usage.lookup(&slot);

		if (used && used->spared)
			flow = spare_flows.lookup(&p->key);
	}
	if (flow && now > flow->seen_ns && now - flow->seen_ns > timeout_s(p->key.protocol, flow->state) * 1000000000ULL)
		flow = 0;
	if (p->kind == KIND_ERROR) {
		if (flow && flow->rule_set == rule_set && !(flow->state & FLOW_REVOKED))
			return VERDICT_PASS;
		flow = 0;
		p->key.peer = p->outer;
		p->key.protocol = p->outer_protocol;
		set_ports(&p->key, direction, 0, 0);
	}
	if (flow && p->key.protocol == TCP && (p->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN &&
	    (direction != flow->origin || flow->state & ~FLOW_ANSWERED))
		flow = 0; /* a new connection, not a part of that one (spec policy.md T-062, T-070) */
	if (flow && flow->rule_set == rule_set) {
		if (!(flow->state & FLOW_REVOKED)) {
			refresh(flow, p, direction, now);
			return VERDICT_PASS;
		}
		if (p->key.protocol == TCP)
			return VERDICT_DROP; /* the policy ended this connection; the other side must not revive it */
		flow = 0;
	}
	if (flow)
		judged = flow->origin; /* the policy changed: as if it began now (spec policy.md W-9) */

	bool is_icmp = p->key.protocol == (p->is_v6 ? ICMPV6 : ICMP);
	u16 port = is_icmp ? 0 : judged == DIRECTION_INGRESS ? p->key.local_port : p->key.peer_port;
	struct decision decision = decide(rule_set, judged, &p->key.peer, p->is_v6, p->key.protocol, port);
	u32 rule = decision.rule;

	if (decision.allowed != DECISION_ALLOW && exempt.lookup(&p->key.peer))
		return VERDICT_PASS; /* the node itself (spec policy.md 7, 8); no flow: both ways are free */

	if (rule) {
		u64 *hits = rules.lookup(&rule);

		if (hits)
			*hits += 1;
	}
	report(skb, p, judged, &decision, now);
	if (decision.allowed) {
		if (!flow) {
			if (p->kind == KIND_FLOW)
				remember(p, direction, rule_set, decision.rule, in_table, now);
			return VERDICT_PASS;
		}
		flow->state &= ~FLOW_REVOKED;
		flow->rule = decision.rule;
		flow->rule_set = rule_set;
		refresh(flow, p, direction, now);
		return VERDICT_PASS;
	}
	if (flow) {
		flow->state |= FLOW_REVOKED;
		flow->rule_set = rule_set;
	}
	return VERDICT_DROP;
}

inlined int judge_unknown(u32 direction, u32 rule_set)
{
	struct rule_set *set = find_rule_set(rule_set);

	if (!set)
		return VERDICT_DROP;
	/* Nobody can tell whether a rule allows it: an isolated pod does not get it (spec policy.md W-7). */
	return (direction == DIRECTION_INGRESS ? set->side[0].flags : set->side[1].flags) & SIDE_ISOLATED ? VERDICT_DROP
													    : VERDICT_PASS;
}

inlined int judge_packet(struct __sk_buff *skb, u32 direction, u32 ifindex, u32 slot, u32 rule_set)
{
	struct packet p = {};

	p.key.ifindex = ifindex;
	p.slot = slot;
	if (!read_plain(skb, &p, direction) && read_packet(skb, &p, direction))
		return judge_unknown(direction, rule_set);
	return p.kind == KIND_FREE ? VERDICT_PASS : judge_flow(skb, &p, direction, rule_set);
}

inlined int judge(struct __sk_buff *skb, u32 direction)
{
	u32 ifindex = skb->ifindex;
	struct pod_entry *pod = pods.lookup(&ifindex);

	/* No entry: the moment between a Detach and the end of the link. Nothing selects this pod. */
	if (!pod)
		return VERDICT_PASS;

	u64 both = *(volatile u64 *)pod;

	if (both >> 32 != ifindex) {
		pod = pods.lookup(&ifindex); /* the element was replaced and given to another pod between look and load */
		if (!pod)
			return VERDICT_PASS;
		both = *(volatile u64 *)pod;
	}

	u32 rule_set = both;
	int place = pod->slot * 2 + direction;
	struct counter_value *counter = counters.lookup(&place);
	int verdict = rule_set ? judge_packet(skb, direction, ifindex, pod->slot, rule_set) : VERDICT_PASS;

	if (counter) {
		counter->packets += 1; /* a GSO packet counts once, as it passes here once */
		counter->bytes += skb->len;
		if (verdict == VERDICT_DROP) {
			counter->dropped_packets += 1;
			counter->dropped_bytes += skb->len;
		}
	}
	return verdict;
}

int handle_ingress(struct __sk_buff *skb)
{
	return judge(skb, DIRECTION_INGRESS);
}

int handle_egress(struct __sk_buff *skb)
{
	return judge(skb, DIRECTION_EGRESS);
}
