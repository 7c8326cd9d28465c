package hostnet

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
)

// NetworkManagerVerdict says whether NetworkManager's files leave the link alone, by [keyfile] unmanaged-devices= (NetworkManager.conf(5)).
// Files of /usr/lib and /run come first, then NetworkManager.conf, then conf.d of /etc; the last assignment wins.
func NetworkManagerVerdict(host fs.FS, l Link) (Verdict, error) {
	if !visible(host, "etc/NetworkManager") {
		return Verdict{}, ErrNotVisible
	}
	// A name in /etc hides the same name in /run and /usr/lib.
	const etc, run, lib = "etc/NetworkManager/conf.d", "run/NetworkManager/conf.d", "usr/lib/NetworkManager/conf.d"
	all, err := read(host, ".conf", etc, run, lib)
	if err != nil {
		return Verdict{}, err
	}
	mine := func(f found) bool { return strings.HasPrefix(f.path, "/"+etc+"/") }
	own := slices.DeleteFunc(slices.Clone(all), func(f found) bool { return !mine(f) })
	files := slices.DeleteFunc(all, mine)
	f, err := readFile(host, "etc/NetworkManager/NetworkManager.conf")
	if err == nil {
		files = append(files, f)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return Verdict{}, err
	}
	files = append(files, own...)
	var specs []string
	var v Verdict
	for _, f := range files {
		for _, a := range f.values {
			if a.section != "keyfile" {
				continue
			}
			switch a.key {
			case "unmanaged-devices":
				specs = nil
			case "unmanaged-devices+":
			default:
				continue
			}
			specs = append(specs, strings.FieldsFunc(a.value, func(r rune) bool { return r == ',' || r == ';' })...)
			v.File = f.path
		}
	}
	switch matchSpecs(specs, l) {
	case yes:
		v.Unmanaged = true
	case unsure:
		v.Unsure = []string{v.File}
		v.File = ""
	case no:
		v.File = ""
	}
	return v, nil
}

// matchSpecs is NetworkManager's match of a device: an "except:" that matches means no. Otherwise a specification that matches means yes.
func matchSpecs(specs []string, l Link) answer {
	result := no
	for _, spec := range specs {
		spec, except := strings.CutPrefix(strings.TrimSpace(spec), "except:")
		hit := matchSpec(spec, l)
		switch {
		case !except:
			result = max(result, hit)
		case hit == yes:
			return no
		}
	}
	return result
}

func matchSpec(spec string, l Link) answer {
	if strings.Contains(spec, `\`) {
		return unsure
	}
	kind, value, found := strings.Cut(spec, ":")
	switch {
	case spec == "*":
		return yes
	case found && kind == "interface-name":
		if exact, is := strings.CutPrefix(value, "="); is {
			return glob(exact, l.Name)
		}
		return glob(strings.TrimPrefix(value, "~"), l.Name)
	case found && kind == "driver":
		name, _, _ := strings.Cut(value, "/") // a version may follow
		return glob(name, l.Driver)
	case found && kind == "type":
		return map[bool]answer{true: yes, false: no}[value == "ethernet"]
	case found && kind == "mac", strings.Count(spec, ":") == 5:
		return map[bool]answer{true: yes, false: no}[strings.EqualFold(strings.TrimPrefix(spec, "mac:"), l.MAC)]
	case !found:
		return glob(spec, l.Name)
	}
	return unsure
}
