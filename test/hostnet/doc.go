// Package hostnet runs the daemon and the plugin beside the network managers of real hosts: systemd-networkd with
// systemd-udevd, NetworkManager, and amazon-ec2-net-utils, with router advertisements by radvd and leases by
// dnsmasq, all from Debian's packages. Each test has a host of namespaces. The package fails if the machine's own
// network changes. README.md lists the observations. Run it by `make test-hostnet`.
package hostnet
