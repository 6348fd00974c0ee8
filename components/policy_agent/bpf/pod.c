/* The two programs of the node, attached to the host end of every pod's veth pair.
 *
 *   handle_ingress   on the egress hook: packets towards the pod
 *   handle_egress    on the ingress hook: packets from the pod
 *
 * BCC dialect. Constants, structs and sizes come from the header that layout.py generates: Python and C share one source.
 *
 * map        key                      value                owner            life
 * pods       interface index          what to do, whose    policy_agent     Attach to Detach
 * counters   interface, direction     packets, bytes       the programs     as its pod's entry, made by policy_agent
 */

BPF_TABLE("hash", u32, struct pod_entry, pods, PODS_AT_MOST);
BPF_TABLE("percpu_hash", struct counter_key, struct counter_value, counters, COUNTERS_AT_MOST);

static inline int judge(struct __sk_buff *skb, u32 direction, u32 denied)
{
	u32 ifindex = skb->ifindex;
	struct counter_key key = {.ifindex = ifindex, .direction = direction};
	/* Never inserted from here: an interface that is not a pod's must not fill the map. */
	struct counter_value *counter = counters.lookup(&key);

	if (counter) {
		counter->packets += 1; /* a GSO packet counts once, as it passes here once */
		counter->bytes += skb->len;
	}

	struct pod_entry *pod = pods.lookup(&ifindex);

	/* No entry: the moment between a Detach and the end of the link. Nothing selects this pod. */
	if (!pod)
		return VERDICT_PASS;
	/* Rule set 0, no policy selects the pod: its default, open (standard) or closed (strict). */
	return pod->flags & denied ? VERDICT_DROP : VERDICT_PASS;
}

int handle_ingress(struct __sk_buff *skb)
{
	return judge(skb, DIRECTION_INGRESS, FLAG_DENY_INGRESS);
}

int handle_egress(struct __sk_buff *skb)
{
	return judge(skb, DIRECTION_EGRESS, FLAG_DENY_EGRESS);
}
