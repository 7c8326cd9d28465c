package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

const (
	instanceID   = "i-0123456789abcdef0"
	instanceType = "m5.large"
	zone         = "eu-central-1a"
	group        = "sg-0a1b2c3d4e5f60001"
	primaryID    = "eni-0a1b2c3d4e5f60000"
	nodeSubnet   = "subnet-0a1b2c3d4e5f60000"
	podSubnet    = "subnet-0a1b2c3d4e5f60001"
	router       = "10.0.1.1"
	socket       = root + "/ec2.sock"
	key          = "AKIADEMOCONTROLLER00"
	region       = "eu-central-1"
	// attachTakes and detachTakes are about EC2's own.
	attachTakes = 600 * time.Millisecond
	detachTakes = time.Second
)

// cloud is EC2 and the instance's metadata service. An ENI that EC2 attaches becomes a link of the node.
type cloud struct {
	ec2        *fakeec2.Server
	imds       *fakeimds.Server
	node       *nstest.Node
	began      time.Time
	ec2URL     string
	imdsURL    string
	mu         sync.Mutex
	plugged    map[string]nstest.ENI // by the ENI's id
	attachedAt time.Time             // the last link
	faults     []error
	servers    []*http.Server
}

func newCloud(ctx context.Context, node *nstest.Node) (*cloud, error) {
	c := &cloud{node: node, plugged: map[string]nstest.ENI{}, began: time.Now()}
	primary := fakeec2.ENI{
		ID: primaryID, MAC: "02:00:00:00:00:05", SubnetID: nodeSubnet, Instance: instanceID, DeleteOnTermination: true, Groups: []string{group},
		IPv4: []netip.Addr{netip.MustParseAddr("10.0.0.15")},
	}
	c.imds = fakeimds.New(fakeimds.Config{State: fakeimds.State{InstanceID: instanceID, Region: region}})
	c.plug(primary)
	c.ec2 = fakeec2.New(fakeec2.Config{
		Subnets: []fakeec2.Subnet{
			{ID: nodeSubnet, IPv4: netip.MustParsePrefix("10.0.0.0/24"), Zone: zone}, {ID: podSubnet, IPv4: netip.MustParsePrefix("10.0.1.0/24"), Zone: zone},
		},
		Groups: []fakeec2.Group{{ID: group, Name: "pods"}}, ENIs: []fakeec2.ENI{primary},
		Instances:   []fakeec2.Instance{{ID: instanceID, Type: instanceType, SubnetID: nodeSubnet}},
		AttachTakes: attachTakes, DetachTakes: detachTakes, OnChange: c.changed,
		OnUnknown: func(request string) { c.fault(errors.New("EC2 does not know " + request)) },
	})
	var err error
	if c.ec2URL, err = c.serve(ctx, "tcp", "127.0.0.1:0", c.ec2); err != nil {
		return nil, err
	}
	if c.imdsURL, err = c.serve(ctx, "tcp", "127.0.0.1:0", c.imds); err != nil {
		return nil, err
	}
	_, err = c.serve(ctx, "unix", socket, http.HandlerFunc(c.answer))
	return c, errors.Join(err, c.faulty())
}

func (c *cloud) serve(ctx context.Context, network, address string, h http.Handler) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, network, address)
	if err != nil {
		return "", fmt.Errorf("start a stand-in: %w", err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Second}
	c.servers = append(c.servers, s)
	go s.Serve(l) //nolint:errcheck // ends with the demo
	return "http://" + l.Addr().String(), nil
}

// changed is fakeec2's OnChange.
func (c *cloud) changed(e fakeec2.ENI) {
	c.mu.Lock()
	link, has := c.plugged[e.ID]
	c.mu.Unlock()
	attached := e.Instance == instanceID && (e.AttachmentStatus == "" || e.AttachmentStatus == "attached")
	switch {
	case attached && !has:
		c.plug(e)
	case has && e.Instance != instanceID:
		c.unplug(e, link)
	}
}

func (c *cloud) plug(e fakeec2.ENI) {
	link := nstest.ENI{PCI: fmt.Sprintf("0000:00:%02x.0", 5+e.DeviceIndex), Name: fmt.Sprintf("eth%d", e.DeviceIndex), MAC: e.MAC}
	c.fault(c.node.Attach(link))
	subnet, err := e.IPv4[0].Prefix(24)
	c.fault(err)
	c.imds.Attach(fakeimds.ENI{
		ID: e.ID, MAC: e.MAC, Primary: e.ID == primaryID, DeviceIndex: e.DeviceIndex, SubnetID: e.SubnetID, SubnetIPv4CIDR: subnet.String(),
		IPv4s: []string{e.IPv4[0].String()},
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.plugged[e.ID], c.attachedAt = link, time.Now()
}

func (c *cloud) unplug(e fakeec2.ENI, link nstest.ENI) {
	c.fault(c.node.Detach(link))
	c.imds.Detach(e.MAC)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.plugged, e.ID)
}

// fault notes an error of the stage.
func (c *cloud) fault(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.faults = append(c.faults, err)
	}
}

func (c *cloud) faulty() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Join(c.faults...)
}

// made returns the ENI that the controller has made, or nil.
func (c *cloud) made() *fakeec2.ENI {
	for _, e := range c.ec2.All() {
		if e.ID != primaryID {
			return &e
		}
	}
	return nil
}

// when returns the time of the first successful call of an action, or zero.
func (c *cloud) when(action string) time.Time {
	for _, e := range c.ec2.Events() {
		if e.Action == action && e.Code == "" {
			return e.At
		}
	}
	return time.Time{}
}

func (c *cloud) actions() (out []string) {
	for _, e := range c.ec2.Events() {
		if e.Code != "DryRunOperation" {
			out = append(out, strings.TrimSpace(e.Action+" "+e.Code))
		}
	}
	return out
}

func (c *cloud) answer(w http.ResponseWriter, r *http.Request) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer func() { _ = t.Flush() }() // who asked has gone
	switch r.URL.Path {
	case "/interfaces":
		fmt.Fprintln(t, "INTERFACE\tSTATUS\tINSTANCE\tINDEX\tADDRESS\tTAG NodeENI")
		for _, e := range c.ec2.All() {
			if !e.Deleted.IsZero() {
				continue
			}
			index := "-"
			if e.Instance != "" {
				index = strconv.Itoa(e.DeviceIndex)
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", e.ID, e.Status(), dash(e.Instance), index, e.IPv4[0], dash(e.Tags["NodeENI"]))
		}
	case "/calls":
		fmt.Fprintln(t, "AFTER\tCALL\tINTERFACE\tERROR")
		for _, e := range c.ec2.Events() {
			fmt.Fprintf(t, "%.1f s\t%s\t%s\t%s\n", e.At.Sub(c.began).Seconds(), e.Action, dash(e.ENI.ID), dash(e.Code))
		}
	default:
		http.NotFound(w, r)
	}
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// askCloud prints the stand-in's own list.
func askCloud(ctx context.Context, out io.Writer, what string) error {
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://ec2/"+what, nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(r)
	if err != nil {
		return fmt.Errorf("ask EC2 (is the story being told?): %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("no such list: %s\n%s", what, usage)
	}
	_, err = io.Copy(out, answer.Body)
	return err
}

func (c *cloud) close() {
	for _, s := range c.servers {
		if err := s.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
}
