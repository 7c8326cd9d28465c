// Package hostnet runs the daemon and the plugin beside the network managers of
// real hosts: systemd-networkd with systemd-udevd, NetworkManager, and
// amazon-ec2-net-utils, with router advertisements by radvd and leases by dnsmasq.
// All are the programs of Debian's packages. Each test has a host of its own, made
// of namespaces; the machine's own network stays as it is, and the package fails
// when it does not. README.md lists the observations. Run it by `make test-hostnet`.
package hostnet
