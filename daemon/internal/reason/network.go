package reason

// links has the Reasons about links, addresses and routes of the node.
var links = Group{
	Title: "Links, addresses and routes of the node",
	Entries: []Entry{
		{Reason: LinkNotConfigured, Kind: Problem,
			Meaning: "The kernel refuses the state or MTU that the link should have. The daemon tries again.",
			Remedy:  "Read the daemon's log for the kernel's answer. Correct `spec.mtu` if the driver does not support it."},
		{Reason: LinkNotRestored, Kind: Problem,
			Meaning: "The kernel refuses to restore a setting that an earlier pod changed. New pods get the device all the same.",
			Remedy:  "Set it by hand as the message says, or detach the ENI and attach it again."},
		{Reason: LinkUnfit, Kind: Problem,
			Meaning: "An earlier pod left something on the link that cannot be removed: an XDP or tcx program, a foreign MAC address, the VLAN of a VF. No " +
				"pod gets the device.",
			Remedy: "Detach what the message names, such as `ip link set dev LINK xdp off`. Or detach the ENI and attach it again."},
		{Reason: OnlyDefaultRoute, Kind: Problem,
			Meaning: "The only default route of the node leads out of this ENI. The daemon leaves it alone, so no pod gets the device.",
			Remedy:  "Give the node a default route by its primary ENI, or delete the NodeENI."},
		{Reason: SharedDefaultRoute, Kind: Problem,
			Meaning: "A default route of the node uses this ENI as one of several next hops. No pod gets the device.",
			Remedy:  "Take that next hop out of the route."},
		{Reason: HostAddress, Kind: Problem,
			Meaning: "The network manager of the host has given an address to the ENI. The host then answers in place of the pods that share it.",
			Remedy:  "Write the file that the message shows: it keeps the manager off the ENI. See [migration.md](migration.md#the-hosts-network-manager)."},
		{Reason: RouterAdvertisementsAccepted, Kind: Problem,
			Meaning: "The daemon cannot switch off `accept_ra` of idle ENIs. It removes routes of router advertisements each time they arrive, and a pod may " +
				"notice.",
			Remedy: "Mount the host's `/proc/sys/net` writable at `/host/proc/sys/net` and give `--sysctls=/host/proc/sys`, as the manifests do."},
		{Reason: SourceRoutingFailed, Kind: Problem,
			Meaning: "With `--source-routing`: the kernel refuses a rule or route. The daemon tries again.",
			Remedy:  "Read the daemon's log: it names the rule or route and the kernel's answer."},
	},
}

// addresses has the Reasons about addresses for pods, and EC2.
var addresses = Group{
	Title: "Addresses for pods, and EC2",
	Entries: []Entry{
		{Reason: LeasedAddressGone, Kind: Problem,
			Meaning: "Pods use addresses that the ENI no longer has. The VPC delivers nothing to them.",
			Remedy:  "Assign the addresses again, or delete the pods that the message names."},
		{Reason: ENINotTagged, Kind: Problem,
			Meaning: "With `--manage-addresses`: the ENI lacks the tag that allows the daemon to change its addresses.",
			Remedy:  "Tag the ENI as the message says. See [addresses.md](addresses.md#let-the-daemon-ask-for-more)."},
		{Reason: EC2Forbidden, Kind: Problem,
			Meaning: "The role of the daemon may not make an EC2 call.",
			Remedy:  "Run `multi-enid doctor --manage-addresses`: its lines `EC2` name the missing right. `deploy/iam` has the policy.",
			Seen:    []string{"the ENIs cannot be looked up in EC2, …", "EC2 gives this ENI no more addresses for pods: …", "EC2 takes back no address of this ENI: …"}},
		{Reason: EC2Unauthenticated, Kind: Problem,
			Meaning: "EC2 or STS does not accept the caller: the clock, the access key, the signature, the session, or the trust policy of the role.",
			Remedy:  "The message says which of them. Correct it; the daemon tries again.",
			Seen:    []string{"the ENIs cannot be looked up in EC2, …", "EC2 gives this ENI no more addresses for pods: …", "EC2 takes back no address of this ENI: …"}},
		{Reason: EC2Failing, Kind: Problem,
			Meaning: "EC2 throttles, cannot be reached, or another program answers, such as a proxy. The daemon tries again after 5 s, and at least every 5 " +
				"minutes.",
			Remedy: "Read the message. Check `AWS_REGION`, `AWS_ENDPOINT_URL_EC2` and the proxy settings of the pod.",
			Seen:   []string{"the ENIs cannot be looked up in EC2, …", "EC2 gives this ENI no more addresses for pods: …", "EC2 takes back no address of this ENI: …"}},
		{Reason: ENIAddressLimit, Kind: Problem,
			Meaning: "The instance type allows no more addresses on an ENI. The present addresses stay in use.",
			Remedy:  "Use `--manage-addresses=prefixes`, a larger instance type, or fewer pods on the ENI.",
			Seen:    []string{"EC2 gives this ENI no more addresses for pods: …"}},
		{Reason: SubnetFull, Kind: Problem,
			Meaning: "The subnet has no free address, or no free prefix. The present addresses stay in use.",
			Remedy:  "Add a subnet CIDR reservation for prefixes, or use another subnet.",
			Seen:    []string{"EC2 gives this ENI no more addresses for pods: …"}},
		{Reason: ENIUnknownToEC2, Kind: Problem,
			Meaning: "EC2 does not list a ready ENI of this node, so another region or account seems to be asked. The daemon keeps asking.",
			Remedy:  "Check `AWS_REGION`, `AWS_ENDPOINT_URL_EC2`, and the account of the role."},
	},
}
