package reason

// declared has the Reasons about ENIs that NodeENIs declare.
var declared = Group{
	Title: "The ENI is not there",
	Entries: []Entry{
		{
			Reason: NotAttached, Kind: Problem,
			Meaning: "The NodeENI selects this node, and its status lists no ENI attached to it. Nothing in this project " +
				"attaches ENIs: a controller does.",
			Remedy: "Read the log of the controller that attaches ENIs. If no controller runs in the cluster, attach the ENI " +
				"yourself and start `multi-enid` with `--attachments-from=imds`. If the status names the node otherwise, " +
				"correct `--node-name`.",
		},
		{
			Reason: ENINotAttached, Kind: Problem,
			Meaning: "The instance has no ENI at the device index and in the subnet that the NodeENI names.",
			Remedy: "Attach one: `aws ec2 attach-network-interface`. Or correct `spec.deviceIndex` and the subnet; the message " +
				"lists the ENIs that are there.",
		},
		{
			Reason: ENINotListed, Kind: Problem,
			Meaning: "The NodeENI's status names an ENI that the instance metadata does not list. A new ENI appears there after " +
				"some seconds.",
			Remedy: "Wait a minute. If it lasts, the ENI is attached to another instance: attach it to this one, or correct " +
				"the status.",
		},
		{
			Reason: DeviceNotSeen, Kind: Problem,
			Meaning: "The ENI is attached, and no network interface of the host has its MAC address.",
			Remedy: "Wait some seconds after attaching. If another program moved the interface into a network namespace, bring " +
				"it back. If it is bound to a userspace driver already, give its address in `spec.dpdkPCIAddress`.",
		},
		{
			Reason: DeviceGone, Kind: Problem,
			Meaning: "The PCI function of a device was unplugged, or another device is at its address. Its pod has lost the device.",
			Remedy:  "Attach the ENI again, or delete the NodeENI.",
			Seen: []string{"no PCI function is at …, where the device was;",
				"another PCI function is at …, where the device was, and no link of this host has its MAC;"},
		},
		{
			Reason: NoInterface, Kind: Problem,
			Meaning: "The PCI function is there without a network interface, and no pod of ours has it.",
			Remedy: "Bring the interface back if somebody moved it into a network namespace: `ip -n NETNS link set DEV netns " +
				"1`. Else detach the ENI and attach it again.",
		},
		{
			Reason: AmbiguousENI, Kind: Problem,
			Meaning: "Several ENIs match the device index and subnet of the NodeENI.",
			Remedy:  "Name the ENI in `status.attachments`, or detach one of them.",
		},
		{
			Reason: ENIClaimedTwice, Kind: Problem,
			Meaning: "Two NodeENIs name the same ENI. The first by name has it.",
			Remedy:  "Change the device index, subnet or status of one of the two.",
		},
		{
			Reason: DuplicateMAC, Kind: Problem,
			Meaning: "Several PCI functions have a link with the ENI's MAC address, so the daemon cannot tell which is the ENI.",
			Remedy:  "Give the other links another MAC address, or remove them.",
		},
		{
			Reason: PCIAddressShared, Kind: Problem,
			Meaning: "Two ENIs seem to be the same PCI function.",
			Remedy:  "Detach the ENI and attach it again.",
		},
		{
			Reason: PrimaryENI, Kind: Problem,
			Meaning: "The NodeENI names the primary ENI of the instance. The daemon never touches it, since the node's own " +
				"traffic uses it.",
			Remedy: "Name another ENI.",
		},
		{
			Reason: EFADevice, Kind: Problem,
			Meaning: "The ENI is an Elastic Fabric Adapter. The daemon never touches one.",
			Remedy:  "Name another ENI.",
		},
		{
			Reason: ForeignENI, Kind: Problem,
			Meaning: "With `--attachments-from=imds`: the ENI seems to belong to another program, such as the VPC CNI.",
			Remedy: "Read the message: it names the rule, route or tag that the daemon found. Tag the ENI `NodeENI=NAME` if it " +
				"is yours, or name another device index.",
		},
		{
			Reason: MACChanged, Kind: Problem,
			Meaning: "Somebody has changed the MAC address of the ENI's link. The VPC drops every packet with another one.",
			Remedy:  "Run the command in the message: `ip link set dev LINK address MAC`.",
		},
	},
}

