package reason

// config has the Reasons about the device plugin's config file.
var config = Group{
	Title: "The config file of the SR-IOV device plugin",
	Intro: "The daemon writes `/etc/pcidp/config.json` and keeps the entries of other people in it.",
	Entries: []Entry{
		{Reason: ResourceClash, Kind: Problem,
			Meaning: "The config has an entry of yours with the resource name of a NodeENI. The daemon keeps yours, and does not offer the devices of the " +
				"NodeENI.",
			Remedy: "Give the NodeENI another `dpdkResourceName`, or delete your entry. [migration.md](migration.md) says which entries the daemon takes " +
				"over."},
		{Reason: ForeignSelectorMatches, Kind: Problem,
			Meaning: "An entry of yours matches a device that a NodeENI declares. The device plugin may offer it under either name.",
			Remedy:  "Narrow the selectors of your entry."},
		{Reason: AdvertisedTwice, Kind: Problem,
			Meaning: "Two NodeENIs ask for one device under two resource names.",
			Remedy:  "Give both the same `dpdkResourceName`."},
		{Reason: DuplicateEntry, Kind: Problem,
			Meaning: "The daemon took an entry of yours out of the config, because the device plugin exits on two entries of one name. The message names the " +
				"copy of the file as it was.",
			Remedy: "Give the entry another name and put it back, or merge it into the first. Or delete the copy."},
		{Reason: FatalEntry, Kind: Problem,
			Meaning: "The daemon took an entry of yours out of the config, because the device plugin exits on it. The message has the cause and the copy of " +
				"the file as it was.",
			Remedy: "Correct the entry and put it back, or delete the copy."},
		{Reason: UnservableEntry, Kind: Problem,
			Meaning: "An entry of yours would stop the device plugin once a device matches it: its socket cannot be made. Prefix and name together have more " +
				"than 67 characters, or the prefix has a slash.",
			Remedy: "Shorten the name."},
		{Reason: ConfigSetAside, Kind: Problem,
			Meaning: "A copy `config.json.corrupt-…` has content that the config lacks. The daemon keeps the newest ten copies.",
			Remedy:  "Put back the parts that you need, and delete the copy.",
			Seen:    []string{"… has content of the device plugin config that the config lacks"}},
		{Reason: ConfigCorrupt, Kind: Problem,
			Meaning: "The config was not valid JSON. The daemon rebuilt it from its last good copy, and kept the file beside it.",
			Remedy:  "Look into the copy `config.json.corrupt-…` for parts that you need, then delete it.",
			Seen:    []string{"…; the file was rebuilt from …"}},
		{Reason: ConfigIsSymlink, Kind: Problem,
			Meaning: "The config is a symbolic link, such as a mounted ConfigMap. The daemon does not follow it, and offers no device.",
			Remedy:  "Mount the node's folder `/etc/pcidp` (hostPath) into the device plugin. Put a plain file in place of another link."},
		{Reason: ConfigUnwritable, Kind: Problem,
			Meaning: "The daemon cannot read or write the config file.",
			Remedy:  "Read the daemon's log: a read-only mount, a full disk, or missing permissions."},
		{Reason: ConfigUnsettled, Kind: Problem,
			Meaning: "Another program has written the config again and again for more than 10 s. The daemon waits, since it may be a slow edit.",
			Remedy:  "Find the writer, and let it write the file once, as a whole."},
		{Reason: ConfigTooLarge, Kind: Problem, Meaning: "The config has more than 1 MiB. The daemon keeps no last good copy of it.", Remedy: "Shorten it."},
		{Reason: CheckpointLost, Kind: Problem,
			Meaning: "The daemon's memory was missing or corrupt when it started. An entry of the config has the daemon's form, and no NodeENI declares it.",
			Remedy:  "Delete the entry. If it is yours, give it `\"deviceType\": \"netDevice\"`."},
	},
}

