package onenode

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// cloudEnv holds the socket of the cloud, for the stand-in of the AWS CLI.
const cloudEnv = "MULTI_ENI_CLOUD"

// cloud has this node and one ENI to create. It answers only docs/quickstart.md, as AWS CLI v2 (ec2) does.
type cloud struct {
	*stage
	eni  eni
	free int

	mu       sync.Mutex
	made     bool
	attached bool
	calls    []string
}

// call holds the arguments of the stand-in, answer its output.
type (
	call   struct{ Args []string }
	answer struct{ Out, Err string }
)

func calledAsAWS() bool { return filepath.Base(os.Args[0]) == "aws" }

// askCloud is the stand-in's main. It returns the exit status, 254 for an error of the service.
func askCloud() int {
	c, err := net.Dial("unix", os.Getenv(cloudEnv))
	if err == nil {
		defer c.Close()
		err = json.NewEncoder(c).Encode(call{os.Args[1:]})
	}
	var got answer
	if err == nil {
		err = json.NewDecoder(c).Decode(&got)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 255
	}
	if got.Err != "" {
		fmt.Fprintln(os.Stderr, got.Err)
		return 254
	}
	if got.Out != "" {
		fmt.Println(got.Out)
	}
	return 0
}

func (c *cloud) serve() (env string) {
	c.Helper()
	socket := filepath.Join("/run", "cloud.sock") // short enough for a socket
	l, err := net.Listen("unix", socket)
	c.must(err)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			var in call
			var out answer
			if err := json.NewDecoder(conn).Decode(&in); err == nil {
				out.Out, err = c.do(in.Args)
				if err != nil {
					out.Err = err.Error()
				}
			}
			_ = json.NewEncoder(conn).Encode(out) // the stand-in says so
			_ = conn.Close()
		}
	}()
	c.Cleanup(func() {
		c.must(l.Close())
		if c.attached {
			c.must(c.host.Detach(c.eni.ENI))
		}
	})
	return cloudEnv + "=" + socket
}

func (c *cloud) do(args []string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(args) < 2 || args[0] != "ec2" {
		return "", fmt.Errorf("aws %q: not a call of the document", args)
	}
	name, rest := args[1], args[2:]
	if name == "wait" && len(rest) > 0 {
		name, rest = "wait "+rest[0], rest[1:]
	}
	c.calls = append(c.calls, name)
	act, ok := map[string]struct {
		// takes lists the required flags with their values; "" accepts any.
		takes map[string]string
		do    func(map[string]string) (string, error)
	}{
		"describe-instances": {map[string]string{
			"--instance-ids": instanceID, "--output": "text", "--query": "Reservations[].Instances[].NetworkInterfaces[].Attachment.DeviceIndex",
		}, c.describe},
		"create-network-interface": {map[string]string{
			"--subnet-id": c.eni.subnet, "--groups": group, "--query": "NetworkInterface.NetworkInterfaceId", "--output": "text",
			"--tag-specifications": "ResourceType=network-interface,Tags=[{Key=node.k8s.amazonaws.com/no_manage,Value=true}]",
		}, c.create},
		"attach-network-interface": {map[string]string{
			"--network-interface-id": c.eni.id, "--instance-id": instanceID, "--device-index": "", "--query": "AttachmentId", "--output": "text",
		}, c.attach},
		"detach-network-interface":         {map[string]string{"--attachment-id": c.attachment()}, c.detach},
		"wait network-interface-available": {map[string]string{"--network-interface-ids": c.eni.id}, c.available},
		"delete-network-interface":         {map[string]string{"--network-interface-id": c.eni.id}, c.delete},
	}[name]
	if !ok {
		return "", fmt.Errorf("aws ec2 %s: not a call of the document", name)
	}
	flags, err := parse(rest, act.takes)
	if err != nil {
		return "", fmt.Errorf("aws ec2 %s: %w", name, err)
	}
	return act.do(flags)
}

func parse(args []string, takes map[string]string) (map[string]string, error) {
	got := map[string]string{}
	for pair := range slices.Chunk(args, 2) {
		want, ok := takes[pair[0]]
		if !ok || len(pair) != 2 || want != "" && want != pair[1] {
			return nil, fmt.Errorf("%q: want flags %q", pair, takes)
		}
		got[pair[0]] = pair[1]
	}
	if len(got) != len(takes) {
		return nil, fmt.Errorf("flags %q, want %q", got, takes)
	}
	return got, nil
}

const group = "sg-0a1b2c3d4e5f60001"

func (c *cloud) attachment() string { return "eni-attach-" + strings.TrimPrefix(c.eni.id, "eni-") }

func (c *cloud) describe(map[string]string) (string, error) {
	var taken []string
	for i := range c.free {
		taken = append(taken, strconv.Itoa(i))
	}
	return strings.Join(taken, "\t"), nil
}

func (c *cloud) create(map[string]string) (string, error) {
	c.made = true
	return c.eni.id, nil
}

func (c *cloud) attach(flags map[string]string) (string, error) {
	index, err := strconv.Atoi(flags["--device-index"])
	if err != nil || index < c.free || !c.made || c.attached {
		return "", fmt.Errorf("an error occurred (InvalidParameterValue): device index %q, made %v, attached %v, %w", flags["--device-index"], c.made, c.attached,
			err)
	}
	if err := c.host.Attach(c.eni.ENI); err != nil {
		return "", err
	}
	c.attached = true
	c.imds.Attach(c.eni.metadata(index))
	return c.attachment(), nil
}

func (c *cloud) detach(map[string]string) (string, error) {
	if !c.attached {
		return "", fmt.Errorf("an error occurred (InvalidAttachmentID.NotFound): %s", c.attachment())
	}
	c.attached = false
	c.imds.Detach(c.eni.MAC)
	return "", c.host.Detach(c.eni.ENI)
}

func (c *cloud) available(map[string]string) (string, error) {
	if c.attached {
		return "", fmt.Errorf("waiter NetworkInterfaceAvailable failed: %s is in use", c.eni.id)
	}
	return "", nil
}

func (c *cloud) delete(map[string]string) (string, error) {
	if !c.made || c.attached {
		return "", fmt.Errorf("an error occurred (InvalidParameterValue): network interface %s, made %v, is in use: %v", c.eni.id, c.made, c.attached)
	}
	c.made = false
	return "", nil
}
