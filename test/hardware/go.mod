module github.com/multi-eni/multi-eni-cni/test/hardware

go 1.26.0

require (
	github.com/multi-eni/multi-eni-cni v0.0.0-00010101000000-000000000000
	github.com/u-root/u-root v0.16.0
	github.com/ulikunitz/xz v0.5.17
	github.com/vishvananda/netlink v1.3.1
	golang.org/x/sys v0.41.0
)

require (
	github.com/containernetworking/plugins v1.9.1 // indirect
	github.com/dustin/go-humanize v1.0.1 // indirect
	github.com/pierrec/lz4/v4 v4.1.22 // indirect
	github.com/u-root/uio v0.0.0-20240224005618-d2acac8f3701 // indirect
	github.com/vishvananda/netns v0.0.5 // indirect
)

replace github.com/multi-eni/multi-eni-cni => ../..
