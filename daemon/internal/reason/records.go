package reason

// records has the Reasons about files of the daemon and the plugin.
var records = Group{
	Title: "Files of the daemon and the plugin",
	Intro: "[After a downgrade](#after-a-downgrade) says what to do about a file of a newer version.",
	Entries: []Entry{
		{
			Reason: LeasesUnreadable, Kind: Problem,
			Meaning: "A file of leases cannot be read. No address of the ENI is returned to EC2 meanwhile.",
			Remedy: "Usually none: the next ADD or DEL on the ENI rebuilds it from the attachment records, and keeps the old " +
				"file as `….json.corrupt`.",
		},
		{
			Reason: RecordUnreadable, Kind: Problem,
			Meaning: "The daemon does not understand one attachment record or restore record. It treats the device that the " +
				"record names as held.",
			Remedy: "Remove the file that the message names if its container is gone.",
			Seen:   []string{"…; remove the file if its container is gone"},
		},
		{
			Reason: RecordsUnreadable, Kind: Problem,
			Meaning: "The daemon cannot read the folder of attachment records. It treats every device as held.",
			Remedy:  "Check that `/var/lib/cni/multi-eni` of the host is mounted into the daemon, and that the disk works.",
		},
		{
			Reason: CheckpointOtherVersion, Kind: Problem,
			Meaning: "Another version of `multi-enid` has written the daemon's memory. The daemon keeps the file as " +
				"`checkpoint.json.schema-…`, and acts upon the parts that it understands.",
			Remedy: "Install that version again, or remove the file.",
		},
		{
			Reason: StateUnwritable, Kind: Problem,
			Meaning: "The daemon cannot write its own files. It changes nothing until it can.",
			Remedy:  "Make room on the disk, or correct the permissions of `/var/lib/multi-eni` and `/run/multi-eni`.",
		},
		{
			Reason: StateTooLarge, Kind: Problem,
			Meaning: "A file of the daemon would be larger than its readers accept. The disk is not the cause.",
			Remedy:  "Delete NodeENIs that this node does not need.",
		},
		{
			Reason: OrphansUnwatched, Kind: Problem,
			Meaning: "The daemon does not see the network namespaces of the host. It cannot release the device of a pod that " +
				"ended without DEL.",
			Remedy: "Mount the folder that the message names into the daemon's container, at the same path, with " +
				"`mountPropagation: HostToContainer`.",
		},
		{
			Reason: OrphanPluginUnusable, Kind: Problem,
			Meaning: "The daemon cannot run `multi-eni` to release the device of a dead pod.",
			Remedy:  "Install `multi-eni` in the folder that the message names, or correct `--cni-bin-dir`.",
		},
		{
			Reason: OrphanNotReleased, Kind: Problem,
			Meaning: "The device or address of a dead pod cannot be released. It stays held, and the daemon tries again.",
			Remedy:  "Read the daemon's log: it has the error of the plugin.",
		},
	},
}

// sources has the Reasons about sources that the daemon cannot read or serve.
var sources = Group{
	Title: "Sources that the daemon cannot read or serve",
	Intro: "While a source cannot be read, the daemon takes nothing away.",
	Entries: []Entry{
		{
			Reason: LinksUnreadable, Kind: Problem,
			Meaning: "The daemon cannot read the host's network interfaces.",
			Remedy:  "Check that it runs in the host's network (`hostNetwork: true`) with `NET_ADMIN`.",
		},
		{
			Reason: RoutesUnreadable, Kind: Problem,
			Meaning: "The daemon cannot read the host's rules and routes.",
			Remedy:  "Check that it runs in the host's network (`hostNetwork: true`) with `NET_ADMIN`.",
		},
		{
			Reason: SysfsUnreadable, Kind: Problem,
			Meaning: "The daemon cannot read the PCI functions.",
			Remedy:  "Check that the host's `/sys` is mounted, and `--sysfs`.",
		},
		{
			Reason: MetadataUnreadable, Kind: Problem,
			Meaning: "The daemon cannot read the instance metadata, so it finds no new ENI.",
			Remedy:  "Check that IMDSv2 is switched on, that its hop limit fits, and that no proxy answers for it.",
		},
		{
			Reason: MetadataSenseless, Kind: Problem,
			Meaning: "A value of the instance metadata makes no sense. The device of that ENI stays as it was.",
			Remedy:  "Check `AWS_EC2_METADATA_SERVICE_ENDPOINT`, and whether a proxy answers for the metadata service.",
			Seen:    []string{"the instance metadata has the senseless value \"…\" for …;"},
		},
		{
			Reason: KubeletUnreadable, Kind: Problem,
			Meaning: "The daemon cannot ask the kubelet which devices it has given to pods. Removed devices count as in use.",
			Remedy:  "Mount `/var/lib/kubelet/pod-resources`, or correct `--podresources-socket`.",
		},
		{
			Reason: FilesUnwatched, Kind: Problem,
			Meaning: "The daemon sees changes of files after 5 s instead of at once. The node has no inotify instance or watch left.",
			Remedy:  "Raise `fs.inotify.max_user_instances` (often 128) or `fs.inotify.max_user_watches` on the node.",
			Seen:    []string{"changes of files are seen within … instead of at once: …"},
		},
		{
			Reason: KernelEventsUnseen, Kind: Problem,
			Meaning: "The daemon sees changes of links or PCI functions after a minute instead of at once.",
			Remedy:  "Read the daemon's log. The Problem ends by itself when the kernel's events can be read again.",
		},
		{
			Reason: MetricsUnserved, Kind: Problem,
			Meaning: "Metrics and probes are not served: another program has the port of `--listen`. In the DaemonSet the " +
				"probes then fail, and the kubelet restarts the daemon.",
			Remedy: "Give `--listen` and the three probes another port, or end the other program. `ss -ltnp 'sport = :9616'` " +
				"on the node names it.",
		},
		{
			Reason: StatusUnserved, Kind: Problem,
			Meaning: "`multi-enid status` reads the daemon's files instead of asking it: its socket cannot be made.",
			Remedy:  "Read the daemon's log. Check that the folder of the inventory is writable.",
		},
	},
}
