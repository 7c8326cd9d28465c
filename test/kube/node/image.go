package node

import (
	"context"
	"os"
	"testing"

	"github.com/multi-eni/multi-eni-cni/test/imagetar"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// ImportImage makes an image of static binaries with the first as entry point, and imports it into
// containerd under that name, such as localhost/x:1. Pods that use it set imagePullPolicy: Never.
func (n *Node) ImportImage(t testing.TB, ref string, binaries ...string) {
	t.Helper()
	files, err := imagetar.Programs(binaries...)
	cluster.Must(t, err)
	n.ImportFiles(t, ref, files...)
}

// ImportFiles is ImportImage with files of any kind.
func (n *Node) ImportFiles(t testing.TB, ref string, files ...imagetar.File) {
	t.Helper()
	cluster.Must(t, n.importFiles(t.Context(), ref, files...))
}

// ImportArchive imports a builder's archive into containerd under the name ref. The archive itself gives no image this name: two images of one
// name replace each other, and containerd may collect the first one's content before it is unpacked.
func (n *Node) ImportArchive(t testing.TB, ref, archive string) {
	t.Helper()
	cluster.Must(t, n.ctr(t.Context(), "images", "import", "--snapshotter=native", "--index-name", ref, archive))
}

// ImportNamed imports an archive that names its images.
func (n *Node) ImportNamed(t testing.TB, archive string) {
	t.Helper()
	cluster.Must(t, n.importNamed(t.Context(), archive))
}

func (n *Node) importNamed(ctx context.Context, archive string) error {
	return n.ctr(ctx, "images", "import", "--snapshotter=native", archive)
}

func (n *Node) importPause(ctx context.Context) error {
	pause, err := nstest.Binary("kube/pause")
	if err != nil {
		return err
	}
	files, err := imagetar.Programs(pause)
	if err != nil {
		return err
	}
	return n.importFiles(ctx, PauseImage, files...)
}

func (n *Node) importFiles(ctx context.Context, ref string, files ...imagetar.File) error {
	archive, err := imagetar.Make(ref, files...)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(n.dir, "image")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // the folder goes with the node
	defer f.Close()
	if _, err := f.Write(archive); err != nil {
		return err
	}
	return n.importNamed(ctx, f.Name())
}
