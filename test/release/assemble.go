package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	kubectlPlugin = "kubectl-multi_eni"
	krewManifest  = "deploy/krew/multi-eni.yaml"
	checksums     = "SHA256SUMS"
)

func repackImage(_ context.Context, o options, _ []string) error { return repack(o.built, o.image) }

func printDigest(_ context.Context, o options, _ []string) error {
	digest, err := imageDigest(o.image)
	if err != nil {
		return err
	}
	fmt.Println(digest)
	return nil
}

func assemble(_ context.Context, o options, _ []string) error {
	if err := errors.Join(os.RemoveAll(o.out), os.MkdirAll(o.out, 0o755)); err != nil {
		return err
	}
	for _, step := range []func(options) error{
		addImage, addPrograms, addKubectlPlugins, addChart, addManifests, addBillsOfMaterials, addLegal, addKrew, addNotes, addChecksums,
	} {
		if err := step(o); err != nil {
			return err
		}
	}
	return nil
}

func (o options) write(name string, data []byte) error {
	return os.WriteFile(filepath.Join(o.out, name), data, 0o644)
}

// named is a file's name with the version: NAME_VERSION_REST.
func (o options) named(name, rest string) string { return name + "_" + o.version + rest }

func addImage(o options) error {
	data, err := os.ReadFile(o.image)
	if err != nil {
		return err
	}
	return o.write(o.named(chartName, "_image.tar"), data)
}

func licences(o options) (all []member, err error) {
	for _, name := range []string{"LICENSE", "THIRD_PARTY_NOTICES"} {
		data, err := os.ReadFile(filepath.Join(o.notices, name))
		if err != nil {
			return nil, err
		}
		all = append(all, member{name: name, data: data})
	}
	return all, nil
}

func addArchive(o options, name string, paths ...string) error {
	members, err := licences(o)
	if err != nil {
		return err
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		members = append(members, member{filepath.Base(path), data, true})
	}
	data, err := archive(o.built, members)
	if err != nil {
		return err
	}
	return o.write(name, data)
}

func addPrograms(o options) error {
	folders, err := filepath.Glob(filepath.Join(o.dist, "linux", "*", "out"))
	if err != nil || len(folders) == 0 {
		return fmt.Errorf("%s has no programs (%w)", o.dist, err)
	}
	for _, folder := range folders {
		name := o.named(chartName, "_linux_"+filepath.Base(filepath.Dir(folder))+".tar.gz")
		if err := addArchive(o, name, filepath.Join(folder, "multi-eni"), filepath.Join(folder, "eni-ipam"), filepath.Join(folder, "multi-enid")); err != nil {
			return err
		}
	}
	return nil
}

func addKubectlPlugins(o options) error {
	found, err := filepath.Glob(filepath.Join(o.dist, "*", "*", kubectlPlugin))
	if err != nil {
		return err
	}
	for _, path := range found {
		arch := filepath.Dir(path)
		name := o.named(kubectlPlugin, "_"+filepath.Base(filepath.Dir(arch))+"_"+filepath.Base(arch)+".tar.gz")
		if err := addArchive(o, name, path); err != nil {
			return err
		}
	}
	return nil
}

func addChart(o options) error {
	data, err := chart(o)
	if err != nil {
		return err
	}
	return o.write(chartFile(o.version), data)
}

// addManifests adds the file for `kubectl apply -f`, with the image's digest.
func addManifests(o options) error {
	data, err := os.ReadFile(o.manifests)
	if err != nil {
		return err
	}
	digest, err := imageDigest(o.image)
	if err != nil {
		return err
	}
	pinned := o.repository + "@" + digest
	if strings.Count(string(data), "image: "+pinned+"\n") != 2 {
		return fmt.Errorf("%s: want the image %s twice", o.manifests, pinned)
	}
	return o.write("install.yaml", append([]byte("# multi-eni-cni "+o.version+": kubectl apply --server-side -f install.yaml\n"), data...))
}

func addBillsOfMaterials(o options) error {
	found, err := filepath.Glob(filepath.Join(o.sbom, "*.cdx.json"))
	if err != nil || len(found) == 0 {
		return fmt.Errorf("%s has no bill of materials (%w)", o.sbom, err)
	}
	for _, path := range found {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		program, _, _ := strings.Cut(filepath.Base(path), ".")
		if err := o.write(o.named(program, ".cdx.json"), data); err != nil {
			return err
		}
	}
	return nil
}

func addLegal(o options) error {
	members, err := licences(o)
	for _, m := range members {
		err = errors.Join(err, o.write(m.name, m.data))
	}
	return err
}

// addKrew adds the plugin's manifest for Krew, where this repository has one.
func addKrew(o options) error {
	data, err := os.ReadFile(krewManifest)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	filled, err := krew(string(data), o.version, func(file string) (string, error) {
		s, err := sum(filepath.Join(o.out, file))
		if o.unreleased && errors.Is(err, os.ErrNotExist) { // a trial may be without some platforms
			return strings.Repeat("0", 64), nil
		}
		return s, err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", krewManifest, err)
	}
	return o.write("krew-multi-eni.yaml", []byte(filled))
}

const krewVersion = "v0.0.0"

func krew(manifest, version string, sum func(file string) (string, error)) (string, error) {
	if !strings.Contains(manifest, "version: "+krewVersion+"\n") {
		return "", fmt.Errorf("no line \"version: %s\"", krewVersion)
	}
	lines := strings.Split(strings.ReplaceAll(manifest, krewVersion, version), "\n")
	waiting, filled := "", 0
	for i, line := range lines {
		key, value, _ := strings.Cut(strings.TrimLeft(line, " -"), ": ")
		switch key {
		case "uri":
			waiting = value[strings.LastIndex(value, "/")+1:]
		case "sha256":
			got, err := sum(strings.Trim(waiting, `"`))
			if err != nil {
				return "", fmt.Errorf("checksum of uri %q: %w", waiting, err)
			}
			indent, _, _ := strings.Cut(line, "sha256")
			lines[i] = indent + "sha256: " + got
			waiting = ""
			filled++
		}
	}
	if waiting != "" || filled == 0 {
		return "", fmt.Errorf("no sha256 after uri %q", waiting)
	}
	return strings.Join(lines, "\n"), nil
}

func addNotes(o options) error {
	section, err := notes(o)
	if err != nil {
		return err
	}
	digest, err := imageDigest(o.image)
	if err != nil {
		return err
	}
	install := fmt.Sprintf(`## Install

    helm install multi-eni-cni %s -n kube-system

or `+"`kubectl apply --server-side -f install.yaml`"+`. The image is `+"`%s:%s`"+`, linux/amd64 and linux/arm64, with the digest
`+"`%s`"+`. Check downloaded files by `+"`sha256sum --ignore-missing -c SHA256SUMS`"+`.

`, chartFile(o.version), o.repository, o.version, digest)
	return o.write("RELEASE_NOTES.md", []byte("# multi-eni-cni "+o.version+"\n\n"+install+section))
}

// addChecksums adds the checksums of all other files, as sha256sum -c reads them.
func addChecksums(o options) error {
	entries, err := os.ReadDir(o.out)
	if err != nil {
		return err
	}
	var lines []string
	for _, e := range entries {
		s, err := sum(filepath.Join(o.out, e.Name()))
		if err != nil {
			return err
		}
		lines = append(lines, s+"  "+e.Name()+"\n")
	}
	slices.Sort(lines)
	return o.write(checksums, []byte(strings.Join(lines, "")))
}
