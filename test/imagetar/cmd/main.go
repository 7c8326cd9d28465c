// Command cmd writes an image of static programs to a file; see package imagetar.
package main

import (
	"fmt"
	"os"

	"github.com/multi-eni/multi-eni-cni/test/imagetar"
)

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: cmd FILE IMAGE PROGRAM...")
		os.Exit(2)
	}
	if err := write(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func write(path, ref string, programs []string) error {
	files, err := imagetar.Programs(programs...)
	if err != nil {
		return err
	}
	archive, err := imagetar.Make(ref, files...)
	if err != nil {
		return err
	}
	return os.WriteFile(path, archive, 0o644)
}