// fields has the Reasons about fields of NodeENIs.
var fields = Group{
	Title: "A field of a NodeENI",
	Intro: "The daemon cannot act upon a field of a NodeENI. The message names the field, its value, and the values " +
		"that are allowed. Correct it with `kubectl edit nodeeni NAME`.",
	Entries: []Entry{
		{
			Reason: InvalidMTU, Kind: Problem,
			Meaning: "`spec.mtu` is not an MTU that a cloud NIC can have. The link keeps its own MTU.",
			Remedy:  "Give 1 to 9216 octets, or leave the field out.",
		},
		{
			Reason: InvalidDeviceIndex, Kind: Problem,
			Meaning: "`spec.deviceIndex` is larger than EC2 accepts.",
			Remedy:  "Give the index of the ENI on the instance, or leave the field out for 1.",
		},
		{
			Reason: InvalidPCIAddress, Kind: Problem,
			Meaning: "`spec.dpdkPCIAddress` is not a full PCI address. The device stays out of use until it is.",
			Remedy:  "Write it as `0000:00:07.0`, or leave the field out: the daemon finds the address.",
		},
		{
			Reason: PCIAddressMismatch, Kind: Problem,
			Meaning: "`spec.dpdkPCIAddress` names another PCI function than the ENI has.",
			Remedy:  "Correct it to the address in the message, or leave it out.",
		},
		{
			Reason: InvalidResourceName, Kind: Problem,
			Meaning: "`spec.dpdkResourceName` is not a name that the SR-IOV device plugin accepts. The device is not offered to " +
				"pods.",
			Remedy: "Write it as `PREFIX/NAME`, such as `intel.com/fast_a`.",
			Seen:   []string{"read spec.dpdkResourceName: …"},
		},
		{
			Reason: InvalidDPDKDriver, Kind: Problem,
			Meaning: "`spec.dpdkDriver` is not a userspace driver.",
			Remedy:  "Give `vfio-pci`, `uio_pci_generic` or `igb_uio`.",
		},
		{
			Reason: InvalidAllowedNamespaces, Kind: Problem,
			Meaning: "The annotation `networking.k8s.aws/allowed-namespaces` has a name that is not a namespace.",
			Remedy:  "Correct the name that the message quotes. The other names count.",
			Seen:    []string{"read annotation …: namespace \"…\": …", "read annotation … \"…\": …: no namespace is listed, so none is allowed;"},
		},
		{
			Reason: AllowedNamespacesTooLong, Kind: Problem,
			Meaning: "The lists of allowed namespaces of all NodeENIs of this node share 1 MiB. This list does not fit, so no " +
				"pod may use the devices.",
			Remedy: "Shorten the list, or leave it out and restrict namespaces by the node's policy.",
		},
		{
			Reason: InvalidENIID, Kind: Problem,
			Meaning: "`status.attachments` has an `eniID` that is not the id of an ENI.",
			Remedy:  "Correct it in the object that the message names; the controller wrote it.",
		},
		{
			Reason: InvalidSubnetID, Kind: Problem,
			Meaning: "`spec.subnetID` or `spec.subnetIDs` has a value that is not the id of a subnet.",
			Remedy:  "Give `subnet-` and 8 or 17 hexadecimal digits.",
		},
		{
			Reason: NoSubnet, Kind: Problem,
			Meaning: "The NodeENI names neither a subnet nor an ENI.",
			Remedy:  "Give `spec.subnetID` or `spec.subnetIDs`.",
		},
		{
			Reason: SubnetNameUnknown, Kind: Problem,
			Meaning: "The NodeENI names subnets by their Name tag, and the daemon does not ask EC2 for names.",
			Remedy:  "Give `spec.subnetID` or `spec.subnetIDs`, or let a controller fill in the status.",
		},
		{
			Reason: TooManyENIs, Kind: Problem,
			Meaning: "The NodeENIs mean more ENIs than this node can have: more than 500 of one NodeENI, or too many that are " +
				"not attached.",
			Remedy: "Correct the `nodeSelector`, or shorten `spec.subnetIDs` or the status.",
		},
		{
			Reason: MoreProblems, Kind: Problem,
			Meaning: "There are more Problems than the node reports: 20 for each NodeENI, and 256 KiB in all.",
			Remedy:  "Mend the Problems that you see. The others then appear.",
		},
	},
}
