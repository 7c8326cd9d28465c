package reason

// nodeenis has the Reasons about the place where NodeENIs come from.
var nodeenis = Group{
	Title: "Where NodeENIs come from",
	Entries: []Entry{
		{Reason: NodeENIsUnreadable, Kind: Problem,
			Meaning: "The daemon has not been able to read the NodeENIs since it started, or cannot read their folder. No NodeENI counts as removed.",
			Remedy:  "Read the daemon's log. `multi-enid doctor` checks access, permissions and the CRD."},
		{Reason: NodeENIUnreadable, Kind: Problem,
			Meaning: "One NodeENI has a value that the daemon cannot understand. Its devices stay as they were.",
			Remedy:  "Correct or delete the object."},
		{Reason: UnreadableManifest, Kind: Problem,
			Meaning: "With `--nodeeni-source=dir:`: a file of the folder is not valid YAML or JSON. No NodeENI of the folder counts as removed.",
			Remedy:  "Correct the file at the place that the message names, or remove it."},
		{Reason: ManifestsChanging, Kind: Problem,
			Meaning: "With `--nodeeni-source=dir:`: the folder changes each time the daemon reads it. No NodeENI counts as removed.",
			Remedy:  "Stop the program that writes into the folder."},
		{Reason: OtherKind, Kind: Problem,
			Meaning: "With `--nodeeni-source=dir:`: a file has another kind of object. The daemon ignores it.",
			Remedy:  "Move it elsewhere."},
		{Reason: UnknownField, Kind: Problem,
			Meaning: "With `--nodeeni-source=dir:`: a NodeENI has a field that does not exist, or a field twice.",
			Remedy:  "Correct or remove the field."},
		{Reason: DuplicateNodeENI, Kind: Problem,
			Meaning: "With `--nodeeni-source=dir:`: two files declare a NodeENI of one name. The first file counts.",
			Remedy:  "Give one of them another name."},
		{Reason: OtherInstance, Kind: Problem,
			Meaning: "The Node object of this name belongs to another instance than this machine. The daemon removes nothing.",
			Remedy:  "Correct `NODE_NAME`. If the instance was replaced under its name, delete the Node; the kubelet makes it anew.",
			Seen:    []string{"Node … is instance … (spec.providerID), and this is instance …"}},
	},
}

// api has the Reasons about an API server that is not followed.
var api = Group{
	Title: "The API server is not followed",
	Intro: "Config, inventory and pods stay as they are. Changes of NodeENIs have no effect on the node. The reason is in `multi-enid status`, in the " +
		"daemon's log and in the metric `multi_eni_api_fault`, not in Events.",
	Entries: []Entry{
		{Reason: Unreachable, Kind: API,
			Meaning: "The API server does not answer, or a proxy answers instead.",
			Remedy:  "Nothing, if the API server comes back. Else check the network of the node, and the kubeconfig.",
			Seen:    []string{"cannot be followed (Unreachable); its last answer still holds"}},
		{Reason: Unauthorized, Kind: API,
			Meaning: "The API server does not accept the daemon's credentials (401).",
			Remedy:  "Check the token of the service account, or the kubeconfig.",
			Seen:    []string{"cannot be followed (Unauthorized); its last answer still holds"}},
		{Reason: Forbidden, Kind: API,
			Meaning: "The service account of the daemon lacks a permission (403).",
			Remedy:  "Apply `deploy/rbac.yaml`. `multi-enid doctor` names the permission.",
			Seen:    []string{"cannot be followed (Forbidden); its last answer still holds"}},
		{Reason: NoCRD, Kind: API,
			Meaning: "The API server does not know NodeENIs (404).",
			Remedy:  "Apply `deploy/crd`.",
			Seen:    []string{"cannot be followed (NoCRD); its last answer still holds"}},
		{Reason: NoNode, Kind: API,
			Meaning: "The API server has no Node of this name.",
			Remedy:  "Correct `--node-name` (`NODE_NAME`), or wait until the kubelet registers the node.",
			Seen:    []string{"cannot be followed (NoNode); its last answer still holds"}},
	},
}

