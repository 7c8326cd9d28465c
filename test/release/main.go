// Command release makes the files of a release that no other program makes: the notices of third parties, the chart's
// package, archives, notes and checksums. Equal sources give equal bytes. It needs no network. See release.mk.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "release: %v\n", err)
		os.Exit(1)
	}
}

type options struct {
	version    string
	repository string // of the image; "" leaves the chart's default
	out        string
	dist       string
	image      string
	sbom       string
	notices    string
	manifests  string
	unreleased bool
	built      time.Time // of all files in archives
}

func (o *options) flags(name string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.StringVar(&o.version, "version", "", "version, such as v1.2.3")
	f.StringVar(&o.repository, "repository", "", "repository that the image will have in its registry")
	f.StringVar(&o.out, "o", "", "file or folder to write")
	f.StringVar(&o.dist, "dist", "bin/dist", "folder of the programs, OS/ARCH/out/PROGRAM")
	f.StringVar(&o.image, "image", "bin/image.tar", "archive of the image")
	f.StringVar(&o.sbom, "sbom", "bin/sbom", "folder of the bills of materials")
	f.StringVar(&o.notices, "notices", "bin/licenses", "folder of the licence and the notices")
	f.StringVar(&o.manifests, "manifests", "", "manifests that kustomize has made")
	f.BoolVar(&o.unreleased, "unreleased", false, "for a trial: take any version and tree, and the changelog's section Unreleased")
	return f
}

func run(ctx context.Context, args []string) error {
	commands := map[string]func(context.Context, options, []string) error{
		"check": check, "notices": writeNotices, "chart": writeChart, "repack": repackImage, "digest": printDigest, "assemble": assemble,
	}
	if len(args) == 0 || commands[args[0]] == nil {
		return errors.New("want check, notices, chart, repack, digest or assemble")
	}
	var o options
	f := o.flags(args[0])
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	var err error
	if o.built, err = sourceDate(os.Getenv("SOURCE_DATE_EPOCH")); err != nil {
		return err
	}
	return commands[args[0]](ctx, o, f.Args())
}

// sourceDate reads SOURCE_DATE_EPOCH (reproducible-builds.org): seconds since 1970, "" for 0.
func sourceDate(epoch string) (time.Time, error) {
	seconds, err := strconv.ParseInt(strings.TrimSpace(epoch), 10, 64)
	if epoch == "" {
		seconds, err = 0, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH %q: want seconds since 1970", epoch)
	}
	return time.Unix(seconds, 0).UTC(), nil
}
