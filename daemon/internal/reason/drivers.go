package reason

// drivers has the Reasons about drivers of DPDK devices.
var drivers = Group{
	Title: "Drivers of DPDK devices",
	Intro: "[dpdk.md](dpdk.md) says what a node needs.",
	Entries: []Entry{
		{
			Reason: DriverNotLoaded, Kind: Problem,
			Meaning: "The kernel does not have the driver that `spec.dpdkDriver` names.",
			Remedy: "Run the `modprobe` command in the message, and name the module in `/etc/modules-load.d`. Or start " +
				"`multi-enid` with `--load-modules`.",
		},
		{
			Reason: NoIOMMU, Kind: Problem,
			Meaning: "The node has no IOMMU, which `vfio-pci` needs.",
			Remedy: "Use a bare metal instance and boot with `intel_iommu=on` or `amd_iommu=on`. Or accept the risk with " +
				"`--allow-unsafe-noiommu`.",
		},
		{
			Reason: IOMMUGroupShared, Kind: Problem,
			Meaning: "Other PCI functions of the same IOMMU group have kernel drivers.",
			Remedy:  "Give each of them a NodeENI with `enableDPDK`, or use a device with a group of its own.",
		},
		{
			Reason: PFInUse, Kind: Problem,
			Meaning: "The device is a PF with VFs, and a change of its driver would remove them.",
			Remedy:  "Free the VFs, and write 0 to `sriov_numvfs` of the PF.",
		},
		{
			Reason: NotBindable, Kind: Problem,
			Meaning: "The PCI function is an Elastic Fabric Adapter or not a network device. The daemon never changes its driver.",
			Remedy:  "Correct `spec.dpdkPCIAddress`, or set `enableDPDK: false`.",
		},
		{
			Reason: DriverNotBound, Kind: Problem,
			Meaning: "A pod still has the device, or the kernel refused the driver. The daemon tries again at least every minute.",
			Remedy:  "Wait until the pod ends. If no pod has the device, read the daemon's log for the kernel's answer.",
		},
		{
			Reason: DriverMismatch, Kind: Problem,
			Meaning: "Another program has bound the device to another driver than the NodeENI asks for.",
			Remedy:  "Run `driverctl unset-override ADDRESS`, or correct `enableDPDK` and `dpdkDriver`.",
		},
		{
			Reason: DeviceOpen, Kind: Problem,
			Meaning: "A program on the node has the device open, though no pod of ours has it. The device keeps its driver.",
			Remedy:  "End that program. The message says how the daemon sees it.",
		},
		{
			Reason: DeviceUseUnknown, Kind: Problem,
			Meaning: "The daemon cannot see whether a program has the device open, so it keeps the driver.",
			Remedy:  "Give the daemon the host's `/dev/vfio`. With uio drivers, wait a minute after the kubelet has started.",
		},
		{
			Reason: DriverStuck, Kind: Problem,
			Meaning: "The kernel waits for a program that has the device open, and the change of the driver does not end. Other " +
				"devices are not held up.",
			Remedy: "End that program. For an update of the daemon see " +
				"[dpdk.md](dpdk.md#an-update-of-the-daemon-while-a-device-hangs).",
		},
	},
}