// events has the Reasons about Events that tell of a step.
var events = Group{
	Title: "Events that tell of a step",
	Intro: "These Events need no action, unless the table says so.",
	Entries: []Entry{
		{Reason: DeviceReady, Kind: Event, About: "NodeENI", Meaning: "The ENI is ready for pods on the node."},
		{Reason: DeviceRemoved, Kind: Event, About: "NodeENI and Pod",
			Meaning: "The NodeENI no longer declares the ENI on the node. No new pod gets it. A pod keeps it until it ends, but a container that restarts " +
				"after 5 minutes cannot get it again.",
			Remedy: "Start the pod again elsewhere, or restore the NodeENI."},
		{Reason: DeviceReleased, Kind: Event, About: "NodeENI", Meaning: "No pod has the ENI any more, and the node has released it."},
		{Reason: DevicePluginRestarted, Kind: Event, About: "Node",
			Meaning: "The daemon restarted the SR-IOV device plugin, and the kubelet offers the devices of the new config."},
		{Reason: DevicePluginRestartFailed, Kind: Event, About: "Node",
			Meaning: "The device plugin does not offer the devices of the new config. The daemon tries again.",
			Remedy:  "See [MultiENIDevicePluginNotServing](#multienidevicepluginnotserving)."},
		{Reason: DevicePluginNotFound, Kind: Event, About: "Node",
			Meaning: "The daemon found no SR-IOV device plugin on the node.",
			Remedy:  "See [MultiENIDevicePluginNotFound](#multienidevicepluginnotfound)."},
	},
}

// states has the Reasons about conditions.
var states = Group{
	Title: "Reasons of conditions",
	Intro: "`kubectl describe ens NODE` shows the conditions of an ENINodeState, each with a reason.",
	Entries: []Entry{
		{Reason: AllReady, Kind: Condition, Of: "DevicesReady", Meaning: "True: each declared device is ready for pods."},
		{Reason: NoDevices, Kind: Condition, Of: "DevicesReady", Meaning: "True: no NodeENI selects the node."},
		{Reason: DevicesPending, Kind: Condition, Of: "DevicesReady",
			Meaning: "False: a device is not ready yet.",
			Remedy:  "The message names it. A Problem of the node says why."},
		{Reason: DevicesDraining, Kind: Condition, Of: "DevicesReady",
			Meaning: "False: a removed device is still in use. The others are ready.",
			Remedy:  "Nothing: it is released when its pod ends."},
		{Reason: ConfigWritten, Kind: Condition, Of: "ConfigCurrent", Meaning: "True: the config of the device plugin lists the devices that are ready."},
		{Reason: ConfigOutdated, Kind: Condition, Of: "ConfigCurrent", Meaning: "False: the config could not be written.", Remedy: "See the Problems of the node."},
		{Reason: Serving, Kind: Condition, Of: "DevicePluginServing", Meaning: "True: the kubelet offers the devices of the config."},
		{Reason: RestartPending, Kind: Condition, Of: "DevicePluginServing",
			Meaning: "False: a restart of the device plugin is due, and waits for its time.",
			Remedy:  "Wait: restarts are at least 30 s apart."},
		{Reason: Restarting, Kind: Condition, Of: "DevicePluginServing",
			Meaning: "False: the device plugin is restarting, or the kubelet does not offer the devices yet.",
			Remedy:  "Wait some seconds."},
		{Reason: RestartFailed, Kind: Condition, Of: "DevicePluginServing",
			Meaning: "False: the last restart failed. The daemon tries again.",
			Remedy:  "Read the message, and the log of the device plugin's pod."},
		{Reason: NotFound, Kind: Condition, Of: "DevicePluginServing",
			Meaning: "False: the daemon found no device plugin on the node.",
			Remedy:  "See [MultiENIDevicePluginNotFound](#multienidevicepluginnotfound)."},
		{Reason: Unmanaged, Kind: Condition, Of: "DevicePluginServing", Meaning: "Unknown: the daemon runs with `--restart=none`."},
		{Reason: Unknown, Kind: Condition, Of: "DevicePluginServing",
			Meaning: "Unknown: the daemon has not looked yet, or could not.",
			Remedy:  "Wait a minute, then read the daemon's log."},
	},
}
