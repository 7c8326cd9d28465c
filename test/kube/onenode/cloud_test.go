package onenode

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2/iam"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
	"github.com/multi-eni/multi-eni-cni/test/kube/node"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

const (
	group       = "sg-0a1b2c3d4e5f60001"
	zone        = "eu-west-1a"
	clusterName = "one-node"
)

// cloud is EC2 with this node's instance, for the controller's role. An ENI that is attached there appears on the node, and in the
// instance's metadata.
type cloud struct {
	*stage
	ec2 *fakeec2.Server
	// place is where an ENI appears: the node has room for one.
	place eni

	mu    sync.Mutex
	links map[string]nstest.ENI // by the id of the ENI
}

// newCloud has EC2 with room for one more ENI of this node.
func (s *stage) newCloud(place eni) *cloud {
	s.Helper()
	c := &cloud{stage: s, place: place, links: map[string]nstest.ENI{}}
	primary := s.metadata.ENIs[0]
	c.ec2 = fakeec2.New(fakeec2.Config{
		Subnets: []fakeec2.Subnet{{ID: primary.SubnetID, IPv4: netip.MustParsePrefix(primary.SubnetIPv4CIDR), Zone: zone},
			{ID: place.subnet, IPv4: netip.MustParsePrefix(place.cidr()), Zone: zone}},
		Groups: []fakeec2.Group{{ID: group, Name: "pods"}},
		Instances: []fakeec2.Instance{{ID: instanceID, Type: "m5.large", SubnetID: primary.SubnetID,
			Tags: map[string]string{"kubernetes.io/cluster/" + clusterName: "owned"}}},
		Policy:   c.policy(),
		OnChange: c.changed,
		OnUnknown: func(request string) {
			s.Errorf("EC2: unknown: %s", request)
		},
	})
	return c
}

// policy is the one of docs/quickstart.md, for this cluster.
func (c *cloud) policy() *iam.Policy {
	c.Helper()
	repo, err := nstest.Repo()
	c.must(err)
	text, err := os.ReadFile(filepath.Join(repo, "deploy/iam/multi-enid-controller.json"))
	c.must(err)
	system, err := c.Admin.CoreV1().Namespaces().Get(c.Context(), metav1.NamespaceSystem, metav1.GetOptions{})
	c.must(err)
	policy, err := iam.Parse([]byte(strings.NewReplacer("CLUSTER_UID", string(system.UID), "CLUSTER_NAME", clusterName).Replace(string(text))))
	c.must(err)
	return policy
}

// serve listens for the controller's pods. It returns the values of the chart that let them find it.
func (c *cloud) serve() (values string) {
	c.Helper()
	l, err := (&net.ListenConfig{}).Listen(c.Context(), "tcp", net.JoinHostPort(node.ServiceIP, "0"))
	c.must(err)
	web := &http.Server{Handler: c.ec2, ReadHeaderTimeout: callTimeout}
	go web.Serve(l) //nolint:errcheck // ends with the test
	c.Cleanup(func() {
		c.must(web.Close())
		for _, link := range c.links {
			c.must(c.host.Detach(link))
		}
	})
	var env []string
	for name, value := range map[string]string{"AWS_ENDPOINT_URL_EC2": "http://" + l.Addr().String(), "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
		"AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI-EXAMPLEKEY"} {
		env = append(env, fmt.Sprintf(`{"name":%q,"value":%q}`, name, value))
	}
	return "--set controller.region=" + strings.TrimRight(zone, "a") + " --set-json 'controller.extraEnv=[" + strings.Join(env, ",") + "]'"
}

// changed follows the attachment of an ENI.
func (c *cloud) changed(now fakeec2.ENI) {
	c.mu.Lock()
	defer c.mu.Unlock()
	link, attached := c.links[now.ID]
	switch {
	case now.Instance == instanceID && !attached && now.DeviceIndex > 0:
		link = nstest.ENI{PCI: c.place.PCI, Name: c.place.Name, MAC: now.MAC}
		if err := c.host.Attach(link); err != nil {
			c.Errorf("attach %s: %v", now.ID, err)
			return
		}
		c.links[now.ID] = link
		about := fakeimds.ENI{ID: now.ID, MAC: now.MAC, DeviceIndex: now.DeviceIndex, SubnetID: now.SubnetID, SubnetIPv4CIDR: c.place.cidr(),
			VPCIPv4CIDRs: []string{"10.0.0.0/16"}}
		for _, a := range now.IPv4 {
			about.IPv4s = append(about.IPv4s, a.String())
		}
		c.imds.Attach(about)
	case now.Instance == "" && attached:
		delete(c.links, now.ID)
		c.imds.Detach(now.MAC)
		if err := c.host.Detach(link); err != nil {
			c.Errorf("detach %s: %v", now.ID, err)
		}
	}
}