// plugin has the Reasons about the device plugin.
var plugin = Group{
	Title: "The SR-IOV device plugin",
	Entries: []Entry{
		{Reason: DevicePluginPrefixUnknown, Kind: Problem,
			Meaning: "The daemon cannot read the value of `--resource-prefix` from the device plugin's pod. It assumes the last known prefix, or `intel.com`.",
			Remedy:  "Write the value plainly into the container's args, or give each entry of the config a `resourcePrefix`."},
		{Reason: DevicePluginConfigElsewhere, Kind: Problem,
			Meaning: "The device plugin's pod does not mount the folder of the config from the host. A restart would change nothing.",
			Remedy:  "Mount `/etc/pcidp` (hostPath) into the device plugin instead of a ConfigMap."},
		{Reason: DevicePluginUnowned, Kind: Problem,
			Meaning: "The device plugin's pod has no DaemonSet that would replace it, so the daemon does not restart it.",
			Remedy:  "Run it as a DaemonSet, or restart it by hand after each change of the config."},
		{Reason: NamespacesNotSearchable, Kind: Problem,
			Meaning: "The daemon found no device plugin, and may not search some of the namespaces.",
			Remedy:  "Apply `deploy/rbac.yaml`, or the Role of `deploy/components/namespaced-pods`. Or name only your namespaces with `--dp-namespaces`."},
	},
}

// offered has the Reasons about the daemon's own offer to the kubelet.
var offered = Group{
	Title: "Devices that the daemon offers itself",
	Intro: "These occur with `--offer=deviceplugin`, and while a node changes between the modes " +
		"([migration.md](migration.md#from-the-sr-iov-device-plugin-to-the-daemons-own-offer)).",
	Entries: []Entry{
		{Reason: OfferedTwice, Kind: Problem,
			Meaning: "An entry of yours in the device plugin's config has the name of a resource of ours, or matches one of its devices. The node stays in " +
				"the mode `pcidp`, with all its devices. If the daemon offers the devices already, it goes on, and adds no new device that the entry matches.",
			Remedy: "Delete the entry, or narrow its selectors. Or give the NodeENI another `dpdkResourceName`.",
			Seen: []string{"has the name of resource …", "also matches … of resource …", "the SR-IOV device plugin goes on offering this node's devices",
				"the daemon does not add what is new of it"}},
		{Reason: OfferLabelInvalid, Kind: Problem,
			Meaning: "The Node's label `networking.k8s.aws/offer` has a value that the daemon does not know. The mode stays as it was.",
			Remedy:  "`kubectl label node NODE --overwrite networking.k8s.aws/offer=pcidp`, or `deviceplugin`. Or remove the label."},
		{Reason: NotRegistered, Kind: Problem,
			Meaning: "The kubelet does not have a resource of the daemon, so no pod gets its devices. The message has the cause.",
			Remedy: "Check `--kubelet-dir`, and that the kubelet runs. The daemon tries again after 5 s at most, and at once when a kubelet starts. If another " +
				"process answers at the socket, stop the second daemon.",
			Seen: []string{"there is no kubelet.sock; start the kubelet, or correct --kubelet-dir",
				"another process answers at …; two daemons run on this node, so stop one",
				"the kubelet has accepted it, and has not connected within …"}},
		{Reason: DeviceInfoUnwritable, Kind: Problem,
			Meaning: "The daemon cannot write the files that tell Multus about devices, so the kubelet starts no pod with them.",
			Remedy:  "Mount the host's `/var/run/k8s.cni.cncf.io/devinfo/dp` writable into the daemon's pod, or correct `--device-info-dir`."},
		{Reason: OfferNotTaken, Kind: Problem,
			Meaning: "The kubelet lists other devices of a resource than the daemon offers. The daemon registers the resource again up to three times, and then " +
				"only looks, once a minute.",
			Remedy: "Find the other device plugin that offers the resource, and stop it. Else restart the kubelet.",
			Seen:   []string{"the kubelet lists … as …, and the daemon offers …; find the other device plugin that offers it"}},
	},
}
