package controlplane

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/awsnode/region"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/doctor"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/fleet"
)

// AddDoctor gives the command doctor the flag --controller. With it doctor checks a cluster and a region as the controller needs them, instead
// of a node. The command has the flags --kubeconfig and --output already.
func (p Program) AddDoctor(ctx context.Context, cmd *cobra.Command) *cobra.Command {
	var asController bool
	var namespace, region string
	f := cmd.Flags()
	f.BoolVar(&asController, "controller", false, "Check the cluster and EC2 for multi-enid controller, instead of a node. Run it in the controller's pod.")
	addReach(f, p.Getenv, nil, &namespace, &region)
	node := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !asController {
			return node(cmd, args)
		}
		output := f.Lookup("output").Value.String()
		if err := cli.OneOf("output", output, "text", "json"); err != nil {
			return err
		}
		if err := checkNamespace(namespace); err != nil {
			return &cli.UsageError{Err: err}
		}
		o := p.questions(ctx, f.Lookup("kubeconfig").Value.String(), namespace, region)
		return p.print(doctor.RunController(ctx, o), output)
	}
	return cmd
}

// questions connects the checks with API server and EC2.
func (p Program) questions(ctx context.Context, kubeconfig, namespace, regionName string) doctor.ControllerOptions {
	quiet := logrus.New() // the findings have the errors
	quiet.SetOutput(io.Discard)
	ec2 := region.New(region.Config{Region: regionName, Now: p.Now})
	o := doctor.ControllerOptions{Namespace: namespace, EC2: ec2, Now: p.Now}
	c := client.Config{Kubeconfig: kubeconfig, UserAgent: "multi-enid-doctor/" + p.Version, Log: quiet}
	config, err := client.Configure(c)
	if err != nil {
		o.ClusterErr = err
		return o
	}
	cluster := &cluster{ec2: ec2}
	if cluster.api, err = client.New(config, ""); err == nil {
		cluster.fleet, err = fleet.Connect(c, fleet.Options{Namespace: namespace, Identity: "doctor", Now: p.Now, Log: quiet})
	}
	if err != nil {
		o.ClusterErr = err
		return o
	}
	go cluster.fleet.Run(ctx)
	o.Cluster = cluster
	return o
}

// print shows the findings as doctor does for a node. It fails if a check has failed.
func (p Program) print(found []doctor.Finding, output string) error {
	if output == "json" {
		enc := json.NewEncoder(p.Stdout)
		enc.SetIndent("", "  ")
		if err := enc.Encode(map[string]any{"findings": found}); err != nil {
			return err
		}
	} else {
		for _, f := range found {
			fmt.Fprintln(p.Stdout, f)
		}
	}
	if n := doctor.Failed(found); n > 0 {
		return fmt.Errorf("%d of %d checks failed", n, len(found))
	}
	return nil
}
